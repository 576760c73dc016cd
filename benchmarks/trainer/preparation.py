"""Data preparation: how fast records become tokens, beside the tokenizer alone, and in how much memory.

What is measured is all that a run does to its data but the download: files are read through and checked, the split is
drawn, conversations are rendered by a chat template, masks are made, tokens are put into files. The tokenizer alone
gets the finished texts, all in one call, which is its fastest way.

The texts are English prose, the docstrings of Python's standard library, in chats of mixed lengths; the tokenizer is a
byte-level BPE of 32,768 tokens, with the pattern that most models in use split by, trained on the spot.

    python -m benchmarks.trainer.preparation 5120     the memory for a data set of so many MiB
"""

import ast
import importlib
import json
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.row import Goal, Row, at_least, at_most, table
from benchmarks.trainer.meter import memory as resident
from benchmarks.trainer.process import measured, tell
from finetune_api.spec import Data
from finetune_trainer.preparation.data import load
from finetune_trainer.preparation.encoder import Encoder
from tests import tiny
from tests.chat_templates import CHATML, REASONING

CHATS = 6000
REPETITIONS = 5
SIZES = (40, 200)
"""MiB of the data sets whose memory is measured: the larger is five times the smaller."""
GROWTH = 24
"""MiB by which memory may grow from the smaller to the larger: a record takes one byte and an example 16."""
VOCABULARY = 32_768
MAX_LENGTH = 2048
_MODULE = "benchmarks.trainer.preparation"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def rows() -> list[Row]:
    """The section."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        tokenizer(prose()).save_pretrained(directory / "tokenizer")
        write_chats(directory / "chats.jsonl", CHATS, prose())
        speeds = measured("-m", _MODULE, "speed", scratch, TMPDIR=scratch)
        small, large = (memory(size, directory) for size in SIZES)
    return [
        *_speed_rows("", speeds["plain"], at_least(0.8)),
        *_speed_rows(", a template that looks into contents", speeds["reasoning"], None),
        *(_memory_row(size, peak) for size, peak in zip(SIZES, (small, large), strict=True)),
        Row(f"preparation, growth from {SIZES[0]} to {SIZES[1]} MiB of data", large - small, "MiB", at_most(GROWTH)),
    ]


def _speed_rows(name: str, taken: dict[str, list[float]], goal: Goal | None) -> list[Row]:
    (cpu, wall), (cpu_alone, wall_alone) = taken["ours"], taken["tokenizer"]
    note = f"{1e6 * wall / CHATS:.0f} µs a chat, the tokenizer alone {1e6 * wall_alone / CHATS:.0f}"
    return [
        Row(f"preparation{name}, share of the tokenizer's speed", wall_alone / wall, "×", goal, note),
        Row(f"preparation{name}, the same by processor time", cpu_alone / cpu, "×"),
    ]


def _memory_row(size: int, peak: float) -> Row:
    return Row(f"preparation, peak memory, {size} MiB of data", peak, "MiB", at_most(1024), "torch is imported")


@cache
def prose() -> tuple[str, ...]:
    """The longer docstrings of the standard library."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # examples of what is wrong
            continue
        documented = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module))
        found += [text for node in documented if len(text := ast.get_docstring(node) or "") > 100]
    return tuple(found)


def tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer of the size and with the pattern of models in use."""
    bpe = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(tiny.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")


def write_chats(path: Path, count: int, texts: Sequence[str], seed: int = 0) -> None:
    """JSON Lines of ``count`` chats of one to four questions, some with a system's part: about 2,000 characters."""
    chance = random.Random(seed)
    words = " ".join(texts).split()

    def piece(mean: int) -> str:
        """Some words in a row, of about ``mean`` characters; the lengths are log-normal."""
        length = min(len(words) - 1, max(1, int(chance.lognormvariate(0, 0.9) * mean / 6)))
        start = chance.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": "system", "content": piece(100)}] if chance.random() < 0.3 else []
            for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
                messages += [{"role": "user", "content": piece(150)}, {"role": "assistant", "content": piece(450)}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


class Disk:
    """Files on this disk in place of S3."""

    def download(self, uri: str, path: Path) -> str:
        """What :meth:`finetune_trainer.storage.store.Store.download` does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.hardlink_to(uri.removeprefix("s3:/"))
        return ""


def prepare(path: Path, encoder: Encoder, directory: Path) -> int:
    """All that is done to a run's data; returns the number of tokens."""
    spec = Data.model_validate({"train": [{"uri": f"s3:/{path}"}], "validationFraction": 0.05})
    data = load(spec, ("messages",), 0, cast(Any, Disk()), directory)
    return sum(encoder.encode(part).tokens for part in (data.train, data.validation))


def speed(directory: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """By template: least (CPU-seconds, seconds) of preparation and of the tokenizer alone, in turn."""
    made = PreTrainedTokenizerFast.from_pretrained(directory / "tokenizer")
    path = directory / "chats.jsonl"
    chats = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    taken = {}
    for name, template in {"plain": CHATML, "reasoning": REASONING}.items():
        made.chat_template = template
        encoder = Encoder(made, MAX_LENGTH)
        texts = made.apply_chat_template(chats, tokenize=False)
        works = {
            "tokenizer": lambda texts=texts: made(texts),
            "ours": lambda encoder=encoder: prepare(path, encoder, directory / "data"),
        }
        taken[name] = least(works)
    return taken


def least(works: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Least (CPU-seconds, seconds) of each, done in turn, so that a busy machine is busy for all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(REPETITIONS):
        for name, work in works.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: (min(cpu for cpu, _ in each), min(wall for _, wall in each)) for name, each in taken.items()}


def memory(mebibytes: int, directory: Path) -> float:
    """MiB that a process takes at most to prepare so much data."""
    path = directory / f"{mebibytes}.jsonl"
    chats = (directory / "chats.jsonl").read_bytes()
    with path.open("wb") as file:
        for _ in range((mebibytes << 20) // len(chats) + 1):
            file.write(chats)
    peak: float = measured("-m", _MODULE, "memory", str(directory), str(path), TMPDIR=str(directory))["peak"]
    path.unlink()
    return peak


def _memory(directory: Path, path: Path) -> None:
    importlib.import_module("torch")
    made = PreTrainedTokenizerFast.from_pretrained(directory / "tokenizer", chat_template=CHATML)
    tokens = prepare(path, Encoder(made, MAX_LENGTH), directory / "data")
    tell(peak=resident()["VmHWM"], tokens=tokens)  # ru_maxrss would be the parent's, where that had more


def main(task: str, directory: str = "", path: str = "") -> None:
    """What a contender's process does, or one data set of so many MiB."""
    if task == "speed":
        tell(**speed(Path(directory)))
    elif task == "memory":
        _memory(Path(directory), Path(path))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer(prose()).save_pretrained(Path(scratch) / "tokenizer")
            write_chats(Path(scratch) / "chats.jsonl", CHATS, prose())
            print(table([_memory_row(int(task), memory(int(task), Path(scratch)))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
