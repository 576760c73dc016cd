"""A result is there whole or not at all, and once, however many pods try and whenever they are stopped."""

import itertools
import json
import math
import threading
from contextlib import suppress

import pytest

from finetune_api.run import ExitCode, RunResult
from finetune_api.status import Result
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.preparation.data import SourceFile
from finetune_trainer.publishing.publish import Publication, find_published
from finetune_trainer.storage.manifest import Manifest, digest_of
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.store import Store
from tests.faulty_s3 import error, garbled_request, lost_answer

DATA = (SourceFile("s3://team-a/train.jsonl", "ab" * 32, 40),)
FILES = {"adapter_model.safetensors": b"weights", "README.md": b"card"}


@pytest.fixture
def config(trainer):
    return trainer.config()


@pytest.fixture
def store(config):
    return Store(config.storage)


@pytest.fixture
def files(tmp_path):
    directory = tmp_path / "result"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    return directory


def publish(config, store, files) -> tuple[RunResult, Publication]:
    publication = Publication.begin(config, store)
    result = RunResult(outcome="Succeeded", result=Result(adapter_uri=publication.location, rank=4))
    return publication.publish(files, DATA, result), publication


def test_a_result_is_its_files_and_a_manifest_that_names_them(s3, config, store, files):
    published, publication = publish(config, store, files)
    content = s3.get(f"{config.output_prefix}manifest.json")
    assert published.result.digest == digest_of(content)
    manifest = Manifest.model_validate_json(content)
    assert manifest.location == publication.location == published.result.adapter_uri
    assert {file.path: (file.size, f"sha256:{file.sha256}") for file in manifest.files} == {
        name: (len(content), digest_of(content)) for name, content in FILES.items()
    }
    assert [(file.uri, file.sha256, file.records) for file in manifest.data] == [(DATA[0].uri, "ab" * 32, 40)]
    folder = publication.location.removeprefix(config.output_prefix)
    assert s3.names(config.output_prefix) == sorted([f"{folder}{name}" for name in FILES] + ["manifest.json"])


def test_a_second_pod_takes_over_what_the_first_has_published(s3, config, store, files):
    first, _ = publish(config, store, files)
    before = s3.names(config.output_prefix)
    second, _ = publish(config, store, files)
    assert second == first == find_published(config, store)
    assert s3.names(config.output_prefix) == before


def test_of_pods_that_publish_at_once_one_wins_and_all_tell_its_result(s3, config, files):
    results: list[RunResult] = []
    barrier = threading.Barrier(3)

    def pod() -> None:
        barrier.wait()
        results.append(publish(config, Store(config.storage), files)[0])

    pods = [threading.Thread(target=pod) for _ in range(3)]
    for thread in pods:
        thread.start()
    for thread in pods:
        thread.join()
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    folder = results[0].result.adapter_uri.removeprefix(config.output_prefix)
    assert s3.names(config.output_prefix) == sorted([f"{folder}{name}" for name in FILES] + ["manifest.json"])


def test_nothing_is_found_where_nothing_was_published(config, store):
    assert find_published(config, store) is None


@pytest.fixture
def shaky(trainer, faulty):
    """A run whose S3 server misbehaves, and its store."""
    config = trainer.config(storage={"endpointUrl": faulty.url})
    return config, Store(config.storage, Patience(pause_seconds=0, tries=3))


def manifest_matches(s3, config) -> bool:
    """Whether there is a manifest, every file of which is there as it says."""
    if "manifest.json" not in s3.names(config.output_prefix):
        return False
    manifest = Manifest.model_validate_json(s3.get(f"{config.output_prefix}manifest.json"))
    for file in manifest.files:
        assert digest_of(s3.get(f"{manifest.location}{file.path}")) == f"sha256:{file.sha256}"
    assert {file.path for file in manifest.files} == set(FILES)
    return True


def test_an_answer_that_got_lost_does_not_make_a_pod_delete_what_it_published(s3, shaky, faulty, files):
    """The write was carried out, the client repeats it, and the server says that there is a manifest: our own."""
    faulty.spoil(lost_answer, "PUT", "manifest.json")
    published, publication = publish(*shaky, files)
    assert published.result.adapter_uri == publication.location
    assert manifest_matches(s3, shaky[0])


def test_a_pod_whose_answer_got_lost_and_one_that_comes_in_between_agree(s3, config, store, shaky, faulty, files):
    """Ours was never carried out; when it is repeated another pod's is there."""
    others: list[RunResult] = []

    def overtake(exchange):
        others.append(publish(config, store, files)[0])
        exchange.reset()

    faulty.spoil(overtake, "PUT", "manifest.json")
    published, publication = publish(*shaky, files)
    assert [published] == others
    assert published.result.adapter_uri != publication.location
    assert s3.names(publication.location) == []
    assert manifest_matches(s3, config)


@pytest.mark.parametrize("spoil", [garbled_request, error(403, "AccessDenied"), error(503, "SlowDown")])
def test_no_manifest_stands_over_bytes_that_did_not_arrive(s3, shaky, faulty, files, spoil):
    faulty.spoil(spoil, "PUT", "README.md", times=math.inf)
    with pytest.raises(TrainerError, match=r"README\.md"):
        publish(*shaky, files)
    assert s3.names(shaky[0].output_prefix) == []


def test_no_manifest_stands_over_a_file_that_vanished_meanwhile(s3, shaky, faulty, files):
    def vanish(exchange):
        s3.client.delete_object(Bucket="team-a", Key=exchange.request.path.removeprefix("/team-a/"))
        exchange.answer(exchange.pass_on())

    faulty.spoil(vanish, "HEAD", "README.md", times=math.inf)
    with pytest.raises(TrainerError, match=r"README\.md: what arrived is not what was sent"):
        publish(*shaky, files)
    assert s3.names(shaky[0].output_prefix) == []


@pytest.mark.parametrize("request_number", range(6))
@pytest.mark.parametrize("carried_out", [False, True])
def test_a_connection_that_dies_for_good_at_any_request_leaves_a_whole_result_or_none(
    s3, shaky, faulty, files, request_number, carried_out
):
    """Two files with a request to write and one to look, and the manifest."""
    served, died = itertools.count(), itertools.count()

    def die(exchange):
        if next(died) == 0 and carried_out:
            exchange.pass_on()
        exchange.reset()

    faulty.spoil(die, times=math.inf, where=lambda _: next(served) >= request_number)
    with suppress(TrainerError):
        publish(*shaky, files)
    published = manifest_matches(s3, shaky[0])
    assert published == (request_number == 5 or (request_number == 4 and carried_out))


@pytest.mark.parametrize("fault", [Stopped(), TrainerError(ExitCode.STORAGE_UNAVAILABLE, "gone")])
def test_a_pod_stopped_while_it_uploads_leaves_nothing(s3, config, store, files, monkeypatch, fault):
    (files / "README.md").unlink()
    upload = Store._upload

    def stop(self, path, uri, group):
        upload(self, path, uri, group)
        raise fault

    monkeypatch.setattr(Store, "_upload", stop)
    with pytest.raises(type(fault)):
        publish(config, store, files)
    assert s3.names(config.output_prefix) == []


def test_a_pod_stopped_as_it_writes_the_manifest_leaves_the_files_that_it_may_name(
    s3, config, store, files, monkeypatch
):
    create = Store.create

    def stop(self, uri, content):
        create(self, uri, content)
        raise Stopped

    monkeypatch.setattr(Store, "create", stop)
    with pytest.raises(Stopped):
        publish(config, store, files)
    found = find_published(config, store)
    assert len(s3.names(found.result.adapter_uri)) == len(FILES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "is not a manifest of ours"),
        (b"\xff", "is not a manifest of ours"),
        ("other", "belongs to job team-a/tune"),
    ],
)
def test_somebody_elses_manifest_is_neither_trusted_nor_touched(s3, config, store, files, content, said):
    if content == "other":
        other = config.model_copy(update={"job": config.job.model_copy(update={"uid": "another"})})
        publish(other, store, files)
        content = s3.get(f"{config.output_prefix}manifest.json")
    else:
        s3.put(f"{config.output_prefix}manifest.json".removeprefix("s3://team-a/"), content)
    for attempt in (lambda: find_published(config, store), lambda: publish(config, store, files)):
        with pytest.raises(TrainerError, match=said) as caught:
            attempt()
        assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert s3.get(f"{config.output_prefix}manifest.json") == content


def test_a_manifest_is_json_for_people_too(s3, config, store, files):
    publish(config, store, files)
    content = json.loads(s3.get(f"{config.output_prefix}manifest.json"))
    assert content["kind"] == "FineTuneResult"
    assert content["result"]["result"]["rank"] == 4
    assert "digest" not in content["result"]["result"]
