"""``spec.data``: what to train on, and what to measure with."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, NotYet, Rule
from finetune_api.spec.fields import PLAIN, Uri
from finetune_api.templates import NAMED

TEMPLATE = Rule(
    "template",
    "!has(self.template) || self.template.contains('{{') || self.template.contains('{%') || "
    f"self.template in {list(NAMED)}",
    f"template is neither Jinja ({{{{ … }}}}) nor one of {', '.join(NAMED)}",
    lambda m: m.template is None or "{{" in m.template or "{%" in m.template or m.template in NAMED,
)


class DataSource(Model):
    """One data file."""

    uri: Annotated[Uri, Field(pattern=r"^s3://[^/]+/(.*[^/])$")]
    """The object: `s3://bucket/path/train.jsonl`. JSON Lines, or plain text (`.txt`, documents between blank lines)."""
    format: (
        Literal[
            "auto",
            "messages",
            "prompt-completion",
            "text",
            "preference",
            "feedback",
            "text-label",
            "text-labels",
            "token-tags",
            "question-answer",
            "fields",
        ]
        | None
    ) = None
    """What a record looks like. For text-generation: `messages` (OpenAI chat), `prompt-completion` (`prompt` and
    `completion`), `text` (`text`, or plain text), `preference` (`chosen` and `rejected`, which may be two conversations
    or texts with a common beginning, or answers to a `prompt`), `feedback` (`prompt`, `completion`, and `label`: true
    for a good answer, false for a bad one). For text-classification: `text-label` (`text`, `label`, and
    `text_pair` where it is about two texts), or `text-labels` (the same with a list `labels`, each of which applies).
    For token-classification: `token-tags` (`tokens`, a list of words, and `tags`, one for each). For
    question-answering: `question-answer` (`question`, `context`, and SQuAD's `answers` with `text` and `answer_start`;
    empty lists: there is no answer). `fields`: any, with a template over them. Absent or `auto`: found out from the
    template and the first record."""
    name: Annotated[str, Field(max_length=32, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")] | None = None
    """Name of the set in metrics and report, where there are several: `math` gives `math/eval_loss`. Files of one name
    are one set. Absent: the file's name without its ending, with the folder before it where two are called alike."""
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Times that an epoch sees each record of this file: 2 is twice, 0.5 every other record (the next epoch sees the
    others), 1.5 all of them once and every other one twice. For data.train only. Absent: 1."""
    template: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Prompt template of this file: the name of one of ours ([list](templates.md)), or Jinja, which runs in a sandbox.
    With the variable `messages` it is a chat template, for conversations; else it is over the fields of the records, of
    any kind, and the model learns what stands between the marks:
    `Question: {{ question }} Answer:{% generation %} {{ answer }}{% endgeneration %}`. Absent: in data.validation that
    of the train set of the same name; data.template; the model's chat template."""

    rules = (*PLAIN, TEMPLATE)


DataSources = Annotated[tuple[DataSource, ...], Field(min_length=1, max_length=16)]


class Prepare(Model):
    """What to do to the records before training."""

    deduplicate: bool | None = None
    """Drop records that repeat an earlier one."""
    min_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Drop records with fewer tokens."""
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Drop records with more tokens."""
    redact: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=16)] | None = None
    """Kinds of personal data to mask."""
    balance_by: Annotated[str, Field(max_length=128)] | None = None
    """Field of the records whose values are to be balanced."""


class Data(Model):
    """What to train on, and what to measure with."""

    train: DataSources
    """Files to train on. Several are mixed: every step draws from all of them, each by its weight."""
    validation: DataSources | None = None
    """Files to measure on, never trained on. Give this or validationFraction."""
    template: Annotated[str, Field(min_length=1, max_length=16384)] | None = None
    """Prompt template of all files that have none of their own. A chat template is published with the tokenizer.
    Absent: the model's chat template, where there are conversations."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training records to hold out instead (0.05 is 5 %), drawn by training.seed."""
    test: Annotated[DataSources | None, NotYet()] = None
    """Files for a final measurement."""
    general: Annotated[DataSources | None, NotYet()] = None
    """Files of general text, to measure what was forgotten."""
    prepare: Annotated[Prepare | None, NotYet()] = None
    """What to do to the records before training."""

    rules = (
        Rule(
            "validationFraction",
            "has(self.validation) != has(self.validationFraction)",
            "give either data.validation (files) or data.validationFraction (for example 0.05), one of the two",
            lambda d: (d.validation is None) != (d.validation_fraction is None),
        ),
        Rule(
            "validation",
            "!has(self.validation) || self.validation.all(s, !has(s.weight))",
            "weight is for data.train only: validation files are measured once, record by record",
            lambda d: all(source.weight is None for source in d.validation or ()),
        ),
        Rule(
            "template",
            "has(self.template) || self.train.all(s, !has(s.format) || s.format != 'fields' || has(s.template))",
            "format fields needs a template over the fields: give data.train[].template or data.template",
            lambda d: d.template or all(source.format != "fields" or source.template for source in d.train),
        ),
        TEMPLATE,
    )
