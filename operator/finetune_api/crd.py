"""The models as a CustomResourceDefinition: structural schema, defaults, CEL rules, printer columns.

What differs from pydantic's JSON schema, and why:

- ``$ref`` is inlined and ``title`` dropped: structural schemas know neither.
- ``X | None`` is X, not required and not nullable: the API server then drops a null before it fills in defaults, so a
  null means the same as leaving the field out, and ``has()`` in a rule says what a reader expects.
- ``exclusiveMinimum: 0`` becomes ``minimum: 0, exclusiveMinimum: true``.
- A field whose model has a default gets that default, but nothing inside the items of a list does: with such a default
  every ``kubectl apply`` says "configured", and Argo CD shows OutOfSync.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from finetune_api import names
from finetune_api.base import Model, Mutable
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

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
)

PRINTER_COLUMNS: list[Schema] = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase", "description": "Where the job is."},
    {
        "name": "Progress",
        "type": "string",
        "jsonPath": ".status.headline.progress",
        "description": "Share done.",
    },
    {"name": "ETA", "type": "string", "jsonPath": ".status.headline.eta", "description": "Time left."},
    {
        "name": "Metric",
        "type": "string",
        "jsonPath": ".status.headline.metric",
        "description": "Metric shown.",
    },
    {
        "name": "Base→Tuned",
        "type": "string",
        "jsonPath": ".status.headline.baseToTuned",
        "description": "The metric of the untouched base and of the tuned model.",
    },
    {
        "name": "Adapter",
        "type": "string",
        "jsonPath": ".status.result.adapterURI",
        "description": "Where it lies.",
    },
    {
        "name": "Model",
        "type": "string",
        "jsonPath": ".spec.model.uri",
        "priority": 1,
        "description": "The base.",
    },
    {
        "name": "Message",
        "type": "string",
        "jsonPath": ".status.message",
        "priority": 1,
        "description": "The story.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def definition() -> Schema:
    """The CustomResourceDefinition of FineTuneJob as a JSON-able object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": names.LIST_KIND,
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": PRINTER_COLUMNS,
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    spec = model_schema(FineTuneJobSpec)
    spec["x-kubernetes-validations"] += list(_immutable(FineTuneJobSpec))
    run_policy = spec["properties"]["runPolicy"]
    run_policy.setdefault("x-kubernetes-validations", []).extend(
        _immutable(FineTuneJobSpec.model_fields["run_policy"].annotation, "runPolicy.")
    )
    status = model_schema(FineTuneJobStatus, defaults=False)
    conditions = status["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return {
        "type": "object",
        "description": "One fine-tuning of one language model.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }


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


def _immutable(model: Any, where: str = "") -> Iterator[Schema]:
    """Transition rules: every field but the mutable ones, and but runPolicy, whose fields have rules of their own."""
    for attribute, info in model.model_fields.items():
        field = info.alias or attribute
        if attribute == "run_policy" or any(isinstance(marker, Mutable) for marker in info.metadata):
            continue
        yield {
            "rule": _unchanged(field),
            "message": f"spec.{where}{field} is immutable: delete the FineTuneJob and apply it again, "
            "or apply it under another name",
            "fieldPath": f".{field}",
        }


def _unchanged(field: str) -> str:
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
