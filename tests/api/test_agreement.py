"""The API server (schema and CEL rules of the CRD) and the models refuse the same specs."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.crd import definition
from finetune_api.job import InvalidSpec, read_spec
from finetune_local.apiserver import cel, schema
from tests.api.test_spec import BROKEN, NOT_YET, TEN_LINES, changed

SPEC = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def refused_by_the_crd(spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """What the API server says of a spec under fieldValidation=Strict; empty where it takes it."""
    spec = copy.deepcopy(spec)
    if unknown := schema.prune(spec, SPEC):
        return [f"unknown field {path}" for path in unknown]
    schema.apply_defaults(spec, SPEC)
    causes = schema.validate(spec, SPEC) or cel.check(spec, old, SPEC)
    return [f"{cause.field}: {cause.message}" for cause in causes]


def refused_by_the_models(spec: dict[str, Any]) -> bool:
    try:
        read_spec(spec)
    except InvalidSpec:
        return True
    return False


def test_both_take_the_ten_lines() -> None:
    assert not refused_by_the_crd(TEN_LINES)
    assert not refused_by_the_models(TEN_LINES)


@pytest.mark.parametrize(("path", "value", "_"), BROKEN)
def test_the_api_server_refuses_what_is_broken(path: str, value: object, _: str) -> None:
    assert refused_by_the_crd(changed(path, value))


@pytest.mark.parametrize(("path", "value"), NOT_YET)
def test_the_api_server_refuses_what_is_not_supported_yet_and_names_the_field(path: str, value: object) -> None:
    said = refused_by_the_crd(changed(path, value))
    assert any("not supported yet" in message and path.rsplit(".", 1)[-1] in message for message in said)


VALUES: dict[str, st.SearchStrategy[object]] = {
    "model.uri": st.sampled_from(
        ["hf://a/b", "s3://b/m/", "job://base", "pvc://c/m", "hf://", "s3://b/../m/", "nonsense"]
    ),
    "model.revision": st.sampled_from(["main", ""]),
    "model.credentials": st.sampled_from(["token", "UPPER"]),
    "model.combine": st.sampled_from(
        [
            {"adapters": [{"uri": "job://a"}, {"uri": "job://b"}]},
            {"adapters": [{"uri": "job://a", "weight": 1}, {"uri": "job://b"}]},
            {"adapters": [{"uri": "job://a"}, {"uri": "job://a"}], "method": "svd"},
            {"adapters": [{"uri": "job://a"}, {"uri": "job://b"}], "method": "dare_ties", "density": 0.5},
        ]
    ),
    "method.from": st.sampled_from(["continue", "merge"]),
    "storage.endpointUrl": st.sampled_from(["https://minio:9000", "minio"]),
    "data.validationFraction": st.sampled_from([None, 0, 0.5, 1]),
    "data.validation": st.sampled_from([[], [{"uri": "s3://b/v.jsonl"}], [{"uri": "s3://b/v.jsonl", "weight": 1}]]),
    "data.template": st.sampled_from(["chatml", "{{ text }}", "{% if x %}", "nonsense", ""]),
    "data.train.0.template": st.sampled_from(["plain", "{{ text }}", "nonsense"]),
    "data.train.0.format": st.sampled_from(["fields", "text", "csv"]),
    "data.train.0.weight": st.sampled_from([0, 0.5, 1001]),
    "method.adapter": st.sampled_from(["lora", "none", "qlora", "ia3", "prompt", "prefix", "other"]),
    "method.lora": st.sampled_from(
        [
            *({}, {"rank": 8}, {"rank": 0}, {"targetModules": []}, {"dropout": 1}),
            *({"initialization": "pissa"}, {"initialization": "pissa", "dora": True}, {"dora": True}),
        ]
    ),
    "method.ia3": st.sampled_from(
        [
            *({}, {"feedforwardModules": ["k"]}, {"targetModules": ["k"], "feedforwardModules": []}),
            *({"targetModules": ["k"], "feedforwardModules": [name]} for name in "kv"),
        ]
    ),
    "method.prompt": st.sampled_from([{}, {"virtualTokens": 0}, {"text": "Answer."}]),
    "method.prefix": st.sampled_from([{}, {"virtualTokens": 2000}]),
    "method.freeze": st.sampled_from([{}, {"layers": 0}, {"embeddings": True, "modules": ["k"]}]),
    "output.mergeAdapter": st.booleans(),
    "training.activationCheckpointing": st.sampled_from(["auto", "always"]),
    "training.epochs": st.sampled_from([0, 0.5, 3, 1001]),
    "training.maxSteps": st.integers(0, 2),
    "training.batchSize": st.integers(0, 3),
    "training.microBatchSize": st.integers(0, 3),
    "training.learningRate": st.floats(0, 1.5),
    "training.schedule": st.sampled_from(["linear", "wsd", "plateau", "?"]),
    "training.decayFraction": st.sampled_from([0, 0.5, 2]),
    "training.plateau": st.sampled_from([{}, {"factor": 1}]),
    "training.optimizer": st.sampled_from(["sgd", "rmsprop", "?"]),
    "training.momentum": st.sampled_from([0, 0.5, 1]),
    "training.labelSmoothing": st.sampled_from([0.1, 1]),
    "training.earlyStopping": st.sampled_from([{}, {"patience": 0}]),
    "training.restoreBest": st.sampled_from([{}, {"metric": ""}]),
    "evaluation.everySteps": st.integers(0, 2),
    "resources.cpu": st.sampled_from([1, "500m", "x", -1, 2**41]),
    "resources.gpusPerNode": st.integers(-1, 2),
    "runPolicy.deadline": st.sampled_from(["4h", "soon"]),
    "suspend": st.booleans(),
    "unheardOf": st.just(1),
}


CHANGE = st.sampled_from(sorted(VALUES)).flatmap(lambda path: st.tuples(st.just(path), VALUES[path]))


@pytest.mark.parametrize(
    ("adapter", "path", "value"),
    [
        ("prompt", "output.mergeAdapter", True),
        ("none", "output.mergeAdapter", True),
        ("prefix", "training.activationCheckpointing", "always"),
        ("prompt", "task", "text-classification"),
        ("prompt", "method.objective", "dpo"),
    ],
)
def test_both_refuse_what_an_adapter_cannot_do(adapter: str, path: str, value: object) -> None:
    spec = merged(merged(TEN_LINES, "method.adapter", adapter), path, value)
    assert refused_by_the_crd(spec)
    assert refused_by_the_models(spec)


@settings(max_examples=500, deadline=None)
@given(st.lists(CHANGE, max_size=3, unique_by=lambda change: change[0]))
def test_api_server_and_models_never_disagree(changes: list[tuple[str, object]]) -> None:
    """Few changes at a time: of many, one that both refuse would hide one that they differ on."""
    spec = TEN_LINES
    for path, value in changes:
        spec = merged(spec, path, value)
    if "combine" in spec["model"] and len(changes) > 1:
        del spec["model"]["uri"]
    assert bool(refused_by_the_crd(spec)) == refused_by_the_models(spec)


def merged(spec: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    out = copy.deepcopy(spec)
    *parents, last = path.split(".")
    place: Any = out
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
    place[last] = value
    return {**out, "data": {k: v for k, v in out["data"].items() if v is not None}}


IMMUTABLE = [
    ("model.uri", "hf://other/model"),
    ("data.validationFraction", 0.1),
    ("training.epochs", 1),
    ("output.uri", "s3://elsewhere/"),
    ("runPolicy.maxRetries", 5),
    ("resources.gpusPerNode", 0),
]


@pytest.mark.parametrize(("path", "value"), IMMUTABLE)
def test_a_spec_cannot_be_changed_and_the_refusal_says_what_to_do(path: str, value: object) -> None:
    old = copy.deepcopy(TEN_LINES)
    schema.apply_defaults(old, SPEC)
    said = refused_by_the_crd(changed(path, value), old)
    assert len(said) == 1
    assert "is immutable: delete the FineTuneJob and apply it again" in said[0]


def test_applying_the_same_spec_again_is_no_change() -> None:
    old = copy.deepcopy(TEN_LINES)
    schema.apply_defaults(old, SPEC)
    assert not refused_by_the_crd(TEN_LINES, old)
