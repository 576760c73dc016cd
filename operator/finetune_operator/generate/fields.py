"""A model's fields as a reference shows them: path, type, default, limits, whether supported, description."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from finetune_api.base import NotYet
from finetune_api.conditions import Reason
from finetune_api.structural import Schema

NOT_YET = "not supported yet"
_TYPES = {"string": "text", "boolean": "true or false", "object": "section"}


@dataclass(frozen=True)
class Field:
    """One row of a reference."""

    path: str
    """From the section down: ``lora.rank``, ``train[].uri``."""
    type: str
    default: str
    """Empty: none."""
    limits: str
    support: str
    """``yes``, or what is refused for now."""
    description: str


def fields(model: type[BaseModel], schema: Schema, support: str = "") -> Iterator[Field]:
    """The fields of a model and of the models below it, in their order.

    A model that occurs more than once is listed once; later occurrences point there.

    Args:
        model: says which fields there are and which are not supported yet.
        schema: the model's structural schema, which says the rest.
        support: what to say of all of them, where the section that they are in is not supported.
    """
    yield from _below(model, schema, "", support, {})


def _below(
    model: type[BaseModel], schema: Schema, prefix: str, support: str, seen: dict[type[BaseModel], str]
) -> Iterator[Field]:
    for attribute, info in model.model_fields.items():
        name = info.alias or attribute
        of_field, path = schema["properties"][name], f"{prefix}{name}"
        markers = [marker for marker in info.metadata if isinstance(marker, NotYet)]
        field = _field(path, of_field, name in schema.get("required", []), support or _support(markers))
        inner = submodel(info.annotation)
        if inner is None:
            yield field
        elif inner in seen:
            yield replace(field, type=f"{field.type} as `{seen[inner]}`")
        else:
            yield field
            items = of_field.get("type") == "array"
            seen[inner] = f"{path}[]" if items else path
            yield from _below(
                inner, of_field["items"] if items else of_field, f"{seen[inner]}.", inherited(field), seen
            )


def inherited(field: Field) -> str:
    """What a section's support says of the fields in it."""
    return field.support if field.support == NOT_YET else ""


def submodel(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``X``, ``X | None`` or ``tuple[X, ...]``, if it is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (submodel(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)


def _field(path: str, schema: Schema, required: bool, support: str) -> Field:
    return Field(
        path=path,
        type=_type(schema),
        default="required" if required else _default(schema),
        limits=", ".join(_limits(schema)),
        support=support,
        description=schema.get("description", ""),
    )


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("enum") == list(Reason):
        return "[reason](reasons.md)"
    if schema["type"] == "object" and "properties" not in schema:
        return "map"
    if "enum" in schema:
        return " | ".join(f"`{value}`" for value in schema["enum"])
    return _TYPES.get(schema["type"], str(schema["type"]))


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default in (None, {}, "") or "properties" in schema:
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)}`"


def _limits(schema: Schema) -> Iterator[str]:
    if (least := schema.get("minimum")) is not None:
        yield f"{'>' if schema.get('exclusiveMinimum') else '≥'} {least}"
    if (most := schema.get("maximum")) is not None:
        yield f"{'<' if schema.get('exclusiveMaximum') else '≤'} {most}"
    for kind, unit in (("Length", "characters"), ("Items", "items")):
        least, most = schema.get(f"min{kind}"), schema.get(f"max{kind}")
        if most is not None:
            yield f"{least} to {most} {unit}" if least else f"≤ {most} {unit}"
    if pattern := schema.get("pattern"):
        yield f"pattern `{pattern}`"


def _support(markers: list[NotYet]) -> str:
    if not markers:
        return "yes"
    values = [str(value).lower() if isinstance(value, bool) else value for m in markers for value in m.values]
    return f"{NOT_YET}: {', '.join(f'`{value}`' for value in values)}" if values else NOT_YET
