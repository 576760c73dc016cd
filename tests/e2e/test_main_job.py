"""From YAML to an adapter: the main job and what its user reads at the end."""

import hashlib
import json
import os
import select
from datetime import datetime
from pathlib import Path

import pytest

from finetune_api import names
from finetune_operator.settings import Settings
from tests.e2e.conftest import JOBS, PATIENCE, Platform, Raw

_NOT_COUNTED = ("events", "leases", "tokenreviews", "secrets")
"""What is no write of a job: Events, the operator's own Lease and certificate, token checks."""


@pytest.fixture(scope="module")
def base(platform: Platform, guesses: str) -> Raw:
    """A job that tunes all weights, to its end."""
    training = {"maxSteps": 150, "batchSize": 16, "learningRate": 0.003, "maxLength": 64}
    manifest = platform.manifest("colours-base", guesses, method={"adapter": "none"}, training=training)
    return platform.wait(platform.apply(manifest))


@pytest.fixture(scope="module")
def tuned(platform: Platform, colours: str, base: Raw) -> Raw:
    """A job that puts an adapter on the result of the first, to its end."""
    sections = {
        "model": {"uri": "job://colours-base"},
        "method": {"lora": {"rank": 8}},
        "training": {"maxSteps": 200, "batchSize": 16, "learningRate": 0.01, "maxLength": 64},
        "evaluation": {"samples": 2, "maxNewTokens": 8},
    }
    return platform.wait(platform.apply(platform.manifest("colours", colours, **sections)))


def metric(job: Raw, name: str) -> Raw:
    return next(metric for metric in job["status"]["metrics"] if metric["name"] == name)


def condition(job: Raw, kind: str) -> str:
    return next(c["status"] for c in job["status"]["conditions"] if c["type"] == kind)


def test_a_full_tuning_publishes_a_model(base: Raw) -> None:
    assert base["status"]["phase"] == "Succeeded", base["status"]["message"]
    assert base["status"]["result"]["modelURI"].startswith("s3://team-a/out/colours-base/")


def test_an_adapter_is_tuned_on_the_result_of_another_job(tuned: Raw, base: Raw) -> None:
    assert tuned["status"]["phase"] == "Succeeded", tuned["status"]["message"]
    assert tuned["status"]["result"]["adapterURI"].startswith("s3://team-a/out/colours/")
    assert tuned["status"]["result"]["baseModel"] == "job://colours-base"
    assert tuned["status"]["result"]["rank"] == 8


def test_the_status_shows_how_much_better_the_tuned_model_is_than_its_base(tuned: Raw) -> None:
    loss = metric(tuned, "eval_loss")
    assert loss["value"] < loss["baseline"] - 0.2
    assert metric(tuned, "token_accuracy")["value"] > metric(tuned, "token_accuracy")["baseline"]
    headline = tuned["status"]["headline"]
    assert (headline["progress"], headline["metric"]) == ("100%", "eval_loss")
    assert headline["baseToTuned"] == f"{loss['baseline']:.2f}→{loss['value']:.2f}"


def test_the_conditions_tell_kubectl_wait_and_argo_cd_that_it_is_done(tuned: Raw) -> None:
    kinds = ("Ready", "Reconciling", "Stalled", "Validated", "Trained", "Evaluated", "Published")
    assert [condition(tuned, kind) for kind in kinds] == ["True", "False", "False", "True", "True", "True", "True"]
    assert tuned["status"]["observedGeneration"] == tuned["metadata"]["generation"]


def test_the_published_adapter_loads_with_transformers_and_peft_alone(
    platform: Platform, tuned: Raw, base: Raw, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    platform.s3.get_directory(base["status"]["result"]["modelURI"], tmp_path / "base")
    platform.s3.get_directory(tuned["status"]["result"]["adapterURI"], tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    prompt = tokenizer("green 3: ", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "two"


def test_the_manifest_holds_the_digest_of_every_published_file(platform: Platform, tuned: Raw, tmp_path: Path) -> None:
    location = tuned["status"]["result"]["adapterURI"]
    attempt = location.rstrip("/").rpartition("/")[0]
    platform.s3.get_directory(f"{attempt}/", tmp_path)
    manifest = (tmp_path / "manifest.json").read_bytes()
    assert tuned["status"]["result"]["digest"] == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    folder = tmp_path / location.rstrip("/").rpartition("/")[2]
    listed = {file["path"]: file["sha256"] for file in json.loads(manifest)["files"]}
    assert listed == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "report.json"} <= listed.keys()


def test_a_successful_job_costs_at_most_five_writes_and_none_after_its_end(platform: Platform, tuned: Raw) -> None:
    """And one for each time that progress may be written, where a machine is so slow that it takes longer."""
    writes = [
        request
        for request in platform.cluster.api_server.requests
        if request.user.endswith(":finetune-operator")
        and request.verb in ("create", "update", "patch", "delete")
        and request.resource not in _NOT_COUNTED
    ]
    selector = f"{names.LABEL_JOB_UID}={tuned['metadata']['uid']}"
    jobs = platform.call(platform.cluster.client.get("/apis/batch/v1/jobs", labelSelector=selector))["items"]
    status_writes = [request for request in writes if request.name == tuned["metadata"]["name"]]
    began, ended = (datetime.fromisoformat(tuned["status"][name]) for name in ("startTime", "completionTime"))
    assert len(jobs) + len(status_writes) <= 5 + (ended - began).seconds // int(Settings().progress_interval)
    assert platform.get("colours")["metadata"]["resourceVersion"] == tuned["metadata"]["resourceVersion"]


def test_the_events_tell_the_story_in_order(platform: Platform, tuned: Raw) -> None:
    path = "/api/v1/namespaces/default/events"
    events = platform.call(platform.cluster.client.get(path))["items"]
    told = [event for event in events if event["involvedObject"]["uid"] == tuned["metadata"]["uid"]]
    reasons = [event["reason"] for event in sorted(told, key=lambda event: int(event["metadata"]["resourceVersion"]))]
    assert (reasons[0], reasons[-1]) == ("JobCreated", "Succeeded")


def processes_of(platform: Platform, job: Raw) -> list[int]:
    """The processes of a job's pods, found by the run file in their arguments."""
    uids = [pod["metadata"]["uid"] for pod in platform.pods_of(job)]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "finetune_trainer" in arguments and any(uid in arguments for uid in uids):
                found.append(int(entry.name))
    assert found
    return found


def test_deleting_a_job_ends_its_trainer(platform: Platform, colours: str) -> None:
    training = {"maxSteps": 100_000, "batchSize": 8, "maxLength": 64}
    name = platform.apply(platform.manifest("deleted", colours, training=training))
    job = platform.wait(name, lambda job: job.get("status", {}).get("phase") == "Running")
    ends = [os.pidfd_open(pid) for pid in processes_of(platform, job)]
    platform.call(platform.cluster.client.delete(f"{JOBS}/{name}"))
    for end in ends:
        assert select.select([end], [], [], PATIENCE)[0], "a trainer goes on after its job was deleted"
        os.close(end)
