"""A job that is checked first, end to end: what the check refuses is never trained on, and what it passes is."""

from finetune_api import names
from tests import tiny
from tests.e2e.conftest import Platform, Raw
from tests.e2e.test_faults import broken


def kinds(platform: Platform, job: Raw) -> list[bool]:
    """Of each pod, oldest first, whether it only checks."""
    pods = sorted(platform.pods_of(job), key=lambda pod: int(pod["metadata"]["labels"][names.LABEL_ATTEMPT]))
    return [names.LABEL_CHECK in pod["metadata"]["labels"] for pod in pods]


def test_a_bad_line_never_starts_a_training(platform: Platform) -> None:
    data = {"validationFraction": 0.5, "train": [{"uri": broken(platform)}]}
    job = platform.wait(platform.apply(platform.manifest("unchecked", "", data=data, preflight="Always")))
    status = job["status"]
    assert (status["phase"], status["conditions"][0]["reason"]) == ("Failed", "DataInvalid")
    assert "broken.jsonl line 3" in status["message"]
    assert kinds(platform, job) == [True]
    assert "check" not in status


def test_what_is_sound_goes_by_its_check_to_its_end(platform: Platform, colours: str) -> None:
    held = [{"prompt": "red 0: ", "completion": "one"}, {"prompt": "red 99: ", "completion": "one"}]
    validation = platform.upload("s3://team-a/held.jsonl", tiny.json_lines(*held))
    data = {"train": [{"uri": colours}], "validation": [{"uri": validation}]}
    training = {"maxSteps": 2, "batchSize": 8, "maxLength": 64}
    manifest = platform.manifest("sound", colours, data=data, training=training, preflight="Always")
    name = platform.apply(manifest)
    validating = platform.wait(name, lambda job: job.get("status", {}).get("phase") == "Validating")
    assert kinds(platform, validating) in ([], [True])
    job = platform.wait(name)
    status = job["status"]
    assert status["phase"] == "Succeeded", status["message"]
    assert kinds(platform, job) == [True, False]
    check = status["check"]
    assert (check["records"], check["validationRecords"], check["duplicates"], check["leftOut"]) == (160, 2, 1, 0)
    assert check["tokens"] > 160
    assert check["cut"] == 0
    assert [(a.get("check"), a["reason"]) for a in status["attempts"]] == [(True, "Checked"), (None, "Succeeded")]
    assert status["result"]["adapterURI"].startswith("s3://team-a/out/sound/")
