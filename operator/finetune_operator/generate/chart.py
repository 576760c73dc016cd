"""The generated files of the chart: its definition, values with their schema and table, and the CRD."""

import json
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from finetune_api.structural import Schema
from finetune_operator.generate.fields import fields
from finetune_operator.generate.text import NOTICE, markdown_file, table, to_yaml, yaml_file
from finetune_operator.generate.values import Values

OLDEST_KUBERNETES = ">=1.31.0-0"
"""podFailurePolicy is stable from here on; podReplacementPolicy and the rules of the CRD are on by default."""

_CRD_HEAD = """\
{{- /* NOTICE */ -}}
{{- if .Values.crds.install }}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: NAME
  labels:
    {{- include "finetune-operator.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
""".replace("NOTICE", NOTICE)

_README = (
    "Installs finetune-operator: the CustomResourceDefinitions of FineTuneJob and FineTuneProfile, the operator with "
    "its rights, and the Service to which training pods report. How to install, upgrade and uninstall it, and what it "
    "may do: `docs/install.md`."
)


def chart_yaml() -> str:
    """Chart.yaml: chart, operator and trainer are released together and carry one version."""
    released = version("finetune-operator")
    return yaml_file(
        {
            "apiVersion": "v2",
            "name": "finetune-operator",
            "description": "Turns ten lines of YAML into a fine-tuned language model.",
            "type": "application",
            "version": released,
            "appVersion": released,
            "kubeVersion": OLDEST_KUBERNETES,
            "keywords": ["fine-tuning", "LoRA", "PEFT", "LLM"],
        }
    )


def crd_template(definition: Schema) -> str:
    """A CRD as a template, because Helm never upgrades what lies in a chart's crds/ folder."""
    spec = to_yaml({"spec": definition["spec"]}).replace("{{", '{{ "{{" }}')
    return f"{_CRD_HEAD.replace('NAME', definition['metadata']['name'])}{spec}{{{{- end }}}}\n"


def values_schema() -> Schema:
    """The JSON schema of the values, without references."""
    raw = Values.model_json_schema(by_alias=True)
    schema: Schema = _inlined(raw, raw["$defs"])
    # Helm gives this key to every chart that is another one's dependency.
    schema["properties"]["global"] = {"type": "object", "description": "Unused here."}
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | schema


def values_schema_json() -> str:
    """values.schema.json."""
    return json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n"


def _inlined(raw: Any, defs: Schema) -> Any:
    if isinstance(raw, list):
        return [_inlined(item, defs) for item in raw]
    if not isinstance(raw, dict):
        return raw
    if "$ref" in raw:
        raw = defs[raw["$ref"].rsplit("/", 1)[1]] | {key: value for key, value in raw.items() if key != "$ref"}
    return {key: _inlined(value, defs) for key, value in raw.items() if key not in ("title", "$defs")}


def values_yaml() -> str:
    """values.yaml: every value with its default, under its description."""
    return f"# {NOTICE}\n\n" + "\n".join(_with_comments(values_schema())) + "\n"


def _with_comments(schema: Schema) -> Iterator[str]:
    for name, of_value in schema["properties"].items():
        if "default" not in of_value:
            continue
        yield from textwrap.wrap(of_value["description"], 100, initial_indent="# ", subsequent_indent="# ")
        if "properties" in of_value:
            yield f"{name}:"
            yield textwrap.indent("\n".join(_with_comments(of_value)), "  ")
        else:
            yield to_yaml({name: of_value["default"]}).rstrip("\n")


def readme() -> str:
    """README.md of the chart, with the table of values."""
    rows = [
        (f"`{field.path}`", field.type, field.default, field.limits, field.description)
        for field in fields(Values, values_schema())
        if field.type != "section"
    ]
    return markdown_file(
        "finetune-operator", _README, "## Values", table(["Value", "Type", "Default", "Limits", "Meaning"], rows)
    )
