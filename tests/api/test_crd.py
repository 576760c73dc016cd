"""The CustomResourceDefinition that the models become."""

from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.crd import definition
from finetune_api.spec import FineTuneJobSpec

CRD = definition()
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]

Node = tuple[str, dict[str, Any]]


def nodes(schema: dict[str, Any], path: str = "", in_list: bool = False) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(path, schema, whether inside the items of a list) of every node."""
    yield path, schema, in_list
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}", in_list)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]", True)


SPEC_NODES = list(nodes(ROOT["properties"]["spec"], ".spec"))
ALL_NODES = list(nodes(ROOT))


def at(json_path: str) -> dict[str, Any]:
    schema = ROOT
    for name in json_path.strip(".").split("."):
        schema = schema["properties"][name]
    return schema


def test_kubectl_finds_it_by_its_short_name_and_among_all() -> None:
    assert CRD["spec"]["names"]["shortNames"] == ["ftj"]
    assert CRD["spec"]["names"]["categories"] == ["all"]


def test_status_is_a_subresource() -> None:
    assert VERSION["subresources"] == {"status": {}}


@pytest.mark.parametrize("column", VERSION["additionalPrinterColumns"], ids=lambda c: c["name"])
def test_a_printer_column_shows_a_field_that_exists(column: dict[str, Any]) -> None:
    if not column["jsonPath"].startswith(".metadata"):
        assert at(column["jsonPath"])["type"] == "string"


def test_the_schema_is_structural() -> None:
    for path, schema, _ in ALL_NODES:
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "title", "anyOf", "nullable", "const"} & set(schema), path


def test_nothing_in_the_items_of_a_list_has_a_default() -> None:
    """With one, `kubectl apply` says "configured" for ever and Argo CD shows OutOfSync."""
    assert [path for path, schema, in_list in ALL_NODES if in_list and "default" in schema] == []


def test_sections_default_to_empty_so_that_their_fields_get_their_own_defaults() -> None:
    assert at("spec.training")["default"] == {}
    assert at("spec.training.batchSize")["default"] == 16


def test_every_field_is_described() -> None:
    undescribed = [
        path for path, schema, _ in ALL_NODES if path.startswith((".spec", ".status")) and not schema.get("description")
    ]
    assert [path for path in undescribed if not path.endswith("[]")] == []


def test_everything_a_rule_may_read_is_bounded_so_that_its_cost_is() -> None:
    for path, schema, _ in SPEC_NODES:
        if schema.get("type") == "string" and "enum" not in schema:
            assert "maxLength" in schema, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path


def test_a_rule_points_to_a_field_that_exists() -> None:
    for path, schema, _ in ALL_NODES:
        for rule in schema.get("x-kubernetes-validations", ()):
            assert rule["fieldPath"].removeprefix(".") in schema["properties"], path


def test_every_field_of_the_spec_but_three_is_immutable() -> None:
    def frozen(schema: dict[str, Any]) -> set[str]:
        return {r["fieldPath"][1:] for r in schema["x-kubernetes-validations"] if "oldSelf" in r["rule"]}

    top, policy = at("spec"), at("spec.runPolicy")
    assert set(top["properties"]) - frozen(top) == {"suspend", "cancel", "runPolicy"}
    assert set(policy["properties"]) - frozen(policy) == {"ttlAfterFinished"}


def test_the_defaults_of_the_crd_are_those_of_the_models() -> None:
    minimal = {
        "model": {"uri": "hf://a/b"},
        "data": {"train": [{"uri": "s3://b/t.jsonl"}], "validationFraction": 0.1},
        "output": {"uri": "s3://b/o"},
    }

    def filled(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        out = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in out and "default" in child:
                out[name] = child["default"]
            if isinstance(out.get(name), dict):
                out[name] = filled(child, out[name])
        return out

    by_models = FineTuneJobSpec.model_validate(minimal).to_dict()
    assert filled(at("spec"), minimal) == by_models
