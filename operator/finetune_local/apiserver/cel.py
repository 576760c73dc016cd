"""`x-kubernetes-validations`: the CEL rules of a CRD's schema, evaluated by cel-python."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import errors
from .builtin_schemas import Schema
from .errors import Cause
from .schema import child

RULES = "x-kubernetes-validations"
_BLOCKING = {
    "FieldValueTypeInvalid",
    "FieldValueRequired",
    "FieldValueNotSupported",
    "FieldValueTooLong",
    "FieldValueTooMany",
}
NOT_CHECKED = errors.invalid_value(
    "<nil>",
    None,
    "some validation rules were not checked because the object was invalid; correct the existing errors to "
    "complete validation",
)
_MISSING = object()


def has_rules(schema: Any) -> bool:
    if isinstance(schema, dict):
        return RULES in schema or any(has_rules(one) for one in schema.values())
    return isinstance(schema, list) and any(has_rules(one) for one in schema)


def blocks_rules(causes: list[Cause]) -> bool:
    """Whether faults found by the schema keep the rules from being evaluated."""
    return any(cause.reason in _BLOCKING for cause in causes)


def check(value: Any, old: Any, schema: Schema) -> list[Cause]:
    """Every rule of the schema that a value breaks. `old` is None on create: transition rules then rest.

    Ratcheted as on the real server: what an update leaves as it was is held against transition rules alone.
    """
    return list(_check(value, _MISSING if old is None else old, schema, "", unchanged=value == old))


def _check(value: Any, old: Any, schema: Schema, path: str, unchanged: bool) -> Iterator[Cause]:
    """`unchanged` says whether the value, or what it is a part of, is as it was."""
    if rules := schema.get(RULES):
        case = _Case(_Known(schema), _text(value), None if old is _MISSING else _text(old))
        for rule in rules:
            if not unchanged or _is_transition(rule):
                yield from _broken(rule, case, path)
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        for key in sorted(value):
            inner = properties.get(key, extra)
            before = old.get(key, _MISSING) if isinstance(old, dict) else _MISSING
            if isinstance(inner, dict) and value[key] is not None:
                yield from _check(value[key], before, inner, child(path, key), unchanged or value[key] == before)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for i, item in enumerate(value):
            before = _counterpart(item, old, schema)
            yield from _check(item, before, schema["items"], f"{path}[{i}]", unchanged or item == before)


def _counterpart(item: Any, old: Any, schema: Schema) -> Any:
    """The old state of a list's item; only lists of type map say which that is."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(old, list):
        return _MISSING
    return next((one for one in old if all(one.get(key) == item.get(key) for key in keys)), _MISSING)


class _Known:
    """A schema as part of a cache's key: by identity, which holding it keeps from being used again."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.schema is self.schema


@dataclass(frozen=True)
class _Case:
    """What a rule is held against: a value and, on updates, its old state, as JSON."""

    schema: _Known
    value: str
    old: str | None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _broken(rule: dict[str, Any], case: _Case, path: str) -> Iterator[Cause]:
    expression = rule["rule"]
    if not _is_transition(rule):
        case = _Case(case.schema, case.value, None)
    elif case.old is None:
        return
    kind = case.schema.schema.get("type", "object")
    try:
        holds = _evaluate(expression, case)
    except ValueError as error:
        told = f"{error} evaluating rule: {rule.get('message') or expression}"
        yield errors.invalid_value(path, kind, told)
        return
    if holds is not True:
        yield _cause(rule, case, path + (rule.get("fieldPath") or ""), kind)


def _is_transition(rule: dict[str, Any]) -> bool:
    """Whether a rule is about a change."""
    return re.search(r"\boldSelf\b", rule["rule"]) is not None


def _cause(rule: dict[str, Any], case: _Case, path: str, kind: str) -> Cause:
    message = rule.get("message") or f"failed rule: {rule['rule']}"
    if "messageExpression" in rule:
        # As the real server does: a message that cannot be made gives way to the plain one.
        with contextlib.suppress(ValueError):
            message = str(_evaluate(rule["messageExpression"], case))
    reason = rule.get("reason") or "FieldValueInvalid"
    text = {
        "FieldValueRequired": f"Required value: {message}",
        "FieldValueForbidden": f"Forbidden: {message}",
        "FieldValueDuplicate": f"Duplicate value: {json.dumps(kind)}",
    }.get(reason, f"Invalid value: {json.dumps(kind)}: {message}")
    return Cause(path, reason, text)


@functools.lru_cache(maxsize=1024)
def compile_rule(expression: str) -> Any:
    """A program for a rule. Raises ValueError with the parser's words where it is no CEL."""
    from celpy import Environment  # deferred: costs 0.2 s, and only CRDs with rules need it
    from celpy.celparser import CELParseError

    environment = Environment()
    try:
        return environment.program(environment.compile(expression))
    except CELParseError as error:
        raise ValueError(str(error)) from error


@functools.lru_cache(maxsize=8192)
def _evaluate(expression: str, case: _Case) -> Any:
    """The value of an expression. cel-python takes about 1 ms for one, so verdicts are kept: writes change little."""
    from celpy import celtypes
    from celpy.evaluation import CELEvalError

    bindings = {"self": _typed_text(case.value, case.schema)}
    if case.old is not None:
        bindings["oldSelf"] = _typed_text(case.old, case.schema)
    try:
        result = compile_rule(expression).evaluate(bindings)
    except CELEvalError as error:
        raise ValueError(str(error.args[0])) from error
    return bool(result) if isinstance(result, celtypes.BoolType) else result


@functools.lru_cache(maxsize=256)
def _typed_text(text: str, known: _Known) -> Any:
    """For all rules of a value: to make CEL values of one takes longer than to evaluate a rule."""
    return _typed(json.loads(text), known.schema)


def _typed(value: Any, schema: Schema) -> Any:
    """JSON as CEL values by the schema's types, so that `1` in a number field is a double."""
    from celpy import celtypes
    from celpy.adapter import json_to_cel

    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        extra = extra if isinstance(extra, dict) else {}
        return celtypes.MapType(
            {celtypes.StringType(k): _typed(one, properties.get(k, extra)) for k, one in value.items()}
        )
    if isinstance(value, list):
        return celtypes.ListType([_typed(one, schema.get("items") or {}) for one in value])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        is_double = schema.get("type") == "number" or (isinstance(value, float) and not value.is_integer())
        return celtypes.DoubleType(value) if is_double else celtypes.IntType(value)
    return json_to_cel(value)
