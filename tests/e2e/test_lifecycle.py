"""Jobs that are stopped, go on, or get into trouble on the way: each with the real trainer, to its end."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import JOBS, Platform, Raw
from tests.e2e.test_checkpoints import await_checkpoint
from tests.e2e.troubled_trainer import STEP

STEPS = 40
TRAINING = {"maxSteps": STEPS, "batchSize": 16, "learningRate": 0.01, "maxLength": 64}


def begin(platform: Platform, name: str, colours: str) -> None:
    platform.apply(platform.manifest(name, colours, training=TRAINING, checkpoint={"everySteps": 10}))


def change(platform: Platform, name: str, **fields: bool) -> None:
    platform.call(platform.cluster.client.patch(f"{JOBS}/{name}", {"spec": fields}))


def phase(platform: Platform, name: str, wanted: str) -> Raw:
    return platform.wait(name, lambda job: job.get("status", {}).get("phase") == wanted)


def report(platform: Platform, name: str, folder: Path) -> Raw:
    """The full report of what was published, once it is sure that no checkpoint is left."""
    files = platform.s3.get_directory(f"s3://team-a/out/{name}/", folder)
    assert not [file for file in files if "checkpoints" in file.parts]
    [found] = [json.loads(file.read_bytes()) for file in files if file.name == "report.json"]
    return found


def test_a_job_that_is_suspended_frees_its_node_and_goes_on_from_where_it_was(
    platform: Platform, colours: str, tmp_path: Path
) -> None:
    begin(platform, "suspended", colours)
    await_checkpoint(platform, "suspended", tmp_path / "seen")
    change(platform, "suspended", suspend=True)
    job = phase(platform, "suspended", "Suspended")
    assert platform.pods_of(job) == []
    change(platform, "suspended", suspend=False)
    status = platform.wait("suspended")["status"]
    assert status["phase"] == "Succeeded", status["message"]
    first, second = status["attempts"]
    assert (first["reason"], second["reason"]) == ("Suspended", "Succeeded")
    assert "failures" not in status
    found = report(platform, "suspended", tmp_path / "published")
    assert found["resumedAt"] == [second["resumedAtStep"]]
    assert 10 <= second["resumedAtStep"] <= STEP
    assert [step["step"] for step in found["steps"]] == list(range(1, STEPS + 1))


def test_a_job_that_is_cancelled_ends_with_its_record_and_publishes_nothing(platform: Platform, colours: str) -> None:
    begin(platform, "cancelled", colours)
    phase(platform, "cancelled", "Running")
    change(platform, "cancelled", cancel=True)
    job = platform.wait("cancelled")
    assert job["status"]["phase"] == "Cancelled"
    assert [attempt["reason"] for attempt in job["status"]["attempts"]] == ["Cancelled"]
    assert "result" not in job["status"]
    assert platform.pods_of(job) == []


@pytest.mark.parametrize(
    ("name", "reason", "said", "divisors"),
    [("hungry", "OutOfMemory", "CUDA out of memory", [1, 2]), ("unlucky", "TrainerKilled", "SIGKILL", [1, 1])],
)
def test_a_failure_that_another_attempt_mends_costs_the_steps_since_the_last_checkpoint(
    platform: Platform, colours: str, tmp_path: Path, name: str, reason: str, said: str, divisors: list[int]
) -> None:
    begin(platform, name, colours)
    status = platform.wait(name)["status"]
    assert status["phase"] == "Succeeded", status["message"]
    first, second = status["attempts"]
    assert (first["reason"], second["reason"], status["failures"]) == (reason, "Succeeded", 1)
    assert said in first["message"]
    assert [attempt.get("microBatchDivisor", 1) for attempt in status["attempts"]] == divisors
    assert datetime.fromisoformat(second["startedAt"]) > datetime.fromisoformat(first["finishedAt"]), "it waited"
    found = report(platform, name, tmp_path / "published")
    assert found["resumedAt"] == [second["resumedAtStep"]]
    assert second["resumedAtStep"] in (10, 20)
    assert [step["step"] for step in found["steps"]] == list(range(1, STEPS + 1))
