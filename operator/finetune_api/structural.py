"""A model as the structural schema of a CustomResourceDefinition: types, limits, defaults, CEL rules.

What differs from pydantic's JSON schema, and why:

- ``$ref`` is inlined and ``title`` dropped: structural schemas know neither.
- ``X | None`` is X, not required and not nullable: the API server then drops a null before it fills in defaults, so a
  null means the same as leaving the field out, and ``has()`` in a rule says what a reader expects.
- ``exclusiveMinimum: 0`` becomes ``minimum: 0, exclusiveMinimum: true``.
- A field whose model has a default gets that default, but nothing inside the items of a list does: with such a default
  every ``kubectl apply`` says "configured", and Argo CD shows OutOfSync.
"""

from typing import Any

from pydantic import BaseModel

from finetune_api.base import Model

Schema = dict[str, Any]

_KEPT = (
    "type",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)


def model_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural schema of a model."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}), _by_name(model), defaults)


def _by_name(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """All models reachable from one, by class name (the key pydantic gives them in ``$defs``)."""
    found = {model.__name__: model}
    todo: list[Any] = [info.annotation for info in model.model_fields.values()]
    while todo:
        annotation = todo.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation.__name__ not in found:
            found |= {annotation.__name__: annotation}
            todo += [info.annotation for info in annotation.model_fields.values()]
        todo += getattr(annotation, "__args__", ())
    return found


def _structural(raw: Schema, defs: Schema, models: dict[str, type[BaseModel]], defaults: bool) -> Schema:
    if "allOf" in raw and len(raw["allOf"]) == 1:
        raw = raw | raw["allOf"][0]
    name = raw.get("title", "")
    if "$ref" in raw:
        name = raw["$ref"].rsplit("/", 1)[1]
        raw = defs[name] | {k: v for k, v in raw.items() if k != "$ref"}
    if "anyOf" in raw:
        return _union(raw, defs, models, defaults)

    out = {key: raw[key] for key in _KEPT if key in raw}
    if "const" in raw:
        out |= {"enum": [raw["const"]]}
    if description := raw.get("description"):
        out["description"] = " ".join(description.split())
    for bound in ("Minimum", "Maximum"):
        if (limit := raw.get(f"exclusive{bound}")) is not None:
            out |= {bound.lower(): limit, f"exclusive{bound}": True}
    if out.get("type") == "integer":
        out["format"] = "int64"
    if "items" in raw:
        out["items"] = _structural(raw["items"], defs, models, defaults=False)
    if isinstance(raw.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(raw["additionalProperties"], defs, models, defaults=False)
    if "properties" in raw:
        out |= _object(raw, defs, models, defaults)
        out |= _validations(models.get(name))
    if defaults and "default" in raw and raw["default"] is not None:
        out["default"] = _trimmed(raw["default"])
    return out


def _object(raw: Schema, defs: Schema, models: dict[str, type[BaseModel]], defaults: bool) -> Schema:
    properties = {key: _structural(value, defs, models, defaults) for key, value in raw["properties"].items()}
    return {"properties": properties} | ({"required": raw["required"]} if raw.get("required") else {})


def _union(raw: Schema, defs: Schema, models: dict[str, type[BaseModel]], defaults: bool) -> Schema:
    outer = {key: value for key, value in raw.items() if key != "anyOf"}
    kinds = [kind for kind in raw["anyOf"] if kind.get("type") != "null"]
    if len(kinds) == 1:
        return _structural(kinds[0] | outer, defs, models, defaults)
    if {kind["type"] for kind in kinds} == {"integer", "string"}:
        # The limits of the number and those of the text can stand side by side: each counts for its own type alone.
        whole, text = sorted(kinds, key=lambda kind: str(kind["type"]))
        out = _structural(whole | text | outer, defs, models, defaults)
        del out["type"]
        return out | {"x-kubernetes-int-or-string": True}
    raise TypeError(f"a structural schema cannot hold {raw['anyOf']}")


def _trimmed(default: Any) -> Any:
    """A section's default is {}: the API server fills in the fields' own."""
    return {} if isinstance(default, dict) else default


def _validations(model: type[BaseModel] | None) -> Schema:
    if model is None or not issubclass(model, Model):
        return {}
    rules = [{"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"} for rule in model.rules] + [
        {
            "rule": marker.cel(field),
            "message": marker.message(field, model.model_fields[attribute].annotation),
            "fieldPath": f".{field}",
        }
        for attribute, field, marker in model.not_yet()
    ]
    return {"x-kubernetes-validations": rules} if rules else {}
