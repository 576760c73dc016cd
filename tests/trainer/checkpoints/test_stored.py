"""The checkpoints of a job in S3: which one is gone on with, and which are removed, whatever happens."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.checkpoints.checkpoint import Fingerprint, new_name, prefix_of
from finetune_trainer.checkpoints.stored import Checkpoint, Checkpoints
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.parallel import Abandoned, Group
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.store import Store
from tests.faulty_s3 import FaultyS3, after, error

HERE = Fingerprint(run="run", data=("data",), model="model", processes=1)
THEN = HERE.model_copy(update={"data": ("older data",)})


class World:
    """A job's checkpoints, as a pod sees them."""

    def __init__(self, s3, trainer, endpoint: str | None = None) -> None:
        self.s3, self.trainer = s3, trainer
        self.config = trainer.config()
        self.prefix = prefix_of(self.config)
        store = Store(Storage(endpoint_url=endpoint or s3.url), Patience(pause_seconds=0))
        self.checkpoints = Checkpoints(self.config, store)

    def new(self, step: int) -> Checkpoint:
        """One on this machine."""
        name = new_name(step)
        directory = self.trainer.directory / "local" / name
        directory.mkdir(parents=True)
        for file in ("weights.safetensors", "optimizer.safetensors", "state.json"):
            (directory / file).write_bytes(f"{file} of step {step}".encode() * 10)
        return Checkpoint(step, directory, self.checkpoints.uri_of(name))

    def add(self, *steps: int, fingerprint: Fingerprint = HERE) -> list[Checkpoint]:
        added = [self.new(step) for step in steps]
        for checkpoint in added:
            self.checkpoints.add(checkpoint, fingerprint, Group())
        return added

    def find(self) -> Checkpoint | None:
        """What a new pod finds."""
        fresh = Checkpoints(self.config, self.checkpoints._store)
        return fresh.find(self.trainer.directory / "found", lambda: HERE)

    def steps(self) -> list[int]:
        """Of those with a manifest."""
        names = self.s3.names(self.prefix)
        return [int(name[:8]) for name in names if name.endswith("/manifest.json")]

    def put(self, checkpoint: Checkpoint, name: str, content: bytes) -> None:
        self.s3.put(f"{checkpoint.uri}{name}".removeprefix("s3://team-a/"), content)

    def delete(self, checkpoint: Checkpoint, name: str) -> None:
        key = f"{checkpoint.uri}{name}".removeprefix("s3://team-a/")
        self.s3.client.delete_object(Bucket="team-a", Key=key)

    def change_manifest(self, checkpoint: Checkpoint, **changes) -> None:
        manifest = json.loads(self.s3.get(f"{checkpoint.uri}manifest.json"))
        self.put(checkpoint, "manifest.json", json.dumps(manifest | changes).encode())


@pytest.fixture
def world(s3, trainer) -> World:
    return World(s3, trainer)


@pytest.fixture
def shaky(s3, trainer, faulty) -> World:
    """The same world through a server that misbehaves."""
    return World(s3, trainer, faulty.url)


def test_where_there_is_none_none_is_found(world):
    assert world.find() is None


def test_the_newest_is_fetched_whole(world):
    _, newest, _ = world.add(9, 100, 20)
    found = world.find()
    assert (found.step, found.uri) == (100, newest.uri)
    assert {path.name: path.read_bytes() for path in found.directory.iterdir()} == {
        path.name: path.read_bytes() for path in newest.directory.iterdir()
    }


def truncate(world: World, newest: Checkpoint) -> None:
    world.put(newest, "weights.safetensors", b"weights")


def tamper(world: World, newest: Checkpoint) -> None:
    content = (newest.directory / "weights.safetensors").read_bytes()
    world.put(newest, "weights.safetensors", content[:-1] + b"!")


def lose(world: World, newest: Checkpoint) -> None:
    world.delete(newest, "state.json")


def garble(world: World, newest: Checkpoint) -> None:
    world.put(newest, "manifest.json", b"{")


def come_from_another_job(world: World, newest: Checkpoint) -> None:
    world.change_manifest(newest, job={"namespace": "other", "name": "job", "uid": "x"})


def come_from_a_newer_image(world: World, newest: Checkpoint) -> None:
    world.change_manifest(newest, version=2)


def tell_another_step(world: World, newest: Checkpoint) -> None:
    world.change_manifest(newest, step=77)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "is not whole: 7 of 300 bytes of weights.safetensors are there"),
        (tamper, "was damaged or tampered with: s3://"),
        (lose, "is not whole: none of 210 bytes of state.json are there"),
        (garble, "has no manifest that can be read"),
        (come_from_another_job, "belongs to job other/job"),
        (come_from_a_newer_image, "is of format version 2"),
        (tell_another_step, "has a manifest of step 77"),
    ],
)
def test_one_that_cannot_be_used_is_passed_over_with_a_warning(world, caplog, damage, said):
    previous, newest = world.add(10, 20)
    damage(world, newest)
    assert world.find().uri == previous.uri
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"checkpoint {newest.uri} is passed over: it {said}")
    assert [path.name for path in (world.trainer.directory / "found").iterdir()] == [previous.directory.name]


def test_one_without_a_manifest_does_not_exist(world, caplog):
    previous, newest = world.add(10, 20)
    world.delete(newest, "manifest.json")
    assert world.find().uri == previous.uri
    assert not caplog.records


def test_one_that_vanishes_while_it_is_read_is_passed_over(shaky, faulty: FaultyS3):
    previous, newest = shaky.add(10, 20)
    faulty.spoil(after(lambda: lose(shaky, newest)), "GET", "manifest.json")
    assert shaky.find().uri == previous.uri


def test_where_the_data_changed_meanwhile_training_begins_anew(world, caplog):
    world.add(10, 20, fingerprint=THEN)
    assert world.find() is None
    assert caplog.text.count("it was made before the data changed") == 2


def test_checkpoints_that_cannot_be_used_do_not_push_out_those_that_can(world):
    world.add(100, 200, fingerprint=THEN)
    world.checkpoints.find(world.trainer.directory / "found", lambda: HERE)
    world.add(5, 10, 15)
    world.checkpoints.keep_newest(2)
    assert world.steps() == [10, 15, 100, 200]
    assert world.find().step == 15


def test_other_things_below_the_prefix_are_left_alone(world):
    world.put(Checkpoint(0, Path(), world.prefix), "notes/manifest.json", b"mine")
    world.add(1, 2, 3)
    assert world.find().step == 3
    world.checkpoints.keep_newest(1)
    world.checkpoints.remove_all()
    assert world.s3.names(world.prefix) == ["notes/manifest.json"]


def test_the_newest_are_kept(world):
    world.add(1, 2, 3, 4)
    world.checkpoints.keep_newest(2)
    assert world.steps() == [3, 4]
    assert len(world.s3.names(world.prefix)) == 8


def test_at_the_end_nothing_is_left_not_even_what_was_never_complete(world):
    _, newest = world.add(1, 2)
    world.delete(newest, "manifest.json")
    world.checkpoints.remove_all()
    assert world.s3.names(world.prefix) == []


def test_a_removal_that_is_interrupted_leaves_no_manifest_over_missing_files(shaky, faulty: FaultyS3, caplog):
    shaky.add(1, 2, 3)
    faulty.spoil(error(403, "AccessDenied"), "DELETE", "state.json", math.inf)
    shaky.checkpoints.keep_newest(1)
    assert shaky.steps() == [3]
    assert "old checkpoints are left behind" in caplog.text


def test_where_no_manifest_can_be_removed_no_file_is(shaky, faulty: FaultyS3):
    shaky.add(1, 2, 3)
    faulty.spoil(error(403, "AccessDenied"), "DELETE", "manifest.json", math.inf)
    shaky.checkpoints.remove_all()
    assert len(shaky.s3.names(shaky.prefix)) == 12


def test_the_manifest_comes_last(shaky, faulty: FaultyS3):
    shaky.add(1)
    last = faulty.of("PUT")[-1]
    assert last.path.endswith("/manifest.json")
    assert last.headers["if-none-match"] == "*"
    assert not faulty.served[faulty.served.index(last) + 1 :]


def test_an_upload_that_fails_leaves_nothing(shaky, faulty: FaultyS3):
    faulty.spoil(error(403, "AccessDenied"), "PUT", "state.json", math.inf)
    with pytest.raises(TrainerError, match="Access is denied"):
        shaky.add(1)
    assert shaky.s3.names(shaky.prefix) == []


def test_an_upload_that_is_abandoned_writes_no_manifest(shaky, faulty: FaultyS3):
    group, checkpoint = Group(), shaky.new(1)
    faulty.spoil(after(group.abandon), "HEAD", "weights.safetensors")
    with pytest.raises(Abandoned):
        shaky.checkpoints.add(checkpoint, HERE, group)
    assert shaky.steps() == []


def test_a_server_that_fails_is_no_reason_to_begin_anew(shaky, faulty: FaultyS3):
    """Another pod may find what this one cannot."""
    shaky.add(1)
    faulty.spoil(error(503, "SlowDown"), "GET", "weights.safetensors", math.inf)
    with pytest.raises(TrainerError) as caught:
        shaky.find()
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE


def test_a_file_that_is_not_given_out_is_passed_over(shaky, faulty: FaultyS3):
    shaky.add(1, 2)
    faulty.spoil(error(403, "AccessDenied"), "GET", "00000002", math.inf)
    assert shaky.find().step == 1


def test_a_checkpoint_is_fetched_without_torch():
    program = "import sys, finetune_trainer.checkpoints.stored; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
