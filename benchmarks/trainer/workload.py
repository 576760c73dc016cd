"""What every contender trains on: one model, one tokenizer, one set of chats, one effective batch. All from a seed."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tests import tiny

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, with the assistant's words marked as TRL wants them for ``assistant_only_loss``."""
_SYLLABLES = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
_SETTING = "setting.json"
_MESSAGE_OVERHEAD = 5
"""Tokens that the template puts around a message."""

Chat = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Setting:
    """Sizes of model and data. The default is a Llama of 26 million weights and 400 chats of 20 to 512 tokens."""

    chats: int = 400
    held_out: int = 64
    median_tokens: int = 110
    longest: int = 512
    """Tokens of the longest chat, and the ``maxLength`` of every contender: none is cut."""
    vocabulary: int = 16_384
    words: int = 16_000
    """Different words of the chats; enough for the tokenizer to find that many tokens."""
    hidden: int = 512
    intermediate: int = 1_408
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 4
    embeddings: int | None = None
    """Rows of the embedding. Absent: as many as the tokenizer has tokens, tied to the head; else both are untied."""
    dtype: str = "float32"
    """Of weights and computation, by torch's name."""
    batch_size: int = 16
    """Records an optimizer step."""
    together: int = 8
    """Records a padded forward pass."""
    learning_rate: float = 1e-3
    seed: int = 42


TINY = Setting(
    chats=24, held_out=4, median_tokens=30, longest=128, vocabulary=320, words=50, hidden=32, intermediate=64, layers=2,
    heads=2, key_value_heads=2, batch_size=8,
)  # fmt: skip
"""For tests of the benchmark itself."""


@dataclass(frozen=True)
class Workload:
    """A workload on disk."""

    directory: Path
    setting: Setting

    @classmethod
    def load(cls, directory: Path) -> Self:
        """What :func:`make` has written."""
        return cls(directory, Setting(**json.loads((directory / _SETTING).read_text())))

    def save_setting(self) -> None:
        """For :meth:`load`."""
        (self.directory / _SETTING).write_text(json.dumps(asdict(self.setting)))

    @property
    def model(self) -> Path:
        """Directory of model and tokenizer."""
        return self.directory / "model"

    @property
    def train(self) -> Path:
        """JSON Lines of ``messages``."""
        return self.directory / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """JSON Lines of ``messages``, never trained on."""
        return self.directory / "held_out.jsonl"

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)

    def chats(self, path: Path) -> list[Chat]:
        """The records of ``path``."""
        return [json.loads(line) for line in path.read_text().splitlines()]

    def encoded(self, path: Path) -> list[dict[str, list[int]]]:
        """``input_ids`` and ``labels`` (-100 where nothing is learned) of every chat, as transformers makes them."""
        return [self._encoded(chat) for chat in self.chats(path)]

    def _encoded(self, chat: Chat) -> dict[str, list[int]]:
        encoding = self.tokenizer.apply_chat_template(
            chat["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = encoding["input_ids"], encoding["assistant_masks"]
        return {"input_ids": ids, "labels": [i if learned else -100 for i, learned in zip(ids, mask, strict=True)]}


def make(directory: Path, setting: Setting, model: Path | None = None) -> Workload:
    """Writes model, tokenizer and data below ``directory``; with ``model``, that one is linked to and taken."""
    workload = Workload(directory, setting)
    directory.mkdir(parents=True, exist_ok=True)
    workload.save_setting()
    chance = random.Random(setting.seed)
    text = _Text(chance, setting.words)
    if model:
        workload.model.symlink_to(model.resolve(), target_is_directory=True)
    else:
        tokenizer = tiny.tokenizer(setting.vocabulary, CHAT_TEMPLATE, text.sample())
        tokenizer.pad_token = "<|endoftext|>"
        tokenizer.save_pretrained(workload.model)
        _save_model(workload)
    for path, count in ((workload.train, setting.chats), (workload.held_out, setting.held_out)):
        path.write_bytes(tiny.json_lines(*(_chat(workload, text, chance) for _ in range(count))))
    return workload


class _Text:
    """Sentences of made-up words: their frequencies follow Zipf's law, and each has a favourite to follow it."""

    def __init__(self, chance: random.Random, words: int) -> None:
        self._chance = chance
        spellings: dict[str, None] = {}
        while len(spellings) < words:
            spellings["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 4)))] = None
        self._words = list(spellings)
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, words + 1)))
        self._favourite = [self._drawn() for _ in range(words)]

    def _drawn(self) -> int:
        [word] = self._chance.choices(range(len(self._words)), cum_weights=self._weights)
        return word

    def sentence(self, length: int) -> str:
        """``length`` words."""
        return " ".join(self._words[word] for word in itertools.islice(self._walk(), length))

    def sample(self) -> tuple[str, ...]:
        """Enough sentences to train a tokenizer on."""
        return tuple(self.sentence(30) for _ in range(8 * len(self._words) // 30))

    def _walk(self) -> Iterator[int]:
        word = self._drawn()
        while True:
            yield word
            word = self._favourite[word] if self._chance.random() < 0.5 else self._drawn()


def _chat(workload: Workload, text: _Text, chance: random.Random) -> Chat:
    """One to three questions with answers, of log-normally distributed length in all."""
    setting = workload.setting
    drawn = round(chance.lognormvariate(math.log(setting.median_tokens), 0.75))
    target = min(setting.longest, max(20, drawn))
    turns = chance.randint(1, 3) if target > setting.longest // 4 else 1
    words = max(2 * turns, target - 2 * turns * _MESSAGE_OVERHEAD)
    while words:
        chat = {"messages": list(_messages(text, turns, words))}
        if len(workload.tokenizer.apply_chat_template(chat["messages"])["input_ids"]) <= setting.longest:
            return chat
        words = words * 9 // 10
    raise ValueError(f"no chat is as short as {setting.longest} tokens with a vocabulary of {setting.vocabulary}")


def _messages(text: _Text, turns: int, words: int) -> Iterator[dict[str, str]]:
    asked = max(1, words * 2 // 5 // turns)
    for _ in range(turns):
        yield {"role": "user", "content": text.sentence(asked)}
        yield {"role": "assistant", "content": text.sentence(max(1, words // turns - asked))}


def _save_model(workload: Workload) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    setting, tokenizer = workload.setting, workload.tokenizer
    torch.manual_seed(setting.seed)
    config = LlamaConfig(
        vocab_size=setting.embeddings or setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.key_value_heads,
        max_position_embeddings=max(2_048, setting.longest),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=setting.embeddings is None,
        dtype=setting.dtype,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config)
    model.save_pretrained(workload.model)


def tokens(encoded: Sequence[dict[str, list[int]]]) -> int:
    """Tokens that are no padding."""
    return sum(len(example["input_ids"]) for example in encoded)
