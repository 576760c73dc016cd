"""Conversations → text by the model's chat template, and which part of the text the assistant said.

Templates run in transformers' sandboxed Jinja. Where a template marks the assistant's words with ``{% generation %}``,
those marks count. Most do not, and then each turn is found by rendering the conversation in parts:

* it begins where the template's generation prompt ends: exactly where a model in use starts to write;
* it ends after the content plus what the template puts behind it whatever follows (``<|im_end|>``).

A template may write a turn differently once others follow (Qwen3 drops earlier reasoning), so both ends are taken from
the whole conversation, and a template under which they cannot be found is refused rather than learned wrongly.
"""

import functools
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.records import Record

Messages = Sequence[dict[str, Any]]
Span = tuple[int, int]
"""Characters: from, to (exclusive)."""

_STAND_IN = "answer-7f3a9c51e2"
"""Put in place of a turn's content to see where the template puts it."""


class ChatTemplate:
    """The chat template of a tokenizer.

    Raises:
        TrainerError: CONFIGURATION_INVALID, if there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                "The data are conversations (messages), but the model's tokenizer has no chat template. Choose an "
                "instruction-tuned model, add chat_template.jinja to the model's directory, or give the data as "
                "prompt and completion.",
            )
        self._tokenizer = tokenizer

    @functools.cached_property
    def _marked(self) -> bool:
        return bool(re.search(r"\{%-?\s*generation\s*-?%\}", self._template(())))

    def _template(self, tools: Messages) -> str:
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
                given = len(self.prompt(record.messages[: record.learn_from], record.tools))
                return text, [(start, end) for start, end in marks if start >= given]
            return text, [
                self._turn(record, index, text)
                for index, message in enumerate(record.messages)
                if message["role"] == "assistant" and index >= record.learn_from
            ]
        except TemplateSyntaxError as error:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The model's chat template is no valid Jinja (line {error.lineno}: {one_line(error)}). Correct "
                "chat_template.jinja, or chat_template in tokenizer_config.json, in the model's directory.",
            ) from error
        except (TemplateError, TypeError, KeyError) as error:
            raise TrainerError(
                ExitCode.DATA_INVALID,
                f"{record.source}: the model's chat template refuses the conversation: {one_line(error)}. Correct the "
                "order and the roles of its messages.",
            ) from error

    def _turn(self, record: Record, index: int, text: str) -> Span:
        """The assistant's turn ``index`` within ``text``, the whole conversation."""
        messages = record.messages
        stand_in = {**messages[index], "content": _STAND_IN}
        in_place = self._render((*messages[:index], stand_in, *messages[index + 1 :]), record.tools)[0]
        as_last = self._render((*messages[:index], stand_in), record.tools)[0]
        before, found, rest = in_place.rpartition(_STAND_IN)
        _, found_last, closing = as_last.rpartition(_STAND_IN)
        start = self.prompt(messages[:index], record.tools) if index else before
        if not (found and found_last and text.endswith(rest) and text.startswith(start)):
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"{record.source}: the model's chat template writes message {index} so that it cannot be told where "
                "the assistant's words begin and end. Mark them in the template with {% generation %} and "
                "{% endgeneration %}, or give the data as prompt and completion.",
            )
        return len(start), len(text) - len(rest) + _common(rest, closing)


def _common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
