"""The pages of docs/reference that come from the contract: fields, reasons, exit codes; and the settings."""

from collections.abc import Iterator

from pydantic import BaseModel

from finetune_api import crd, names
from finetune_api.base import Model, Mutable
from finetune_api.conditions import MEANINGS, RETRIES, Retry, retry_of
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.run import ExitCode
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.structural import Schema, model_schema
from finetune_api.templates import NAMED
from finetune_operator import jobmetrics, metrics
from finetune_operator.generate.fields import Field, fields, inherited, submodel
from finetune_operator.generate.text import markdown_file, table
from finetune_operator.metrics import Definition
from finetune_operator.settings import documentation


def finetunejob() -> str:
    """docs/reference/finetunejob.md."""
    spec, status = model_schema(FineTuneJobSpec), model_schema(FineTuneJobStatus, defaults=False)
    changeable = ", ".join(f"`spec.{path}`" for path in _mutable(FineTuneJobSpec))
    return markdown_file(
        names.KIND,
        f"`apiVersion: {names.API_VERSION}`, `kind: {names.KIND}`, short name `{names.SHORT_NAME}`. "
        "Every field, as the API server checks it; a field or value that is not supported yet is refused at apply "
        f"time, never ignored. After creation the spec can be changed in {changeable} alone.",
        "Printed by `kubectl get` (by `-o wide` where marked):",
        table(["Column", "Field", ""], _columns()),
        "## spec",
        *_sections(FineTuneJobSpec, spec, "spec"),
        "## status",
        "Written by the operator alone.",
        *_sections(FineTuneJobStatus, status, "status"),
    )


def finetuneprofile() -> str:
    """docs/reference/finetuneprofile.md."""
    spec = model_schema(FineTuneProfileSpec)
    return markdown_file(
        names.PROFILE_KIND,
        f"`apiVersion: {names.API_VERSION}`, `kind: {names.PROFILE_KIND}`, short name `{names.PROFILE_SHORT_NAME}`, of "
        "the whole cluster. `spec.profile` of a FineTuneJob names one; the one called "
        f"`{names.DEFAULT_PROFILE}` is that of jobs that name none. How it works: [profiles.md](../profiles.md).",
        "## spec",
        *_sections(FineTuneProfileSpec, spec, "spec"),
    )


def templates() -> str:
    """docs/reference/templates.md."""
    return markdown_file(
        "Prompt templates",
        "What `spec.data.template` and `spec.data.train[].template` may name. A job may give its own in their place, "
        "in Jinja: `{{ ... }}` or `{% ... %}` tell it from a name. It runs in the sandbox of transformers' chat "
        "templates, within limits of time and memory, and with their settings: the line break behind a `{% ... %}` and "
        "the spaces before one that begins a line are left out.",
        "**A chat template** uses the variable `messages` (and `tools`, `add_generation_prompt`, `bos_token`, "
        "`eos_token`, as every model's does). What the assistant says is learned: what stands between "
        "`{% generation %}` and `{% endgeneration %}`, or, without such marks, the turns as they are found by "
        "rendering. It is published with the tokenizer, `data.template` or else the first one of a train set, so that "
        "servers write prompts as the training did. Of ours, those that end a turn with a token of their own need a "
        "tokenizer that has it; texts then end with it, too.",
        "**Any other template** is over the fields of a record (format `fields`), which are variables by their names; "
        "`record` is all of them together. What stands between the marks is learned, and the tokenizer's end-of-text "
        "token after it where they reach the end. A field that a record does not have is an error: ask with "
        "`is defined` first, or give a `default`. The three first examples of each set stand in the log and in "
        "report.json as the model gets them, with the two answers of a pair apart, and with what a model shall say "
        "of a text: its labels, the tags of its words, which part of it is the answer.",
        *(
            f"## {name}\n\n{named.summary}"
            + (f" Ends a turn with `{named.end}`." if named.end else "")
            + f"\n\n```jinja\n{named.text}\n```"
            for name, named in NAMED.items()
        ),
    )


def _mutable(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for attribute, info in model.model_fields.items():
        name = prefix + (info.alias or attribute)
        if any(isinstance(marker, Mutable) for marker in info.metadata):
            yield name
        if inner := submodel(info.annotation):
            yield from _mutable(inner, f"{name}.")


def _columns() -> Iterator[tuple[str, str, str]]:
    for column in crd.PRINTER_COLUMNS:
        yield column["name"], f"`{column['jsonPath']}`", "`-o wide`" if column.get("priority") else ""


def _sections(model: type[BaseModel], schema: Schema, root: str) -> Iterator[str]:
    """First the fields that are no sections themselves, then each section with its own table."""
    alone = []
    sections: list[str] = []
    for top, inner in _top_level(model, schema):
        if inner is None:
            alone.append(top)
        else:
            sections += _section(top, inner, schema["properties"][top.path], root)
    yield _table(alone, root == "spec")
    yield from sections


def _top_level(model: type[BaseModel], schema: Schema) -> Iterator[tuple[Field, type[BaseModel] | None]]:
    inner = {info.alias or attribute: submodel(info.annotation) for attribute, info in model.model_fields.items()}
    for field in fields(model, schema):
        if field.path in inner:
            yield field, inner[field.path]


def _section(top: Field, model: type[BaseModel], schema: Schema, root: str) -> Iterator[str]:
    items = schema.get("type") == "array"
    mark = "[]" if items else ""
    schema = schema["items"] if items else schema
    yield f"### {root}.{top.path}{mark}"
    notes = [top.description] + [f"**{top.default.capitalize()}.**"] * (top.default == "required")
    notes += [f"**{top.support.capitalize()}.**"] * (top.support != "yes")
    notes += [f"{top.limits.capitalize()}."] * bool(top.limits)
    yield " ".join(notes)
    yield _table(list(fields(model, schema, inherited(top))), root == "spec")
    yield from _rules(model)


def _table(rows: list[Field], spec: bool) -> str:
    if spec:
        headings = ["Field", "Type", "Default", "Limits", "Supported", "Description"]
        return table(headings, ((f"`{f.path}`", f.type, f.default, f.limits, f.support, f.description) for f in rows))
    return table(
        ["Field", "Type", "Limits", "Description"], ((f"`{f.path}`", f.type, f.limits, f.description) for f in rows)
    )


def _rules(model: type[BaseModel]) -> Iterator[str]:
    """The rules that span fields."""
    rules = model.rules if issubclass(model, Model) else ()
    if rules:
        yield "\n".join(f"- {rule.message}" for rule in rules)


def reasons() -> str:
    """docs/reference/reasons.md."""
    return markdown_file(
        "Reasons",
        "A reason says why a FineTuneJob is in its phase: `status.conditions[].reason`, `status.attempts[].reason` and "
        "the reason of its Events. `status.message` adds the case at hand. The fault says who must act: `user` is the "
        "author of the FineTuneJob, `platform` whoever runs cluster and operator, `nobody` nobody.",
        "After an attempt that ended for a reason another one follows, or none: `counted`, while "
        "`spec.runPolicy.maxRetries` lasts; `smaller`, counted too, with half as much through the model at a time "
        "(where `spec.runPolicy.onOutOfMemory` says so); `free`, however often. Without a word here none follows.",
        table(
            ["Reason", "Fault", "Another attempt", "What happened", "Next step"],
            (
                (f"`{reason}`", meaning.fault, RETRIES.get(reason, ""), meaning.sentence, meaning.next_step)
                for reason, meaning in MEANINGS.items()
            ),
        ),
    )


def exit_codes() -> str:
    """docs/reference/exit-codes.md."""
    return markdown_file(
        "Exit codes of a trainer",
        "How a training pod ends tells the operator whose fault a failure is, even where no termination message "
        "could be written. For some codes no other attempt follows, for some one that does not count, or one that lets "
        "less through the model at a time; any other code (also one that is not in this table) counts against "
        "`spec.runPolicy.maxRetries`. A team's own trainer image uses the same codes.",
        table(["Code", "Reason", "Another attempt", "Fault", "What happened"], map(_exit_code, ExitCode)),
    )


def _exit_code(code: ExitCode) -> tuple[str, ...]:
    rule = retry_of(code.reason)
    another = "no" if rule is Retry.NEVER else rule.value
    meaning = MEANINGS[code.reason]
    return str(int(code)), f"`{code.reason}`", another if code else "", meaning.fault, meaning.sentence


def metrics_page() -> str:
    """docs/reference/metrics.md."""
    columns = ["Metric", "Kind", "Labels", "Meaning"]
    return markdown_file(
        "Metrics",
        "Served in Prometheus' text format at `/metrics`, on a port of its own (8081; the settings "
        "`FINETUNE_OPERATOR_METRICS*`). The page tells of all namespaces' jobs and asks nobody who they are: the "
        "chart's `networkPolicy` keeps that port for Prometheus. Histograms give `_bucket`, `_sum` and `_count`; the "
        "usual `process_*` metrics are there, too.",
        "## The operator",
        "On every replica. No label grows with the number of jobs; a namespace stays until the replica ends.",
        table(columns, _metrics(metrics.DEFINITIONS)),
        "## FineTuneJobs",
        "On the leader alone. Looked up in the caches at each scrape: the series of a job end with the job. There are "
        "`namespaces × phases` of `finetune_jobs`, and five for each live job that has told of progress, up to the "
        "setting `FINETUNE_OPERATOR_METRICS_JOBS`.",
        table(columns, _metrics(jobmetrics.DEFINITIONS)),
    )


def _metrics(definitions: tuple[Definition, ...]) -> Iterator[tuple[str, ...]]:
    for d in definitions:
        yield f"`{d.name}`", d.kind, ", ".join(f"`{label}`" for label in d.labels), d.about


def operator_settings() -> str:
    """docs/reference/operator-settings.md."""
    return markdown_file(
        "Settings of the operator",
        "The operator reads its settings once, from environment variables; a variable with this prefix that is no "
        "setting, or a value that cannot be, ends it with a message. Durations are seconds. The chart sets them from "
        "its values.",
        table(
            ["Variable", "Default", "Meaning"],
            ((f"`{name}`", f"`{default}`" if default else "", about) for name, default, about in documentation()),
        ),
    )
