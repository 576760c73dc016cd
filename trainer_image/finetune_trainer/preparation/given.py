"""The prompt templates that a job gives: which one a file's records are written by, and of which kind it is.

Needs neither torch nor transformers: the format of a file depends on its template, and files are read first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_api.run import ExitCode
from finetune_api.spec import Data, DataSource
from finetune_api.templates import NAMED, NamedTemplate
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.preparation.formats import FORMATS, Format
from finetune_trainer.preparation.setnames import set_names

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around what is learned, until the text is whole: code points that Unicode keeps for uses like this one."""


class Marks(Extension):
    """``{% generation %} … {% endgeneration %}``: what the model shall learn to write, as transformers names it."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body between two marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, behind = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (OPEN, CLOSE))
        return [before, *body, behind]


@dataclass(frozen=True)
class Origin:
    """Where a template is from: what messages call it, whose fault it is, and what is to be done."""

    name: str
    code: ExitCode
    mend: str

    def sentence(self, what: str) -> str:
        """What is wrong with the template itself."""
        return f"{self.name.replace('the ', 'The ', 1)} {what}. {self.mend}"

    def refused(self, what: str) -> TrainerError:
        """The error that says so."""
        return TrainerError(self.code, self.sentence(what))


MODELS = Origin(
    "the model's chat template",
    ExitCode.MODEL_INVALID,
    "Choose another model, or mend chat_template.jinja in its directory.",
)


@dataclass(frozen=True)
class Given:
    """A template of the job."""

    field: str
    """``spec.data.train[0].template``."""
    source: str
    """As it was given: a name, or Jinja."""

    @property
    def named(self) -> NamedTemplate | None:
        """The one of ours that it names."""
        return NAMED.get(self.source)

    @property
    def text(self) -> str:
        """Jinja."""
        return self.named.text if self.named else self.source

    @property
    def origin(self) -> Origin:
        """For messages."""
        name = f"{self.field} ({self.source})" if self.named else self.field
        return Origin(name, ExitCode.CONFIGURATION_INVALID, "Correct it.")

    @property
    def own(self) -> bool:
        """It was given for this very file, and not for all that have none."""
        return self.field != JOB_WIDE

    @cached_property
    def kind(self) -> Literal["chat", "fields"]:
        """What it is over: a conversation, or the fields of a record.

        Raises:
            TrainerError: CONFIGURATION_INVALID, where it is no Jinja, or marks nothing that could be learned.
        """
        try:
            names = _PARSING.parse(self.text).find_all(nodes.Name)
            kind: Literal["chat", "fields"] = "chat" if any(name.name == "messages" for name in names) else "fields"
        except TemplateSyntaxError as error:
            raise self.origin.refused(f"is no valid Jinja (line {error.lineno}: {one_line(error)})") from error
        except RecursionError as error:
            raise self.origin.refused("is nested too deeply") from error
        if kind == "fields" and not re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self.text):
            raise self.origin.refused(
                "does not say what the model shall learn. Put {% generation %} and {% endgeneration %} around the "
                "words that it shall write; or, for conversations, use the variable messages"
            )
        return kind


class _Parsing(ImmutableSandboxedEnvironment):
    """Parses, and never compiles or renders."""


_PARSING = _Parsing(extensions=[Marks, loopcontrols])
JOB_WIDE = "spec.data.template"


def given_templates(data: Data) -> tuple[list[Given | None], list[Given | None]]:
    """The templates of the train and the validation files; None where the model's chat template counts."""
    job = Given(JOB_WIDE, data.template) if data.template else None
    train = _of(data.train, "spec.data.train", {}, job)
    named = {name: given for name, given in zip(set_names(data.train), train, strict=True) if given}
    return train, _of(data.validation or (), "spec.data.validation", named, job)


def chat_template(data: Data) -> Given | None:
    """The chat template of the job that is published with the tokenizer: that for all files, or the first one that a
    file has of its own; None: the model's stays."""
    job = [Given(JOB_WIDE, data.template)] if data.template else []
    train = [given for given in given_templates(data)[0] if given and given.own]
    return next((given for given in (*job, *train) if given.kind == "chat"), None)


def _of(sources: Sequence[DataSource], field: str, named: dict[str, Given], job: Given | None) -> list[Given | None]:
    return [
        Given(f"{field}[{number}].template", source.template) if source.template else named.get(name, job)
        for number, (source, name) in enumerate(zip(sources, set_names(sources), strict=True))
    ]


def declared_format(source: DataSource, given: Given | None, formats: Sequence[Format]) -> Format | None:
    """The format that is said of a file, by the user or by the kind of its template; None: nothing is said.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where format, template and task do not go together.
    """
    declared = None if source.format in (None, "auto") else source.format
    if given is None and declared == "fields":
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{source.uri} is given as fields, but no template says what to make of them. Give spec.data.template.",
        )
    if given is None or (not given.own and (declared or source.uri.endswith(".txt"))):
        return declared
    if given.kind == "chat":
        if declared in ("text", "fields"):
            raise given.origin.refused(f"is a chat template (it uses messages), but the format is given as {declared}")
        return declared
    if declared not in (None, "fields"):
        raise given.origin.refused(
            f"is over the fields of records (it does not use messages), but the format is given as {declared}"
        )
    if "fields" not in formats:
        raise given.origin.refused(
            "is over the fields of records (it does not use messages), but this task and objective take "
            f"{' or '.join(formats)}"
        )
    return "fields"


def template_for(source: DataSource, format_: Format, given: Given | None) -> Given | None:
    """The template by which records of a file are written; None where they need none, or the model's counts.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where it was given for this file and cannot be used for it.
    """
    if given is None or (format_ == "fields" if given.kind == "fields" else FORMATS[format_].chat):
        return given
    if given.own or format_ == "fields":
        raise given.origin.refused(f"is a chat template (it uses messages), but {source.uri} holds {format_}")
    return None


def unused(data: Data) -> TrainerError:
    """The error where no train file is written by the template that is given for all of them."""
    return Given(JOB_WIDE, data.template or "").origin.refused("is used by no file of spec.data.train: leave it out")
