"""Examples in files: what goes in comes out, and memory does not grow with them."""

import functools
import os
import subprocess
import sys
import tempfile
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.encoding import Encoded, Example

examples = st.lists(
    st.integers(1, 20).flatmap(
        lambda length: st.builds(
            lambda ids, learned: Example(array("i", ids), bytes(learned)),
            st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length),
            st.lists(st.integers(0, 1), min_size=length, max_size=length),
        )
    ),
    max_size=10,
)


@given(examples)
def test_what_goes_in_comes_out(given_examples):
    encoded = Encoded(iter(given_examples), dropped=3)
    assert list(encoded) == given_examples
    assert [encoded[index] for index in range(len(encoded))] == given_examples
    assert list(encoded.lengths) == [len(example.ids) for example in given_examples]
    assert list(encoded.units) == [example.learned.count(1) for example in given_examples]
    assert encoded.tokens == sum(encoded.lengths)
    assert encoded.dropped == 3
    with pytest.raises(IndexError):
        encoded[len(given_examples)]


def test_the_files_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    encoded = Encoded([Example(array("i", [1, 2]), b"\0\1")])
    assert encoded[0].ids == array("i", [1, 2])
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named(monkeypatch):
    """/dev/full takes nothing."""
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(open, "/dev/full", "w+b"))
    with pytest.raises(TrainerError, match="The disk has no room for the data as tokens") as caught:
        Encoded([Example(array("i", range(1 << 20)), bytes(1 << 20))])
    assert caught.value.code is ExitCode.DISK_FULL


GROWTH = """
from array import array
from pathlib import Path

from finetune_trainer.preparation.encoding import Encoded, Example

def peak():  # not ru_maxrss, which a process has from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10

example = Example(array("i", range(4096)), bytes(4096))
Encoded(example for _ in range(100))
before = peak()
encoded = Encoded(example for _ in range(20_000))
print(encoded.tokens * 5 >> 20, peak() - before)
"""


def test_memory_does_not_grow_with_the_tokens():
    written, grown = map(int, subprocess.check_output([sys.executable, "-c", GROWTH]).split())
    assert written > 380
    assert grown < 8
