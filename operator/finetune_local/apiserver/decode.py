"""From a request's body to an object of a resource: media type, kind, unknown fields, types."""

from __future__ import annotations

import json
from decimal import Decimal
from http import HTTPStatus
from typing import Any, NoReturn

import yaml

from finetune_local.quantities import Quantity

from . import errors, metadata, schema
from .builtin_schemas import Schema, definition, resolve
from .errors import ApiError, Cause, bad_request
from .resources import Resource

Object = dict[str, Any]

# Built-in kinds whose specification may not be left out.
_NEEDS_SPEC = {"Pod", "Job", "Deployment", "CustomResourceDefinition"}


def parse_json(body: bytes, kind: str) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        shown = body[:100].decode(errors="replace")
        told = (
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
            f"json parse error: {error} ({shown})"
        )
        raise bad_request(told) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"invalid character {name[0]!r} looking for beginning of value")


def parse_yaml(body: bytes, kind: str) -> Any:
    try:
        return yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (both are safe)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad_request(f"error decoding YAML (must be of type {kind}): {error}") from error


def check_kind(obj: Any, resource: Resource) -> None:
    """Raises 400 where the body is no object of this resource."""
    if not isinstance(obj, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    obj.setdefault("apiVersion", resource.api_version)
    obj.setdefault("kind", resource.kind)
    if not isinstance(obj.setdefault("metadata", {}), dict):
        raise bad_request(f"{resource.kind}: metadata must be an object")
    if obj["kind"] != resource.kind or obj["apiVersion"] != resource.api_version:
        given, wanted = (f"{obj['apiVersion']}, Kind={obj['kind']}", f"{resource.api_version}, Kind={resource.kind}")
        told = f"the API version or kind in the data ({given}) does not match the expected one ({wanted})"
        raise bad_request(told)


def normalise(obj: Object, resource: Resource) -> list[str]:
    """Brings a decoded object, in place, into the form that is stored. Returns the unknown fields' paths.

    Raises 400 where a built-in object's types are wrong, and 422 where a required field is missing: the real
    server decodes those into Go structs, while custom objects are held against their schema later.
    """
    meta = obj["metadata"]
    for key in [key for key, value in meta.items() if value is None]:
        del meta[key]
    unknown = [f"metadata.{key}" for key in meta if key not in metadata.FIELDS]
    for path in unknown:
        del meta[path.removeprefix("metadata.")]
    _check_metadata_types(obj, resource)
    if resource.is_custom:
        rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        unknown += schema.prune(rest, resource.schema or {})
        for key in [key for key in obj if key not in rest and key not in ("apiVersion", "kind", "metadata")]:
            del obj[key]
        return unknown
    model = definition(resource.model)
    if resource.kind in _NEEDS_SPEC and obj.get("spec") is None:
        obj["spec"] = {}
    _drop_nulls(obj, model)
    unknown += schema.prune(obj, model)
    _convert(obj, model, resource, "")
    missing = [
        cause
        for key in obj
        if key not in ("metadata", "status")
        for cause in _missing(obj[key], _property(model, key), key)
    ]
    if missing:
        raise errors.invalid(meta.get("name", ""), resource.group, resource.kind, missing)
    return unknown


def _check_metadata_types(obj: Object, resource: Resource) -> None:
    for key, kind in (
        ("labels", dict),
        ("annotations", dict),
        ("finalizers", list),
        ("ownerReferences", list),
        ("name", str),
        ("generateName", str),
        ("namespace", str),
        ("managedFields", list),
        ("resourceVersion", str),
        ("uid", str),
    ):
        value = obj["metadata"].get(key)
        if value is not None and not isinstance(value, kind):
            expected = {dict: "map[string]string", list: "slice", str: "string"}[kind]
            raise _undecodable(resource, f"metadata.{key}", value, expected)


def tell_unknown(unknown: list[str], validation: str, resource: Resource, warnings: list[str]) -> None:
    """What fieldValidation asks for: Strict refuses with 400, Warn warns, Ignore is silent."""
    if told := _to_refuse(unknown, validation, warnings):
        raise bad_request(_cannot_be_handled(resource, f"strict decoding error: {told}"))


def tell_unknown_in_patch(unknown: list[str], validation: str, patched: Object, warnings: list[str]) -> None:
    """The same for a patch, which the real server refuses with 422 and the patched object in the message."""
    if told := _to_refuse(unknown, validation, warnings):
        fault = errors.invalid_value("patch", json.dumps(patched), f"strict decoding error: {told}")
        cause = {"reason": fault.reason, "message": fault.message, "field": "patch"}
        message = f' "" is invalid: patch: {fault.message}'
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message, {"causes": [cause]})


def _to_refuse(unknown: list[str], validation: str, warnings: list[str]) -> str:
    """The unknown fields in words, where they are to be refused; else they are warned of or passed over."""
    told = [f'unknown field "{path}"' for path in unknown]
    if validation == "Strict":
        return ", ".join(told)
    if validation != "Ignore":
        warnings.extend(told)
    return ""


# Built-in types ----------------------------------------------------------------------------------------


def _property(model: Schema, key: str) -> Schema:
    model = resolve(model)
    found = (model.get("properties") or {}).get(key, model.get("additionalProperties"))
    return resolve(found) if isinstance(found, dict) else {}


def _drop_nulls(value: Any, model: Schema) -> None:
    """A null in JSON is the same as a missing field for a Go struct."""
    model = resolve(model)
    if isinstance(value, dict) and not model.get(schema.PRESERVE):
        for key in [key for key, one in value.items() if one is None]:
            del value[key]
        for key, one in value.items():
            _drop_nulls(one, _property(model, key))
    elif isinstance(value, list):
        for one in value:
            _drop_nulls(one, model.get("items") or {})


def _convert(value: Any, model: Schema, resource: Resource, path: str) -> Any:
    """Checks types against the model and returns the value in its canonical form (quantities as text)."""
    model = resolve(model)
    if model.get("format") == "quantity":
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise _undecodable(resource, path, value, "resource.Quantity")
        return _quantity(value if isinstance(value, str) else f"{Decimal(str(value)):f}", resource)
    expected = model.get("type")
    actual = schema.type_name(value)
    if expected and actual != expected and not (expected == "number" and actual == "integer"):
        raise _undecodable(resource, path, value, expected)
    if isinstance(value, dict):
        for key, one in value.items():
            value[key] = _convert(one, _property(model, key), resource, schema.child(path, key))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            value[i] = _convert(one, model.get("items") or {}, resource, f"{path}[{i}]")
    return value


def _quantity(text: str, resource: Resource) -> str:
    try:
        Quantity.of(text)
    except ValueError as error:
        raise bad_request(_cannot_be_handled(resource, str(error))) from error
    return text


def _cannot_be_handled(resource: Resource, why: str) -> str:
    return f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}'


def _undecodable(resource: Resource, path: str, value: Any, expected: str) -> ApiError:
    field = f"{resource.kind}.{path} of type {expected}"
    return bad_request(
        _cannot_be_handled(resource, f"json: cannot unmarshal {schema.type_name(value)} into Go struct field {field}")
    )


def _missing(value: Any, model: Schema, path: str) -> list[Cause]:
    model = resolve(model)
    if isinstance(value, list):
        items = model.get("items") or {}
        return [one for i, item in enumerate(value) for one in _missing(item, items, f"{path}[{i}]")]
    if not isinstance(value, dict) or model.get(schema.PRESERVE):
        return []
    faults = [errors.required(schema.child(path, key)) for key in model.get("required", ()) if key not in value]
    for key, one in value.items():
        faults += _missing(one, _property(model, key), schema.child(path, key))
    return faults
