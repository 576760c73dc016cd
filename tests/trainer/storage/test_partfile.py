"""What of a download is on disk, and what a next process may believe of it."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.storage import partfile
from finetune_trainer.storage.parallel import Abandoned, Group
from finetune_trainer.storage.partfile import PartFile

PIECE = 8
SIZE = 30
CONTENT = bytes(range(SIZE))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def begun(path) -> PartFile:
    part = PartFile(path, PIECE)
    part.begin('"v1"', SIZE)
    return part


def add(part, index, count, group=None) -> None:
    """The next ``count`` bytes of a piece, as far as it has them."""
    start, stop = part.rest(index)
    part.append(index, memoryview(CONTENT[start : min(stop, start + count)]), group or Group())


Steps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, PIECE), st.sampled_from(["", "note", "kill", "close"])))


@given(Steps)
@settings(deadline=None)
def test_whatever_is_killed_and_resumed_what_is_believed_to_be_there_is_there(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("part") / "file"
    part = begun(path)
    for index, count, then in steps:
        add(part, index, count)
        if then == "note":
            part.note(Group())
        elif then:
            if then == "kill":
                os.close(part._file)
            else:
                part.close()
            part = PartFile(path, PIECE)
            if part.size is None:
                part.begin('"v1"', SIZE)
        held = path.with_name("file.part").read_bytes()
        for piece in range(4):
            start, _ = part.rest(piece)
            assert held[piece * PIECE : start] == CONTENT[piece * PIECE : start]
        assert held[: part.contiguous()] == CONTENT[: part.contiguous()]
    for piece in range(4):
        add(part, piece, PIECE)
    part.finish()
    part.close()
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_piece_is_asked_for_from_where_it_ends(path):
    part = begun(path)
    add(part, 1, 3)
    assert part.rest(0) == (0, 8)
    assert part.rest(1) == (11, 16)
    assert part.rest(3) == (24, 30)
    assert part.contiguous() == 0
    add(part, 0, 8)
    assert part.contiguous() == 11
    assert part.missing() == [1, 2, 3]


@pytest.mark.parametrize(
    "spoiled",
    [
        b"",
        b"no json",
        b"[]",
        b'{"filled": [8]}',
        b'{"filled": "xy", "boot": "", "piece": 8, "etag": null, "size": 30}',
    ],
)
def test_a_journal_that_cannot_be_read_is_as_good_as_none(path, spoiled):
    part = begun(path)
    add(part, 0, 8)
    part.close()
    path.with_name("file.part.json").write_bytes(spoiled)
    assert PartFile(path, PIECE).size is None


def test_a_journal_from_before_the_machine_was_started_is_not_believed(path, monkeypatch):
    """What the kernel had not written to the disk by then is lost, however long the file is."""
    part = begun(path)
    add(part, 0, 8)
    part.close()
    assert PartFile(path, PIECE).contiguous() == 8
    monkeypatch.setattr(partfile, "_boot", lambda: "another")
    assert PartFile(path, PIECE).size is None


def test_a_journal_of_more_than_the_file_holds_is_not_believed(path):
    part = begun(path)
    add(part, 0, 8)
    part.close()
    os.truncate(path.with_name("file.part"), 7)
    assert PartFile(path, PIECE).size is None


def test_a_journal_of_pieces_of_another_size_is_not_believed(path):
    part = begun(path)
    add(part, 0, 8)
    part.close()
    assert PartFile(path, 2 * PIECE).size is None


def test_nothing_of_an_abandoned_group_reaches_the_file(path):
    part, group = begun(path), Group()
    group.abandon()
    with pytest.raises(Abandoned):
        add(part, 0, 8, group)
    with pytest.raises(Abandoned):
        part.note(group)
    assert path.with_name("file.part").read_bytes() == b""
    assert not path.with_name("file.part.json").exists()


def test_a_file_that_lost_its_end_gets_no_name(path):
    part = begun(path)
    for piece in range(4):
        add(part, piece, PIECE)
    os.truncate(path.with_name("file.part"), SIZE - 1)
    with pytest.raises(OSError, match="29 bytes of 30 are on the disk"):
        part.finish()
    assert not path.exists()


def test_the_journal_says_what_of_which_version_is_there(path):
    part = begun(path)
    add(part, 2, 5)
    part.note(Group())
    kept = json.loads(path.with_name("file.part.json").read_bytes())
    assert kept == {"etag": '"v1"', "size": 30, "piece": 8, "filled": [0, 0, 5, 0], "boot": partfile._boot()}
