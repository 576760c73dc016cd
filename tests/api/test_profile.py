"""FineTuneProfile: what its definition and its models take, and which variables it may set."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api import environment
from finetune_api.crd import profile_definition
from finetune_api.plain import odd_in_uri, plain_text
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.quantity import amount
from finetune_local.apiserver import cel, schema
from finetune_local.node.environment import expand

VERSION = profile_definition()["spec"]["versions"][0]
SPEC = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]
GPU = {"name": "a100", "nodeSelector": {"gpu": "a100"}}
WHOLE: dict[str, Any] = {
    "namespaces": ["team-a"],
    "trainer": {"image": "registry.example/trainer:1", "pullPolicy": "Always", "pullSecrets": ["registry"]},
    "nodeSelector": {"pool": "train"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists"}],
    "gpus": [GPU | {"memoryGiB": 80, "pricePerHour": 2.5}],
    "currency": "EUR",
    "queue": "team-a",
    "limits": {"gpus": 8, "nodes": 2, "cpu": 64, "memory": "512Gi", "maxRetries": 3, "deadline": "24h"},
    "allowed": {
        "s3Prefixes": ["s3://team-a/", "s3://shared/{namespace}"],
        "s3Endpoints": ["https://minio.example:9000"],
        "images": ["registry.example/team-a/"],
        "models": ["hf://Qwen/", "hf://"],
        "licences": ["apache-2.0"],
        "priorityClasses": ["low"],
    },
    "environment": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "defaults": {
        "gpuType": "a100",
        "cpu": 8,
        "memory": "64Gi",
        "priorityClass": "low",
        "deadline": "8h",
        "stallTimeout": "1h",
    },
}


def by_the_crd(spec: dict[str, Any]) -> list[str]:
    spec = copy.deepcopy(spec)
    if unknown := schema.prune(spec, SPEC):
        return unknown
    schema.apply_defaults(spec, SPEC)
    return [cause.message for cause in schema.validate(spec, SPEC) or cel.check(spec, None, SPEC)]


def by_the_models(spec: dict[str, Any]) -> str:
    try:
        FineTuneProfileSpec.model_validate(spec)
    except ValidationError as e:
        return str(e)
    return ""


@pytest.mark.parametrize("spec", [{}, WHOLE, *({name: part} for name, part in WHOLE.items() if name != "defaults")])
def test_both_take_what_is_right(spec: dict[str, Any]):
    assert not by_the_crd(spec)
    assert not by_the_models(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {"unknown": 1},
        {"namespaces": []},
        {"namespaces": ["Team A"]},
        {"trainer": {"image": "a b"}},
        {"tolerations": [{}]},
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        {"gpus": [GPU, GPU]},
        {"gpus": [GPU | {"pricePerHour": -1}]},
        {"gpus": [{"name": "a100"}]},
        {"defaults": {"gpuType": "h100"}, "gpus": [GPU]},
        {"defaults": {"gpuType": "a100"}},
        {"environment": [{"name": "A", "value": ""}, {"name": "A", "value": ""}]},
        {"environment": [{"name": "A B", "value": ""}]},
        {"allowed": {"s3Prefixes": ["team-a/"]}},
        {"allowed": {"models": ["job://other"]}},
        {"limits": {"memory": "lots"}},
        {"currency": "dollars"},
        {"queue": "UPPER"},
        {"limits": {"deadline": "soon"}},
    ],
    ids=str,
)
def test_both_refuse_what_is_wrong(spec: dict[str, Any]):
    assert by_the_crd(spec)
    assert by_the_models(spec)


FORBIDDEN = (
    *(
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "ld_preload",
        "Ld_Audit",
        "PYTHONPATH",
        "PythonStartup",
        "PATH",
        "HOME",
        "BASH_ENV",
    ),
    *("AWS_ACCESS_KEY_ID", "aws_profile", "AWS_CA_BUNDLE", "HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"),
    *("HTTP_PROXY", "https_proxy", "All_Proxy", "no_proxy", "ftp_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "KUBEFLOW_TRAINER_SERVER_URL", "KUBERNETES_SERVICE_HOST", "FINETUNE_SCRATCH", "TMPDIR"),
    *("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "RANK", "MASTER_ADDR", "GCONV_PATH", "GLIBC_TUNABLES"),
    *(
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "TRUST_REMOTE_CODE",
        "TRANSFORMERS_CACHE",
        "GIT_SSH_COMMAND",
        "MALLOC_CHECK_",
    ),
)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_variable_changes_what_runs_whom_it_trusts_or_who_it_is(name: str):
    spec = {"environment": [{"name": name, "value": "x"}]}
    assert any("name must not be one" in told for told in by_the_crd(spec))
    assert "name must not be one" in by_the_models(spec)


@pytest.mark.parametrize(
    "name", ["NCCL_DEBUG", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TORCH_NCCL_TRACE", "MODE"]
)
def test_other_variables_are_taken(name: str):
    assert not by_the_crd({"environment": [{"name": name, "value": "x"}]})
    assert not environment.forbidden(name)


@pytest.mark.parametrize("text", ["$(HOME)", "$$(HOME)", "$$$(HOME)", "$", "a$", "$$", "$(", "plain", "$(A)$(B)$$C"])
def test_a_literal_arrives_as_it_is(text: str):
    assert expand(environment.literal(text), {"HOME": "/root", "A": "1", "B": "2"}) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain é ✓", "plain é ✓"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"),
        ("a\x1bPq\x1b\\b\x1bcd", "abd"),
        ("one\r\ntwo\tthree\u2028four", "one two three four"),
        ("\x00\x07\x7f\x85end", " end"),
        ("abc\u202efed\u2066x\u200b\ufeff", "abcfedx"),
        ("half \ud800 pair", "half  pair"),
        ("\x1b", ""),
    ],
)
def test_a_text_keeps_what_can_be_read_and_nothing_that_a_terminal_obeys(text: str, left: str):
    assert plain_text(text) == left


@pytest.mark.parametrize(
    "uri", ["s3://b/données/é.jsonl", "s3://b/100%/a b.jsonl", "s3://b/日本/x", "hf://Qwen/Qwen2.5"]
)
def test_ordinary_names_are_no_tricks(uri: str):
    assert odd_in_uri(uri) is None


@pytest.mark.parametrize(
    ("quantity", "number"), [("500m", 0.5), (4, 4), ("2.5", 2.5), ("1k", 1000), ("16Gi", 16 * 2**30), ("1T", 10**12)]
)
def test_quantities_are_compared_as_numbers(quantity: int | str, number: float):
    assert amount(quantity) == number
