"""A team's own program runs in place of ours and reports its progress with no change to it."""

from pathlib import Path

from finetune_api import names

from .conftest import Platform

PROGRAM = Path(__file__).with_name("own_trainer.py")
IMAGE = "registry.example/team-a/own:1"


def test_transformers_trainer_reports_its_progress_unmodified(platform: Platform, guesses: str) -> None:
    profile = {
        "apiVersion": names.API_VERSION,
        "kind": names.PROFILE_KIND,
        "metadata": {"name": "own"},
        "spec": {"allowed": {"images": ["registry.example/team-a/"]}},
    }
    platform.call(platform.cluster.client.create(f"/apis/{names.API_VERSION}/{names.PROFILE_PLURAL}", profile))
    manifest = platform.manifest(
        "own", guesses, profile="own", trainer={"image": IMAGE, "command": ["python", str(PROGRAM)]}
    )
    job = platform.wait(platform.apply(manifest))
    status = job["status"]
    assert status["phase"] == "Succeeded", status["message"]
    assert status["message"] == f"The program of image {IMAGE} ended well."
    progress = status["progress"]
    assert progress["percent"] == 100
    assert progress["loss"] > 0, "of the last report: the program left no other word"
    assert progress["heartbeat"]
    assert status["attempts"][0]["profile"]["name"] == "own"
    (pod,) = platform.pods_of(job)
    assert pod["spec"]["containers"][0]["image"] == IMAGE
