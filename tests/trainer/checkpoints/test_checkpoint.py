"""What makes a checkpoint one that can be gone on with."""

import json

import pytest

from finetune_api.run import CHECKPOINTS, RunConfig
from finetune_trainer.checkpoints.checkpoint import (
    CheckpointManifest,
    Fingerprint,
    Unusable,
    new_name,
    prefix_of,
    step_of,
)
from finetune_trainer.preparation.data import SourceFile


@pytest.fixture
def config(trainer) -> RunConfig:
    return trainer.config()


def manifest_of(config, **changes) -> bytes:
    content = {
        "kind": "FineTuneCheckpoint",
        "version": 1,
        "job": config.job.to_dict(),
        "attempt": config.attempt,
        "step": 7,
        "created": "2026-11-21T12:00:00+00:00",
        "fingerprint": {"run": "a", "data": ["b"], "model": "c", "processes": 1},
        "files": [{"path": "state.json", "size": 2, "sha256": "d"}],
    }
    return json.dumps(content | changes).encode()


def test_a_manifest_is_read_as_it_was_written(config):
    manifest = CheckpointManifest.read(manifest_of(config, laterField=1), config)
    assert CheckpointManifest.read(manifest.to_bytes(), config) == manifest
    assert (manifest.step, manifest.files[0].path) == (7, "state.json")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "FineTuneResult"}, "has no manifest that can be read"),
        ({"job": {"namespace": "other", "name": "job", "uid": "x"}}, "belongs to job other/job"),
        ({"version": 2, "fingerprint": "of another kind"}, "is of format version 2, this trainer image reads 1"),
        ({"files": []}, "has no manifest that can be read"),
        ({"files": [{"path": "../state.json", "size": 2, "sha256": "d"}]}, "has no manifest that can be read"),
        ({"step": "many"}, "has no manifest that can be read"),
    ],
)
def test_a_manifest_that_is_not_of_this_job_says_what_it_is(config, changes, why):
    with pytest.raises(Unusable, match=why):
        CheckpointManifest.read(manifest_of(config, **changes), config)


def test_a_manifest_of_an_earlier_attempt_is_one_of_the_job(config):
    assert CheckpointManifest.read(manifest_of(config, attempt=3), config).attempt == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a":' * 100_000])
def test_what_is_no_manifest_at_all_is_refused(config, content):
    with pytest.raises(Unusable, match="has no manifest that can be read"):
        CheckpointManifest.read(content, config)


DATA = (SourceFile("s3://b/a", "1", 10), SourceFile("s3://b/b", "2", 10))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": (DATA[0], SourceFile("s3://b/b", "3", 10))}, "was made before the data changed"),
        ({"data": DATA[:1], "model": "w"}, "was made before the data and the base model changed"),
        ({"processes": 2}, "was made before the number of processes changed"),
    ],
)
def test_a_checkpoint_of_another_training_says_what_changed(config, changes, why):
    arguments = {"data": DATA, "model": "v", "processes": 1}
    here = Fingerprint.of(config, **arguments)
    here.require(Fingerprint.of(config, **arguments))
    with pytest.raises(Unusable, match=why):
        Fingerprint.of(config, **arguments | changes).require(here)


def test_another_run_file_is_another_training(config, trainer):
    here = Fingerprint.of(config, DATA, "v")
    with pytest.raises(Unusable, match="before the run file changed"):
        Fingerprint.of(trainer.config(training={"seed": 1}), DATA, "v").require(here)


def test_another_attempt_is_the_same_training_however_much_it_lets_through_at_a_time(config):
    later = config.model_copy(update={"attempt": 3, "micro_batch_divisor": 4})
    Fingerprint.of(later, DATA, "v").require(Fingerprint.of(config, DATA, "v"))


def test_names_sort_by_step_and_are_nobody_elses(config):
    names = [new_name(step) for step in (0, 9, 10, 9_999_999, 10_000_000)]
    assert sorted(names) == names
    assert [step_of(name) for name in names] == [0, 9, 10, 9_999_999, 10_000_000]
    assert new_name(1) != new_name(1)
    assert [step_of(name) for name in ("", "00000001", "manifest.json", "1-00000000", "00000001-0000000g")] == [
        None
    ] * 5
    assert prefix_of(config) == f"{config.output_prefix}{CHECKPOINTS}"
