"""A FineTuneJob on two nodes: two pods, each a process of its own, that meet by name and train together."""

import contextlib
import json
import signal
from pathlib import Path

import psutil
import pytest

from finetune_api import names
from finetune_local.node.addresses import address_of
from tests.e2e.conftest import Platform, Raw
from tests.e2e.test_checkpoints import await_checkpoint
from tests.e2e.test_lifecycle import change, phase

pytestmark = pytest.mark.long


STEPS = 80
TWO_NODES = {"nodes": 2, "gpusPerNode": 0, "cpu": "100m"}
LONGER: Raw = {
    "training": {"maxSteps": STEPS, "batchSize": 16, "learningRate": 0.01, "maxLength": 64},
    "checkpoint": {"everySteps": 10},
    "resources": TWO_NODES,
}


def test_a_job_on_two_nodes_learns_as_one_on_one_node(platform: Platform, colours: str, tmp_path: Path) -> None:
    for nodes in (1, 2):
        platform.apply(platform.manifest(f"nodes-{nodes}", colours, resources=TWO_NODES | {"nodes": nodes}))
    one, two = (report_of(platform, platform.wait(f"nodes-{nodes}"), tmp_path) for nodes in (1, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(two)) == 12
    pods = platform.pods_of(platform.get("nodes-2"))
    assert sorted(pod["metadata"]["annotations"][names.ANNOTATION_INDEX] for pod in pods) == ["0", "1"]
    assert len({address_of(pod) for pod in pods}) == 2


def test_a_pod_that_is_killed_ends_all_and_the_next_attempt_goes_on_from_the_checkpoint(
    platform: Platform, colours: str, tmp_path: Path
) -> None:
    name = platform.apply(platform.manifest("one-killed", colours, **LONGER))
    await_checkpoint(platform, name, tmp_path / "seen")
    trainer_of(names.child_name(name, platform.get(name)["metadata"]["uid"], 0), 1).send_signal(signal.SIGKILL)
    job = platform.wait(name)
    report = report_of(platform, job, tmp_path)
    first, second = job["status"]["attempts"]
    assert (first["reason"], second["reason"]) == ("TrainerKilled", "Succeeded")
    assert report["resumedAt"] == [second["resumedAtStep"]]
    assert 10 <= second["resumedAtStep"] < STEPS
    assert len(losses(report)) == STEPS
    assert job["status"]["failures"] == 1


def test_all_pods_of_a_suspended_job_end_together_and_save_where_they_were(
    platform: Platform, colours: str, tmp_path: Path
) -> None:
    name = platform.apply(platform.manifest("both-suspended", colours, **LONGER))
    await_checkpoint(platform, name, tmp_path / "seen")
    change(platform, name, suspend=True)
    job = phase(platform, name, "Suspended")
    assert platform.pods_of(job) == []
    assert [attempt["reason"] for attempt in job["status"]["attempts"]] == ["Suspended"]
    saved = max(state["training"]["step"] for state in checkpoints_of(platform, name, tmp_path / "saved"))
    change(platform, name, suspend=False)
    report = report_of(platform, platform.wait(name), tmp_path)
    assert report["resumedAt"] == [saved]
    assert 10 <= saved < STEPS
    assert len(losses(report)) == STEPS


def checkpoints_of(platform: Platform, name: str, folder: Path) -> list[Raw]:
    """The states of those that are complete."""
    files = platform.s3.get_directory(f"s3://team-a/out/{name}/", folder)
    whole = {file.parent for file in files if file.name == "manifest.json"}
    return [json.loads(file.read_bytes()) for file in files if file.name == "state.json" and file.parent in whole]


def trainer_of(job: str, index: int) -> psutil.Process:
    """The process that trains in one pod of a Job."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if environment.get("HOSTNAME") == f"{job}-{index}" and environment.get("RANK") == str(index):
                return process
    raise AssertionError(f"nothing trains in pod {index} of Job {job}")


def report_of(platform: Platform, job: Raw, folder: Path) -> Raw:
    """The report that a job published."""
    assert job["status"]["phase"] == "Succeeded", job["status"]["message"]
    name = job["metadata"]["name"]
    files = platform.s3.get_directory(f"s3://team-a/out/{name}/", folder / name)
    [report] = [json.loads(file.read_bytes()) for file in files if file.name == "report.json"]
    return dict(report)


def losses(report: Raw) -> list[float]:
    return [step["loss"] for step in report["steps"]]
