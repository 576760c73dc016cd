"""Conversations → text by the model's chat template or the job's, and which part of the text the assistant said.

Templates run in transformers' sandboxed Jinja, within the limits of :mod:`finetune_trainer.preparation.template_guard`.
Where a template marks the assistant's words with ``{% generation %}``, those marks count. Most do not, and then each
turn is found by rendering the conversation in parts:

* it begins where the template's generation prompt ends: exactly where a model in use starts to write;
* it ends after the content plus what the template puts behind it whatever follows (``<|im_end|>``).

A template may write a turn differently once others follow (Qwen3 drops earlier reasoning), so both ends are taken from
the whole conversation, and a template under which they cannot be found is refused rather than learned wrongly.

That takes three renderings a turn. What they tell holds for every conversation of the same roles as long as the
template only puts the contents between its own words: :mod:`finetune_trainer.preparation.wording`. Each conversation is
rendered once to see that it does, and goes the long way where it does not.
"""

import functools
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.preparation.given import MODELS, Given
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.template_guard import TemplateRefused, Watch, require_in_proportion
from finetune_trainer.preparation.wording import (
    PATIENCE,
    Shape,
    Span,
    Wording,
    absent_from,
    assistant_turns,
    find_wording,
    shape_of,
    with_stand_ins,
)

Messages = Sequence[dict[str, Any]]

_FEW = 3
"""Turns that are found by rendering as fast as in any other way."""
_WORDINGS = 1000
"""Wordings kept."""


class ChatTemplate:
    """The chat template of a tokenizer, or one that the job gives in its place.

    Raises:
        TrainerError: CONFIGURATION_INVALID, if there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, given: Given | None = None) -> None:
        if not given and not tokenizer.chat_template:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                "The data are conversations (messages), but the model's tokenizer has no chat template. Name one in "
                "spec.data.template (plain suits any tokenizer), choose an instruction-tuned model, or give the data "
                "as prompt and completion.",
            )
        self._tokenizer = tokenizer
        self._given = given
        self._origin = given.origin if given else MODELS
        self._watch = Watch()
        self._wordings: dict[Shape, Wording | None] = {}
        self._heard = False
        """The marks were seen to hold what the assistant says."""

    @functools.cached_property
    def _marked(self) -> bool:
        return bool(re.search(r"\{%-?\s*generation\s*-?%\}", self._template(())))

    def _template(self, tools: Messages) -> str:
        if self._given:
            return self._given.text
        template: str = self._tokenizer.get_chat_template(tools=list(tools) or None)
        return template

    def _render(self, messages: Messages, tools: Messages, prompt: bool = False) -> tuple[str, list[Span]]:
        rendered: Any = render_jinja_template(
            conversations=[list(messages)],
            tools=list(tools) or None,
            chat_template=self._template(tools),
            return_assistant_tokens_mask=self._marked,
            add_generation_prompt=prompt,
            **cast(Any, self._tokenizer.special_tokens_map),
        )
        texts, marks = rendered
        require_in_proportion(texts[0], messages, tools)
        return texts[0], list(marks[0]) if self._marked else []

    def prompt(self, messages: Messages, tools: Messages) -> str:
        """The text that a model in use would get to answer after ``messages``; empty before the first message."""
        return self._render(messages, tools, prompt=True)[0] if messages else ""

    def conversation(self, record: Record) -> tuple[str, list[Span]]:
        """The whole text, and the spans of it that are to be learned.

        Raises:
            TrainerError: DATA_INVALID where the template refuses the conversation, MODEL_INVALID where it is broken,
                CONFIGURATION_INVALID where the assistant's turns cannot be told from the rest.
        """
        try:
            text, marks = self._render(record.messages, record.tools)
            if self._marked:
                self._require_heard(record, text, marks)
                given = len(self.prompt(record.messages[: record.learn_from], record.tools))
                return text, [(start, end) for start, end in marks if start >= given]
            return text, self._spans(record, text)
        except TemplateRefused as error:
            raise self._origin.refused(error.what) from error
        except TemplateSyntaxError as error:
            raise self._origin.refused(f"is no valid Jinja (line {error.lineno}: {one_line(error)})") from error
        except (SecurityError, RecursionError, ArithmeticError, AttributeError, ValueError) as error:
            raise TrainerError(
                self._origin.code,
                f"{record.source}: {self._origin.name} fails: {type(error).__name__}: {one_line(error, 200)}. "
                f"{self._origin.mend}",
            ) from error
        except (TemplateError, TypeError, KeyError) as error:
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"{record.source}: {self._origin.name} refuses the conversation: {one_line(error)}. Correct the "
                "order and the roles of its messages.",
            ) from error

    def _require_heard(self, record: Record, text: str, marks: list[Span]) -> None:
        """Refuses a template whose marks hold nothing of what the assistant says; seen at the first conversation."""
        turns = assistant_turns(record)
        if self._heard or not turns:
            return
        last = turns[-1]
        shown = {**record.messages[last], "content": absent_from(text)}
        other, others = self._render((*record.messages[:last], shown, *record.messages[last + 1 :]), record.tools)
        if [text[start:end] for start, end in marks] == [other[start:end] for start, end in others]:
            raise TrainerError(
                self._origin.code,
                f"{record.source}: between the marks of {self._origin.name} there is nothing of what message {last} "
                f"says (its content), so that it could not be learned. {self._origin.mend}",
            )
        self._heard = True

    def _spans(self, record: Record, text: str) -> list[Span]:
        """The assistant's turns within ``text``, the whole conversation."""
        wording = self._wording(record, text)
        found = wording.spans(record.messages, text) if wording else None
        if found is None and len(assistant_turns(record)) > _FEW:
            wording = self._find_wording(record, text, spare="assistant")
            found = wording.spans(record.messages, text) if wording else None
        return self._turns(record, text) if found is None else found

    def _wording(self, record: Record, text: str) -> Wording | None:
        """How the template writes conversations like this one, if it writes them all alike."""
        shape = shape_of(record)
        if shape is None:  # one of a kind
            return self._find_wording(record, text)
        if shape not in self._wordings:
            if len(self._wordings) == _WORDINGS:
                self._wordings.clear()
            self._wordings[shape] = self._find_wording(record, text)
        return self._wordings[shape]

    def _find_wording(self, record: Record, text: str, spare: str | None = None) -> Wording | None:
        try:
            shown = with_stand_ins(record, absent_from(text), spare)
            return find_wording(shown, self._render(shown.record.messages, shown.record.tools)[0], self._turn)
        except Exception:  # whatever it is will come up, and be explained, on the long way
            return None

    def _turns(self, record: Record, text: str) -> list[Span]:
        """The assistant's turns, each found by rendering."""
        turns = assistant_turns(record)
        if len(turns) * len(record.messages) > PATIENCE:
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"{record.source}: {self._origin.name} changes what is said here, so that each of the "
                f"{len(turns)} assistant turns has to be looked for, which takes too long among "
                f"{len(record.messages)} messages. Split the conversation.",
            )
        return [self._turn(record, index, text) for index in turns]

    def _turn(self, record: Record, index: int, text: str, around: tuple[str, str] | None = None) -> Span:
        """The assistant's turn ``index`` within ``text``, the whole conversation.

        Args:
            around: what stands before and behind its content, where that is known.
        """
        messages, tools = record.messages, record.tools
        shown = {**messages[index], "content": absent_from(text)}
        in_place = around or self._around((*messages[:index], shown, *messages[index + 1 :]), tools, index)
        as_last = self._around((*messages[:index], shown), tools, index)
        if in_place and as_last:
            before, behind = in_place
            start = self.prompt(messages[:index], tools) if index else before
            if text.startswith(start) and text.endswith(behind):
                return len(start), len(text) - len(behind) + _common(behind, as_last[1])
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{record.source}: {self._origin.name} writes message {index} so that it cannot be told where "
            "the assistant's words begin and end. Mark them in the template with {% generation %} and "
            "{% endgeneration %}, or give the data as prompt and completion.",
        )

    def _around(self, messages: Messages, tools: Messages, index: int) -> tuple[str, str] | None:
        """What the template writes before and behind the content of a message; None where it does not write it."""
        before, found, behind = self._render(messages, tools)[0].rpartition(messages[index]["content"])
        return (before, behind) if found else None


def _common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
