"""A pod that is taken away in the middle of its training: the next one goes on from the checkpoint."""

import json
import threading
import time
from pathlib import Path

from botocore.exceptions import ClientError

from tests.e2e.conftest import PATIENCE, Platform, Raw
from tests.e2e.troubled_trainer import STEP

STEPS = 40


def await_checkpoint(platform: Platform, name: str, folder: Path) -> None:
    """Until a checkpoint of the job is complete."""
    until, pause = time.monotonic() + PATIENCE, threading.Event()
    while not _complete(platform, name, folder):
        assert time.monotonic() < until, "no checkpoint was written"
        pause.wait(0.05)


def _complete(platform: Platform, name: str, folder: Path) -> bool:
    """Whether there is a whole checkpoint of the job."""
    try:
        files = platform.s3.get_directory(f"s3://team-a/out/{name}/", folder)
    except ClientError:  # one that was listed has been removed meanwhile
        return False
    return any(file.name == "manifest.json" for file in files)


def evict(platform: Platform, job: Raw) -> None:
    """As a node does that is drained."""
    [pod] = platform.pods_of(job)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}/eviction"
    platform.call(platform.cluster.client.create(path, eviction))


def test_a_pod_that_is_evicted_is_replaced_by_one_that_goes_on(
    platform: Platform, colours: str, tmp_path: Path
) -> None:
    training = {"maxSteps": STEPS, "batchSize": 16, "learningRate": 0.01, "maxLength": 64}
    manifest = platform.manifest("evicted", colours, training=training, checkpoint={"everySteps": 10})
    job = platform.get(platform.apply(manifest))
    await_checkpoint(platform, "evicted", tmp_path / "seen")
    evict(platform, job)
    status = platform.wait("evicted")["status"]
    assert status["phase"] == "Succeeded", status["message"]
    files = platform.s3.get_directory("s3://team-a/out/evicted/", tmp_path / "published")
    [report] = [json.loads(file.read_bytes()) for file in files if file.name == "report.json"]
    [resumed_at] = report["resumedAt"]
    assert 10 <= resumed_at <= STEP
    assert [step["step"] for step in report["steps"]] == list(range(1, STEPS + 1))
    assert not [file for file in files if "checkpoints" in file.parts]
    first, second = status["attempts"]
    assert (first["reason"], second["reason"], second["resumedAtStep"]) == ("Disrupted", "Succeeded", resumed_at)
    assert "failures" not in status
    assert "checkpoint" not in status
