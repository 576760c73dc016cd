"""What a FineTuneProfile lets a job have: what it grants, what it refuses, and in which words."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api import names
from finetune_api.job import FineTuneJob
from finetune_api.run import AdapterLocation, ModelLocation
from finetune_operator import policy
from finetune_operator.observed import JobState, Observed
from finetune_operator.outcome import Situation
from finetune_operator.policy import Refused, grant, vetted
from finetune_operator.render import AttemptPlan, job_manifest
from finetune_operator.settings import Settings
from tests import builders as b

A100 = {"name": "a100", "nodeSelector": {"gpu": "a100"}, "pricePerHour": 2.5}
L4 = {"name": "l4", "nodeSelector": {"gpu": "l4"}}
MODEL = ModelLocation(uri="hf://Qwen/Qwen2.5-0.5B-Instruct")


def profile(name: str = "gpu", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def granted(of: dict[str, Any] | None, **sections: Any) -> policy.Grant:
    if of is not None:
        sections = {"profile": of["metadata"]["name"]} | sections
    return grant(FineTuneJob.read(b.finetunejob(**sections)), of, Settings())


def refusal(of: dict[str, Any] | None, **sections: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        granted(of, **sections)
    return refused.value.failure.reason, refused.value.failure.message


def pod(of: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    return manifest(of, **sections)["spec"]["template"]["spec"]


def manifest(of: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    return job_manifest(granted(of, **sections), AttemptPlan(), MODEL, Settings(), None)


def test_without_a_profile_the_settings_decide():
    given = granted(None)
    assert (given.image, given.used) == (Settings().trainer_image, None)
    assert {"nodeSelector", "tolerations", "imagePullSecrets"}.isdisjoint(pod(None))
    assert names.ANNOTATION_PROFILE not in manifest(None)["metadata"]["annotations"]


def test_a_profile_gives_image_place_and_variables():
    of = profile(
        trainer={"image": "registry/trainer:2", "pullPolicy": "Always", "pullSecrets": ["registry"]},
        nodeSelector={"pool": "train", "gpu": "any"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        gpus=[A100, L4],
        environment=[{"name": "NCCL_DEBUG", "value": "$(HOME)$$"}],
    )
    found = pod(of, resources={"gpuType": "a100"})
    (container,) = found["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry/trainer:2", "Always")
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["nodeSelector"] == {"pool": "train", "gpu": "a100"}
    assert found["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert {"name": "NCCL_DEBUG", "value": "$$(HOME)$$$$"} in container["env"]


def test_a_variable_of_a_profile_never_takes_the_place_of_ours():
    of = {"metadata": {"name": "gpu"}, "spec": {"environment": [{"name": "TMPDIR", "value": "/"}]}}
    reason, message = refusal(of)
    assert reason == "ProfileInvalid"
    assert "environment.0" in message


@pytest.mark.parametrize(
    ("kinds", "defaults", "asked", "got"),
    [
        ([A100, L4], {}, {"gpuType": "l4"}, "l4"),
        ([A100, L4], {"gpuType": "a100"}, {}, "a100"),
        ([A100, L4], {"gpuType": "a100"}, {"gpuType": "l4"}, "l4"),
        ([L4], {}, {}, "l4"),
        ([L4], {}, {"gpusPerNode": 0}, None),
        ([], {}, {}, None),
    ],
)
def test_a_job_that_asks_for_gpus_gets_a_kind_and_its_nodes(kinds, defaults, asked, got):
    given = granted(profile(gpus=kinds, defaults=defaults), resources=asked)
    assert given.used is not None
    assert given.used.gpu_type == got
    assert (given.node_selector, given.gpu_selector) == ({}, {"gpu": got} if got else {})


@pytest.mark.parametrize(
    ("spec", "asked", "got"),
    [
        ({"defaults": {"memory": "8Gi", "cpu": 2}}, {}, ("2", "8Gi")),
        ({"defaults": {"memory": "8Gi", "cpu": 2}}, {"memory": "4Gi", "cpu": "500m"}, ("500m", "4Gi")),
        ({"limits": {"memory": "64Gi"}}, {}, ("1", "64Gi")),
        ({"limits": {"memory": "64Gi"}, "defaults": {"memory": "8Gi"}}, {}, ("1", "8Gi")),
        ({"limits": {"cpu": "500m"}}, {}, ("500m", None)),
        ({"limits": {"cpu": 2}}, {"gpusPerNode": 4}, ("2", None)),
        ({"limits": {"cpu": 8}}, {"gpusPerNode": 4}, ("4", None)),
    ],
)
def test_what_a_job_does_not_ask_for_comes_from_defaults_and_limits(spec, asked, got):
    requests = pod(profile(**spec), resources=asked)["containers"][0]["resources"]["requests"]
    assert (requests["cpu"], requests.get("memory")) == got


def test_priority_and_retries_keep_within_the_profile():
    of = profile(defaults={"priorityClass": "low"}, limits={"maxRetries": 1})
    assert pod(of)["priorityClassName"] == "low"
    assert pod(of, scheduling={"priorityClass": "high"})["priorityClassName"] == "high"
    given = granted(of, runPolicy={"maxRetries": 5})
    assert given.used.max_retries == 1


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"namespaces": ["team-b"]}, {}, "which is not for namespace team-a"),
    ({"limits": {"gpus": 2}}, {"resources": {"gpusPerNode": 4}}, "found 4 GPUs in all; allowed: at most 2"),
    ({"limits": {"gpus": 0}}, {}, "found 1 GPUs in all; allowed: at most 0"),
    ({"limits": {"cpu": 4}}, {"resources": {"cpu": "4100m"}}, "spec.resources.cpu: found 4100m; allowed: at most 4"),
    ({"limits": {"memory": "8Gi"}}, {"resources": {"memory": "9G"}}, "spec.resources.memory: found 9G; allowed"),
    (
        {"limits": {"deadline": "4h"}},
        {"runPolicy": {"deadline": "241m"}},
        "spec.runPolicy.deadline: found 241m; allowed: at most 4h",
    ),
    ({"queue": "a"}, {"scheduling": {"queue": "b"}}, "spec.scheduling.queue: found b; allowed: only a"),
    ({"gpus": [A100, L4]}, {}, "spec.resources.gpuType: found nothing; allowed: one of a100, l4"),
    ({"gpus": [A100]}, {"resources": {"gpuType": "h100"}}, "found h100; allowed: one of a100"),
    ({}, {"resources": {"gpuType": "h100"}}, "found h100; allowed: one of none"),
    ({"allowed": {"s3Prefixes": ["s3://other/"]}}, {}, "spec.data.train[0].uri: found s3://team-a/train.jsonl"),
    ({"allowed": {"s3Prefixes": ["s3://team"]}}, {}, "spec.output.uri: found s3://team-a/adapters/"),
    ({"allowed": {"s3Prefixes": ["s3://team-a/train.jsonl"]}}, {}, "spec.output.uri: found s3://team-a/adapters/"),
    ({"allowed": {"s3Prefixes": []}}, {}, "allowed: S3 prefixes none"),
    ({"allowed": {"s3Endpoints": ["https://a.example"]}}, {}, "spec.storage.endpointUrl: found nothing"),
    (
        {"allowed": {"s3Endpoints": ["https://a.example"]}},
        {"storage": {"endpointUrl": "https://a.example.evil.example"}},
        "found https://a.example.evil.example; allowed: one of https://a.example",
    ),
    (
        {"allowed": {"priorityClasses": ["low"]}},
        {"scheduling": {"priorityClass": "system-node-critical"}},
        "one of low",
    ),
    ({}, {"trainer": {"image": "evil/x"}}, "spec.trainer.image: found evil/x; allowed: images none"),
]


@pytest.mark.parametrize(("spec", "sections", "said"), REFUSED)
def test_what_a_profile_does_not_allow_is_refused_with_field_value_and_what_it_does(spec, sections, said):
    reason, message = refusal(profile(**spec), **sections)
    assert reason == "NotAllowed"
    assert said in message
    assert "FineTuneProfile gpu does not allow" in message
    assert "Next step: ask for what the profile allows" in message


def test_a_profile_for_others_does_not_tell_what_it_allows_them():
    of = profile(namespaces=["team-b"], allowed={"s3Prefixes": ["s3://secret-project/"]})
    assert "secret-project" not in refusal(of)[1]


@pytest.mark.parametrize(
    "prefixes",
    [
        ["s3://team-a"],
        ["s3://team-a/"],
        ["s3://{namespace}/"],
        ["s3://team-a/train.jsonl", "s3://team-a/adapters"],
        ["s3://other/", "s3://team-a/adapters/", "s3://team-a/train.jsonl"],
    ],
)
def test_what_lies_below_a_prefix_is_allowed(prefixes):
    granted(profile(allowed={"s3Prefixes": prefixes}))


def test_aws_can_be_an_allowed_server():
    granted(profile(allowed={"s3Endpoints": ["https://s3.amazonaws.com/"]}))


@pytest.mark.parametrize(
    ("image", "allowed", "holds"),
    [
        ("r/a:1", "r/a", True),
        ("r/a@sha256:" + "0" * 64, "r/a", True),
        ("r/a", "r/a", True),
        ("r/a:1", "r/a:1", True),
        ("r/a:2", "r/a:1", False),
        ("r/a:1@sha256:" + "0" * 64, "r/a:1", False),
        ("r/ab:1", "r/a", False),
        ("r/a/b:1", "r/a", False),
        ("r/a/b:1", "r/a/", True),
        ("r:5000/evil", "r", False),
        ("other/r/a", "r/a", False),
    ],
)
def test_an_image_is_allowed_as_a_whole_by_its_repository_or_by_a_path_above_it(image, allowed, holds):
    of = profile(allowed={"images": [allowed]})
    if holds:
        assert granted(of, trainer={"image": image}).image == image
    else:
        assert refusal(of, trainer={"image": image})[0] == "NotAllowed"


def test_the_profiles_own_image_may_be_named_where_it_lists_no_others():
    of = profile(trainer={"image": "registry/trainer"})
    found = pod(of, trainer={"image": "registry/trainer:dev", "command": ["python", "$(HOME)", "; rm -rf /"]})
    (container,) = found["containers"]
    assert container["command"] == ["python", "$$(HOME)", "; rm -rf /"]
    assert "command" not in pod(of, trainer={"image": "registry/trainer:dev"})["containers"][0]


@pytest.mark.parametrize("sections", [{"trainer": {"image": "a/b"}}, {"resources": {"gpuType": "a100"}}])
def test_what_a_profile_has_to_allow_needs_one(sections):
    reason, message = refusal(None, **sections)
    assert reason == "NotAllowed"
    assert "there is none called default" in message


def test_a_profile_that_does_not_exist_is_named():
    reason, message = refusal(None, profile="gpus")
    assert reason == "ProfileNotFound"
    assert "spec.profile: found gpus" in message


def model(uri: str, origin: str | None = None, adapters: tuple[str, ...] = ()) -> ModelLocation:
    found = tuple(AdapterLocation(uri=adapter, digest="sha256:d", job="x") for adapter in adapters)
    return ModelLocation(uri=uri, origin=origin, stack=found)


@pytest.mark.parametrize(
    ("allowed", "location", "holds"),
    [
        ({}, model("hf://any/thing"), True),
        ({"models": ["hf://Qwen/"]}, model("hf://Qwen/Qwen2.5"), True),
        ({"models": ["hf://Qwen"]}, model("hf://Qwen-evil/x"), False),
        ({"models": ["hf://"]}, model("hf://any/thing"), True),
        ({"models": ["hf://"]}, model("s3://b/m/"), False),
        ({"models": ["s3://models/"]}, model("s3://models/a/"), True),
        ({"s3Prefixes": ["s3://a/"]}, model("hf://any/thing"), True),
        ({"s3Prefixes": ["s3://a/"]}, model("s3://b/m/"), False),
        ({"s3Prefixes": ["s3://a/"], "models": ["s3://b/"]}, model("s3://b/m/"), True),
        ({"s3Prefixes": ["s3://a/"], "models": ["hf://Q/"]}, model("s3://a/out/x/", "job://x"), True),
        ({"s3Prefixes": ["s3://a/"]}, model("s3://b/out/x/", "job://x"), False),
        ({"models": ["hf://Q/"]}, model("hf://other/m", "job://x", ("s3://a/x/",)), False),
        ({"s3Prefixes": ["s3://a/"]}, model("hf://Q/m", "job://x", ("s3://a/x/", "s3://b/x/")), False),
    ],
)
def test_a_model_counts_by_where_it_and_all_that_it_was_built_on_lie(allowed, location, holds):
    given = granted(
        profile(allowed=allowed),
        data={"train": [{"uri": "s3://a/t.jsonl"}], "validationFraction": 0.1},
        output={"uri": "s3://a/out/"},
    )
    if holds:
        assert vetted(given, location) == location
    else:
        with pytest.raises(Refused, match=r"spec\.model"):
            vetted(given, location)


def test_the_job_remembers_name_digest_kind_and_price_and_nothing_about_others():
    of = profile(gpus=[A100], namespaces=["team-a", "team-b"], currency="EUR")
    written = manifest(of)["metadata"]["annotations"][names.ANNOTATION_PROFILE]
    used = {"name": "gpu", "digest": policy.digest(of), "gpuType": "a100", "pricePerHour": 2.5, "currency": "EUR"}
    assert json.loads(written) == used
    assert "team-b" not in json.dumps(manifest(of))


def test_the_digest_is_that_of_sorted_compact_json():
    """The same as `jq -jcS .spec | sha256sum`."""
    one = {"metadata": {"name": "x"}, "spec": {"b": [1, "é"], "a": {"d": 1, "c": True}}}
    other = {"metadata": {"name": "y", "generation": 7}, "spec": {"a": {"c": True, "d": 1}, "b": [1, "é"]}}
    assert policy.digest(one) == policy.digest(other)
    text = '{"a":{"c":true,"d":1},"b":[1,"é"]}'
    assert policy.digest(one) == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert policy.digest(one) != policy.digest(profile())


def test_the_job_s_own_words_never_choose_the_account_the_node_or_the_host():
    """Whatever a spec says, these stay out of a pod; all that is left to a profile is in the other tests."""
    of = profile(allowed={"images": ["r/"]}, gpus=[A100])
    found = pod(
        of,
        trainer={"image": "r/x", "command": ["sh"]},
        storage={"credentials": "s3", "endpointUrl": "https://minio"},
        model={"uri": "hf://a/b", "credentials": "hf"},
        scheduling={"priorityClass": "p"},
        resources={"gpuType": "a100", "gpusPerNode": 2, "memory": "1Gi"},
    )
    never = {"serviceAccountName", "nodeName", "hostNetwork", "hostPID", "hostIPC", "hostUsers", "runtimeClassName"}
    assert never.isdisjoint(found)
    assert {key for volume in found["volumes"] for key in volume} == {"name", "projected", "emptyDir"}
    sources = [source for volume in found["volumes"] for source in volume.get("projected", {}).get("sources", ())]
    assert {key for source in sources for key in source} <= {"downwardAPI", "serviceAccountToken"}
    (container,) = found["containers"]
    assert {"ports", "volumeDevices", "lifecycle", "envFrom", "stdin"}.isdisjoint(container)


def test_the_licences_go_to_the_trainer_which_sees_the_model_s():
    given = granted(profile(allowed={"licences": ["mit"]}))
    assert vetted(given, MODEL).licences == ("mit",)
    assert vetted(granted(profile()), MODEL).licences is None


@pytest.mark.parametrize(
    ("spec", "asked", "deadline", "stall"),
    [
        ({}, {}, None, None),
        ({"limits": {"deadline": "4h"}}, {}, "4h", None),
        ({"limits": {"deadline": "4h"}, "defaults": {"deadline": "2h"}}, {}, "2h", None),
        ({"limits": {"deadline": "4h"}, "defaults": {"deadline": "8h", "stallTimeout": "30m"}}, {}, "4h", "30m"),
        ({"defaults": {"deadline": "2h", "stallTimeout": "30m"}}, {"deadline": "3h", "stallTimeout": "1h"}, "3h", "1h"),
    ],
)
def test_deadline_and_stall_time_out_come_from_the_job_or_else_from_what_its_job_remembers(
    spec, asked, deadline, stall
):
    raw = b.finetunejob(profile="gpu", runPolicy=asked)
    job = job_manifest(
        grant(FineTuneJob.read(raw), profile(**spec), Settings()), AttemptPlan(0), MODEL, Settings(), None
    )
    job["metadata"] |= {"uid": "u", "creationTimestamp": b.CREATED}
    observed = Observed(job=JobState.of(job))
    found = Situation(raw, observed, datetime(2026, 11, 21, tzinfo=UTC), Settings(), None).policy
    assert (found.deadline, found.stall_timeout) == (deadline, stall)


def test_the_queue_of_a_profile_is_that_of_its_jobs():
    written = manifest(profile(queue="team-a"))
    assert written["metadata"]["labels"][names.LABEL_QUEUE] == "team-a"
    assert written["spec"]["suspend"] is True
