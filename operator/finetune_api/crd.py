"""The CustomResourceDefinitions: names, printer columns, what may change, and the schemas that the models become."""

from collections.abc import Iterator
from typing import Any

from finetune_api import names
from finetune_api.base import Mutable
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.structural import Schema, model_schema

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


PROFILE_COLUMNS: list[Schema] = [
    {"name": "Image", "type": "string", "jsonPath": ".spec.trainer.image", "description": "Of the training pods."},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def definitions() -> list[Schema]:
    """All CustomResourceDefinitions, as JSON-able objects."""
    return [definition(), profile_definition()]


def definition() -> Schema:
    """The CustomResourceDefinition of FineTuneJob."""
    called = {"kind": names.KIND, "plural": names.PLURAL, "shortNames": [names.SHORT_NAME], "categories": ["all"]}
    version = {"subresources": {"status": {}}, "additionalPrinterColumns": PRINTER_COLUMNS}
    return _definition("Namespaced", called, version | {"schema": {"openAPIV3Schema": _root()}})


def profile_definition() -> Schema:
    """The CustomResourceDefinition of FineTuneProfile."""
    called = {
        "kind": names.PROFILE_KIND,
        "plural": names.PROFILE_PLURAL,
        "shortNames": [names.PROFILE_SHORT_NAME],
    }
    about = "What FineTuneJobs may use, and what their pods get: the platform team's."
    root = _object_of(about, {"spec": model_schema(FineTuneProfileSpec)})
    version = {"additionalPrinterColumns": PROFILE_COLUMNS, "schema": {"openAPIV3Schema": root}}
    return _definition("Cluster", called, version)


def _definition(scope: str, called: Schema, version: Schema) -> Schema:
    kind, plural = called["kind"], called["plural"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()} | called,
            "versions": [{"name": names.VERSION, "served": True, "storage": True} | version],
        },
    }


def _object_of(about: str, properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": about,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        }
        | properties,
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
    return _object_of("One fine-tuning of one language model.", {"spec": spec, "status": status})


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
