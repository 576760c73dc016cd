"""The input of both FineTuneJobs, as files."""

import json
from collections.abc import Iterable
from pathlib import Path

from examples.quickstart.stdlib_docs import Corpus


def write_records(corpus: Corpus, folder: Path) -> None:
    """``prose.jsonl`` (format ``text``), ``train.jsonl`` and ``held-out.jsonl`` (format ``prompt-completion``)."""
    folder.mkdir(parents=True)
    _write(folder / "prose.jsonl", ({"text": text} for text in corpus.prose))
    _write(folder / "train.jsonl", (pair.record() for pair in corpus.train))
    _write(folder / "held-out.jsonl", (pair.record() for pair in corpus.held_out))


def _write(file: Path, records: Iterable[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
