"""Structural schemas: pruning, defaults, validation and rules, as tables."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_local.apiserver import cel, schema

STRUCTURE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "epochs": {"type": "integer", "minimum": 1, "maximum": 10},
        "rate": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
        "name": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z]*$"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "when": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": True},
        "maybe": {"type": "string", "nullable": True},
        "on": {"type": "boolean"},
        "step": {"type": "number", "multipleOf": 0.5},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}},
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "either": {
            "type": "object",
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        },
        "nested": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}},
    },
}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"epochs": 1, "rate": 0.5, "name": "abc", "kind": "a", "when": "2026-11-21T00:00:00Z"}, []),
        ({"port": 8080}, []),
        ({"port": "http"}, []),
        ({"maybe": None}, []),
        ({"free": {"anything": [1]}}, []),
        ({"epochs": 2.0}, []),
        ({"epochs": 0}, ["epochs: Invalid value: 0: epochs in body should be greater than or equal to 1"]),
        ({"epochs": 11}, ["epochs: Invalid value: 11: epochs in body should be less than or equal to 10"]),
        ({"rate": 0}, ["rate: Invalid value: 0: rate in body should be greater than 0"]),
        ({"rate": 1}, ["rate: Invalid value: 1: rate in body should be less than 1"]),
        ({"epochs": "1"}, ['epochs: Invalid value: "string": epochs in body must be of type integer: "string"']),
        ({"epochs": 1.5}, ['epochs: Invalid value: "number": epochs in body must be of type integer: "number"']),
        ({"name": None}, ['name: Invalid value: "null": name in body must be of type string: "null"']),
        ({"on": "yes"}, ['on: Invalid value: "string": on in body must be of type boolean: "string"']),
        ({"nested": 1}, ['nested: Invalid value: "integer": nested in body must be of type object: "integer"']),
        ({"port": 1.5}, ['port: Invalid value: "number": port in body must be of type integer,string: "number"']),
        ({"name": ""}, ['name: Invalid value: "": name in body should be at least 1 chars long']),
        ({"name": "abcd"}, ["name: Too long: may not be more than 3 bytes"]),
        ({"name": "A"}, ["name: Invalid value: \"A\": name in body should match '^[a-z]*$'"]),
        ({"kind": "c"}, ['kind: Unsupported value: "c": supported values: "a", "b"']),
        ({"when": "today"}, ['when: Invalid value: "today": when in body must be of type date-time: "today"']),
        ({"when": "2026-13-41T00:00:00Z"}, ["when: …"]),
        ({"step": 0.7}, ["step: Invalid value: 0.7: step in body should be a multiple of 0.5"]),
        ({"list": []}, ["list: Invalid value: 0: list in body should have at least 1 items"]),
        ({"list": ["a", "b", "c"]}, ["list: Too many: 3: must have at most 2 items"]),
        ({"list": ["a", 1]}, ['list[1]: Invalid value: "integer": list[1] in body must be of type string: "integer"']),
        ({"set": ["a", "a"]}, ['set[1]: Duplicate value: "a"']),
        ({"map": [{"type": "a"}, {"type": "a"}]}, ['map[1]: Duplicate value: {"type": "a"}']),
        ({"map": [{}]}, ["map[0].type: Required value"]),
        ({"labels": {"a": 1}}, ["labels.a: …"]),
        ({"labels": {"a": "1", "b": "2"}}, ["labels: Too many: 2: must have at most 1 items"]),
        ({"nested": {}}, ["nested.x: Required value"]),
        ({"either": {"a": "1", "b": "2"}}, ["either: …one and only one schema (oneOf). Found 2 valid alternatives"]),
        ({"either": {}}, ["either: …one and only one schema (oneOf). Found none valid"]),
        ({"rate": 2, "epochs": 0}, ["epochs: …", "rate: …"]),
    ],
)
def test_a_value_is_judged_in_the_real_servers_words(value: dict[str, Any], told: list[str]) -> None:
    found = [f"{cause.field}: {cause.message}" for cause in schema.validate(value, STRUCTURE)]
    assert len(found) == len(told), found
    for one, expected in zip(found, told, strict=True):
        if "…" in expected:
            start, _, end = expected.partition("…")
            assert one.startswith(start)
            assert one.endswith(end)
        else:
            assert one == expected


def test_unknown_fields_are_dropped_and_named() -> None:
    value = {"epochs": 1, "epochz": 2, "nested": {"x": 1, "y": 2}, "map": [{"type": "a", "z": 1}], "free": {"k": 1}}
    assert sorted(schema.prune(value, STRUCTURE)) == ["epochz", "map[0].z", "nested.y"]
    assert value == {"epochs": 1, "nested": {"x": 1}, "map": [{"type": "a"}], "free": {"k": 1}}


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ({}, {"a": 1, "o": {"b": 2}}),
        ({"a": None}, {"a": 1, "o": {"b": 2}}),
        ({"n": None}, {"a": 1, "n": None, "o": {"b": 2}}),
        ({"o": {"b": 3}}, {"a": 1, "o": {"b": 3}}),
        ({"items": [{}]}, {"a": 1, "o": {"b": 2}, "items": [{"w": 1}]}),
        ({"many": {"k": {}}}, {"a": 1, "o": {"b": 2}, "many": {"k": {"w": 1}}}),
    ],
)
def test_defaults_fill_what_is_missing_at_every_depth(value: dict[str, Any], filled: dict[str, Any]) -> None:
    item = {"type": "object", "properties": {"w": {"type": "integer", "default": 1}}}
    structure = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "default": 1},
            "n": {"type": "integer", "default": 5, "nullable": True},
            "o": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 2}}},
            "items": {"type": "array", "items": item},
            "many": {"type": "object", "additionalProperties": item},
        },
    }
    if "n" not in value:
        filled = filled | {"n": 5}
    schema.apply_defaults(value, structure)
    assert value == filled


def test_filled_in_defaults_are_not_shared_between_objects() -> None:
    structure = {"type": "object", "properties": {"o": {"type": "object", "default": {"l": []}}}}
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    schema.apply_defaults(first, structure)
    first["o"]["l"].append(1)
    schema.apply_defaults(second, structure)
    assert second == {"o": {"l": []}}


def ruled(*rules: dict[str, Any]) -> dict[str, Any]:
    structure = copy.deepcopy(STRUCTURE)
    structure["x-kubernetes-validations"] = list(rules)
    return structure


@pytest.mark.parametrize(
    ("rule", "old", "value", "told"),
    [
        ({"rule": "self.epochs > 1", "message": "more"}, None, {"epochs": 1}, [("", 'Invalid value: "object": more')]),
        ({"rule": "self.epochs > 1"}, None, {"epochs": 1},
         [("", 'Invalid value: "object": failed rule: self.epochs > 1')]),
        ({"rule": "self.epochs > 1"}, None, {"epochs": 2}, []),
        ({"rule": "self.epochs == oldSelf.epochs"}, None, {"epochs": 2}, []),
        ({"rule": "self.epochs == oldSelf.epochs", "message": "fixed"}, {"epochs": 1}, {"epochs": 2},
         [("", 'Invalid value: "object": fixed')]),
        ({"rule": "self.rate == 1.0 || true"}, None, {"rate": 1}, []),
        ({"rule": "self.rate >= 0.5"}, None, {"rate": 1}, []),
        ({"rule": "has(self.name)", "fieldPath": ".name", "reason": "FieldValueRequired", "message": "say it"},
         None, {}, [(".name", "Required value: say it")]),
        ({"rule": "!has(self.name)", "messageExpression": "'not ' + self.name"}, None, {"name": "x"},
         [("", 'Invalid value: "object": not x')]),
        ({"rule": "self.nothing == 1"}, None, {}, [("", "*")]),
    ],
)  # fmt: skip
def test_rules_are_evaluated(
    rule: dict[str, Any], old: dict[str, Any] | None, value: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    found = [(cause.field, cause.message) for cause in cel.check(value, old, ruled(rule))]
    assert len(found) == len(told), found
    for (field, message), (expected_field, expected) in zip(found, told, strict=True):
        assert field == expected_field
        assert expected in ("*", message)


def test_what_an_update_leaves_as_it_was_is_held_against_transition_rules_alone() -> None:
    """A rule that came later does not keep people from changing something else."""
    inner = ruled({"rule": "self.epochs > 1", "message": "more"}, {"rule": "self.epochs != oldSelf.epochs"})
    structure = {"type": "object", "properties": {"a": inner, "l": {"type": "array", "items": inner}}}
    old = {"a": {"epochs": 1}, "l": [{"epochs": 1}]}
    assert [cause.field for cause in cel.check(old, None, structure)] == ["a", "l[0]"]
    told = [(cause.field, cause.message) for cause in cel.check({**old, "b": 1}, old, structure)]
    assert told == [("a", 'Invalid value: "object": failed rule: self.epochs != oldSelf.epochs')]
    changed = {**old, "l": [{"epochs": 0}]}
    assert "l[0]" in [cause.field for cause in cel.check(changed, old, structure)]


def test_rules_inside_lists_see_the_old_item_only_where_keys_tell_which() -> None:
    item = {
        "type": "object",
        "properties": {"type": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v", "message": "fixed"}],
    }
    atomic = {"type": "object", "properties": {"l": {"type": "array", "items": item}}}
    keyed = copy.deepcopy(atomic)
    keyed["properties"]["l"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    old = {"l": [{"type": "a", "v": 1}, {"type": "b", "v": 2}]}
    new = {"l": [{"type": "b", "v": 2}, {"type": "a", "v": 9}]}
    assert cel.check(new, old, atomic) == []
    assert [cause.field for cause in cel.check(new, old, keyed)] == ["l[1]"]
