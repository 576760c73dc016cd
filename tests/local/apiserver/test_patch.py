"""The three kinds of patches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.patch import json_patch, merge_patch, same_json, strategic_merge
from finetune_local.apiserver.store import clone

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/~", max_size=2), inner, max_size=3),
)
objects = st.dictionaries(st.text("abc", max_size=1), documents, max_size=3)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return value


def difference(before: Any, after: Any) -> Any:
    """The merge patch from one object to another."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch = dict.fromkeys(before.keys() - after.keys())
    return patch | {
        key: difference(before.get(key), value) for key, value in after.items() if before.get(key, ...) != value
    }


@given(objects, objects)
def test_a_merge_patch_leads_from_any_object_to_any_other(before: Any, after: Any) -> None:
    before, after = without_nulls(before), without_nulls(after)
    kept = clone(before)
    assert merge_patch(before, difference(before, after)) == after
    assert before == kept


@given(objects, objects)
def test_a_merge_patch_twice_is_a_merge_patch_once(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


def pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


@given(
    st.dictionaries(st.text("ab/~", min_size=1, max_size=2), documents, max_size=3),
    st.text("ab/~", max_size=3),
    documents,
)
def test_what_a_json_patch_adds_it_can_test_move_and_remove(target: Any, key: str, value: Any) -> None:
    before = clone(target)
    at, aside = pointer(key), pointer(key + "-moved")
    added = json_patch(target, [{"op": "add", "path": at, "value": value}, {"op": "test", "path": at, "value": value}])
    assert same_json(added[key], value)
    there_and_back = [{"op": "move", "from": at, "path": aside}, {"op": "move", "from": aside, "path": at}]
    assert json_patch(added, there_and_back) == added
    rest = {k: v for k, v in before.items() if k != key}
    assert json_patch(added, [{"op": "remove", "path": at}]) == rest
    assert target == before


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/l/1", "value": 9}], {"l": [1, 9, 2], "o": {"a": 1}}),
        ([{"op": "add", "path": "/l/-", "value": 9}], {"l": [1, 2, 9], "o": {"a": 1}}),
        ([{"op": "remove", "path": "/l/0"}], {"l": [2], "o": {"a": 1}}),
        ([{"op": "replace", "path": "/o/a", "value": 2}], {"l": [1, 2], "o": {"a": 2}}),
        ([{"op": "copy", "from": "/o", "path": "/p"}], {"l": [1, 2], "o": {"a": 1}, "p": {"a": 1}}),
        ([{"op": "replace", "path": "", "value": {}}], {}),
    ],
)
def test_json_patch_operations(operations: list[dict[str, Any]], result: Any) -> None:
    assert json_patch({"l": [1, 2], "o": {"a": 1}}, operations) == result


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "test", "path": "/a", "value": 2}, 422),
        ({"op": "test", "path": "/a", "value": True}, 422),
        ({"op": "remove", "path": "/b"}, 422),
        ({"op": "replace", "path": "/b", "value": 1}, 422),
        ({"op": "add", "path": "/b/c", "value": 1}, 422),
        ({"op": "add", "path": "/l/5", "value": 1}, 422),
        ({"op": "add", "path": "/l/01", "value": 1}, 422),
        ({"op": "add", "path": "a", "value": 1}, 400),
        ({"op": "add", "path": "/a"}, 400),
        ({"op": "jump", "path": "/a"}, 400),
    ],
)
def test_a_json_patch_that_cannot_be_applied_is_refused(operation: dict[str, Any], code: int) -> None:
    with pytest.raises(ApiError) as refused:
        json_patch({"a": 1, "l": []}, [operation])
    assert refused.value.code == code


ITEM = {"type": "object", "properties": {"n": {"type": "string"}, "v": {"type": "integer"}}}
KEYED = {
    "type": "array", "items": ITEM, "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "n",
}  # fmt: skip
STRUCTURE = {
    "type": "object",
    "properties": {
        "keyed": KEYED,
        "plain": {"type": "array", "items": ITEM},
        "names": {"type": "array", "x-kubernetes-patch-strategy": "merge"},
        "inner": {"type": "object", "properties": {"keyed": KEYED}},
    },
}
A, B = {"n": "a", "v": 1}, {"n": "b", "v": 2}


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"keyed": [{"n": "b", "v": 3}]}, {"keyed": [A, {"n": "b", "v": 3}]}),
        ({"keyed": [{"n": "c"}]}, {"keyed": [A, B, {"n": "c"}]}),
        ({"keyed": [{"n": "a", "$patch": "delete"}]}, {"keyed": [B]}),
        ({"keyed": [{"$patch": "replace"}, {"n": "c"}]}, {"keyed": [{"n": "c"}]}),
        ({"keyed": None}, {}),
        ({"plain": [{"n": "c"}]}, {"plain": [{"n": "c"}], "keyed": [A, B]}),
        ({"names": ["x"], "$setElementOrder/keyed": [{"n": "b"}, {"n": "a"}]}, {"names": ["x"], "keyed": [B, A]}),
        ({"$setElementOrder/keyed": [{"n": "c"}, {"n": "a"}], "keyed": [{"n": "c"}]}, {"keyed": [{"n": "c"}, A, B]}),
        ({"inner": {"keyed": [A]}}, {"inner": {"keyed": [A]}, "keyed": [A, B]}),
        ({"$patch": "replace", "names": ["x"]}, {"names": ["x"]}),
        ({"$retainKeys": ["names"], "names": ["x"]}, {"names": ["x"]}),
    ],
)
def test_a_strategic_merge_patch_merges_lists_by_key(patch: dict[str, Any], result: dict[str, Any]) -> None:
    assert strategic_merge({"keyed": [A, B]}, patch, STRUCTURE) == result


def test_a_strategic_merge_patch_takes_single_values_out_of_a_list() -> None:
    patch = {"$deleteFromPrimitiveList/names": ["b"], "names": ["c"]}
    assert strategic_merge({"names": ["a", "b"]}, patch, STRUCTURE) == {"names": ["a", "c"]}


def test_a_strategic_merge_patch_without_the_merge_key_is_refused() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: n"):
        strategic_merge({"keyed": [A]}, {"keyed": [{"v": 1}]}, STRUCTURE)
