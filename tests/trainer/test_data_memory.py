"""What data preparation takes of memory, in processes of their own: it depends neither on files nor on records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

PREPARE = """
import sys
from pathlib import Path

import torch
from finetune_trainer.preparation.data import DataFile, RecordSet, SourceFile
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.record import Record
from finetune_trainer.preparation.records import find_format, read_records
from tests import tiny

def peak():  # not ru_maxrss, which a process has from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10

path, uri = Path(sys.argv[1]), "s3://team-a/train.jsonl"
encoder = Encoder(tiny.tokenizer(), 2048)
encoder.encode([Record("first", text=tiny.TEXT[0])])
before = peak()
format_ = find_format(path, uri, None, ("messages", "prompt-completion", "text"))
count = sum(1 for _ in read_records(path, uri, format_))
encoded = encoder.encode(RecordSet([DataFile(path, SourceFile(uri, "", count), format_)]))
print(before, peak(), encoded.tokens)
"""
PROSE = "The quick brown fox jumps over the lazy dog, and what is the capital of France? "


def prepared(path: Path) -> tuple[int, int, int]:
    """(MiB resident when everything was imported, MiB at most, tokens)."""
    out = subprocess.run([sys.executable, "-c", PREPARE, path], capture_output=True, text=True, check=True).stdout
    before, peak, tokens = map(int, out.split())
    return before, peak, tokens


def write_text(path: Path, size: int) -> Path:
    """One record."""
    path.write_text(json.dumps({"text": (PROSE * (size // len(PROSE) + 1))[:size]}))
    return path


def write_chats(path: Path, size: int) -> Path:
    chat = tiny.json_lines({"messages": [{"role": "user", "content": PROSE}, {"role": "assistant", "content": PROSE}]})
    path.write_bytes(chat * (size // len(chat)))
    return path


def test_a_long_text_is_tokenized_in_pieces(tmp_path):
    """As a whole it would take 150 bytes a character and more."""
    before, peak, tokens = prepared(write_text(tmp_path / "data", 3 << 19))
    assert tokens > 700_000
    assert peak - before < 150


@pytest.mark.long
def test_a_text_of_sixteen_mebibytes_is_prepared_within_one_gibibyte(tmp_path):
    _, peak, tokens = prepared(write_text(tmp_path / "data", (16 << 20) - 100))
    assert tokens > 5_000_000
    assert peak < 1024


@pytest.mark.long
def test_memory_does_not_grow_with_the_data(tmp_path):
    small = prepared(write_chats(tmp_path / "small", 4 << 20))
    large = prepared(write_chats(tmp_path / "large", 40 << 20))
    assert large[2] > 9 * small[2]
    assert large[1] - large[0] < small[1] - small[0] + 30
