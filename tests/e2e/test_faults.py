"""Wrong input, end to end: the phase, the reason and the sentence that its user reads, and nothing half-published."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests import tiny
from tests.e2e.conftest import JOBS, Platform, Raw

GOOD = [{"prompt": f"{i} ", "completion": "yes"} for i in range(8)]


@dataclass(frozen=True)
class Case:
    """One mistake: what is changed in a good job, and what the status must say."""

    name: str
    reason: str
    said: tuple[str, ...]
    sections: dict[str, Any]


def broken(platform: Platform) -> str:
    content = tiny.json_lines(*GOOD[:2]) + b'{"prompt": "3 ", "completion": \n' + tiny.json_lines(*GOOD)
    return platform.upload("s3://team-a/broken.jsonl", content)


def cases(platform: Platform) -> list[Case]:
    """Each says which field or line is wrong, what was found, and the next step."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        platform.s3.put_file(f"s3://team-a/pickled/{name}", platform.folder / "base" / name)
    platform.upload("s3://team-a/pickled/pytorch_model.bin", b"\x80\x04.")
    storage = {"endpointUrl": "http://127.0.0.1:9", "credentials": "s3"}
    split = {"validationFraction": 0.5}
    return [
        Case(
            "bad-line",
            "DataInvalid",
            ("broken.jsonl line 3",),
            {"data": split | {"train": [{"uri": broken(platform)}]}},
        ),
        Case(
            "bad-key",
            "StorageRefused",
            ("s3://team-a/missing.jsonl", "does not exist"),
            {"data": split | {"train": [{"uri": "s3://team-a/missing.jsonl"}]}},
        ),
        Case(
            "bad-weights",
            "ModelInvalid",
            ("s3://team-a/pickled/", "safetensors"),
            {"model": {"uri": "s3://team-a/pickled/"}},
        ),
        Case("bad-endpoint", "StorageUnavailable", ("spec.storage.endpointUrl",), {"storage": storage}),
        Case("bad-source", "ModelJobNotFound", ("job://nobody", "default"), {"model": {"uri": "job://nobody"}}),
    ]


@pytest.fixture(scope="module")
def failed(platform: Platform) -> dict[str, tuple[Case, Raw]]:
    """All of them at once, each to its end."""
    good = platform.upload("s3://team-a/good.jsonl", tiny.json_lines(*GOOD))
    wrong = cases(platform)
    for case in wrong:
        sections = {"runPolicy": {"maxRetries": 0}} | case.sections
        platform.apply(platform.manifest(case.name, good, **sections))
    return {case.name: (case, platform.wait(case.name)) for case in wrong}


@pytest.mark.parametrize("name", ["bad-line", "bad-key", "bad-weights", "bad-endpoint", "bad-source"])
def test_a_mistake_ends_in_a_reason_and_a_sentence_that_names_it(
    failed: dict[str, tuple[Case, Raw]], name: str
) -> None:
    case, job = failed[name]
    status = job["status"]
    ready = next(condition for condition in status["conditions"] if condition["type"] == "Ready")
    assert (status["phase"], ready["status"], ready["reason"]) == ("Failed", "False", case.reason)
    for words in case.said:
        assert words in status["message"]
    assert "Traceback" not in status["message"]


def test_nothing_is_published_for_a_job_that_failed(platform: Platform, failed: dict[str, tuple[Case, Raw]]) -> None:
    for name in failed:
        assert platform.s3.get_directory(f"s3://team-a/out/{name}/", platform.folder / "nothing") == []


def test_a_missing_secret_is_named_while_the_job_waits_for_it(platform: Platform, colours: str) -> None:
    storage = {"endpointUrl": platform.cluster.s3.endpoint_url, "credentials": "later"}
    name = platform.apply(platform.manifest("waits", colours, storage=storage))

    def told(job: Raw) -> bool:
        conditions = (job.get("status") or {}).get("conditions") or ()
        return any(condition["reason"] == "ContainerConfigError" for condition in conditions)

    waiting = platform.wait(name, told)
    assert waiting["status"]["phase"] == "Starting"
    assert 'secret "later" not found' in waiting["status"]["message"]

    platform.create_secret("later")
    platform.wait(name, lambda job: job["status"]["phase"] == "Running")
    platform.call(platform.cluster.client.delete(f"{JOBS}/{name}"))
