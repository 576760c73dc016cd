"""What data files may look like, and what is said of those that are broken."""

import contextlib
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.lines import LINE_LIMIT
from finetune_trainer.preparation.records import find_format, read_records
from tests import tiny

URI = "s3://team-a/train.jsonl"
TEXTS = ("messages", "prompt-completion", "text")
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
PAIR = {"prompt": "a", "completion": "b"}


def read(tmp_path: Path, content: bytes, uri: str = URI, declared=None):
    path = tmp_path / "file"
    path.write_bytes(content)
    return list(read_records(path, uri, find_format(path, uri, declared, TEXTS)))


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (CHAT, "messages", tuple(CHAT["messages"])),
        (PAIR, "completion", "b"),
        ({"text": "whole"}, "text", "whole"),
        ({"prompt": "a", "completion": "b", "text": "ignored, as other fields are"}, "completion", "b"),
    ],
)
def test_the_format_is_found_out_by_looking(tmp_path, record, field, value):
    (found,) = read(tmp_path, tiny.json_lines(record))
    assert getattr(found, field) == value


def test_a_record_names_its_line_in_the_file(tmp_path):
    records = read(tmp_path, b"\n" + tiny.json_lines(PAIR) + b"\n" + tiny.json_lines(PAIR))
    assert [record.source for record in records] == [f"{URI} line 2", f"{URI} line 4"]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    (record,) = read(tmp_path, b"\xef\xbb\xbf" + b'{"text": "one"}\r\n\r\n')
    assert record.text == "one"


def test_documents_of_a_plain_text_file_are_separated_by_blank_lines(tmp_path):
    records = read(tmp_path, b"\none\r\ntwo\n \n\nthree", uri="s3://team-a/book.txt")
    assert [record.text for record in records] == ["one\ntwo", "three"]
    assert [record.source for record in records] == ["s3://team-a/book.txt line 2", "s3://team-a/book.txt line 6"]


def test_text_parts_of_a_message_are_joined(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (record,) = read(tmp_path, tiny.json_lines({"messages": [{"role": "assistant", "content": parts}]}))
    assert record.messages[0]["content"] == "ab"


def test_prompt_and_completion_may_be_lists_of_messages(tmp_path):
    user, assistant = CHAT["messages"]
    (record,) = read(tmp_path, tiny.json_lines({"prompt": [user], "completion": [assistant]}))
    assert (record.messages, record.learn_from) == ((user, assistant), 1)


def test_an_assistant_message_may_be_a_tool_call_without_content(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    chat = {"messages": [*CHAT["messages"], call], "tools": [{"type": "function"}]}
    (record,) = read(tmp_path, tiny.json_lines(chat))
    assert record.messages[2]["content"] == ""
    assert record.tools == ({"type": "function"},)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no record: it is empty"),
        (b"\n \n", "holds no record: it is empty"),
        (b'{"text": "a"}\n{"text": "b"\n', "line 2: broken JSON"),
        (b'{"text": "a"}\n["b"]\n', "line 2: a JSON list, where an object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not UTF-8 (byte 11"),
        (b'{"question": "a"}\n', 'line 1: the fields "question" belong to no format that this task takes'),
        (b"{}\n", "line 1: the fields (none) belong to no format that this task takes"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', "line 2: the field completion is missing"),
        (b'{"text": "a"}\n{"prompt": "a", "completion": "b"}\n', "line 2: a record of format prompt-completion in a"),
        (b'{"text": 5}\n', "line 1: text is a number, where a string"),
        (b'{"text": " "}\n', "line 1: text is empty"),
        (b'{"prompt": "a", "completion": ""}\n', "line 1: completion is empty"),
        (b'{"prompt": null, "completion": "b"}\n', "line 1: prompt is missing or null"),
        (b'{"prompt": ["a"], "completion": "b"}\n', "line 1: prompt is a list; prompt and completion must both"),
        (b'{"messages": "hi"}\n', "line 1: messages is a string, where a non-empty list"),
        (b'{"messages": []}\n', "line 1: messages is an empty list"),
        (b'{"messages": ["hi"]}\n', "messages[0] is a string, where an object"),
        (b'{"messages": [{"role": "bot", "content": "a"}]}\n', 'messages[0].role is "bot"; expected one of system'),
        (b'{"messages": [{"role": "user", "content": 1}]}\n', "messages[0].content is a number"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n', "no assistant turn with text"),
        (b'{"messages": [{"role": "assistant", "content": ""}]}\n', "no assistant turn with text"),
        (b'{"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}\n', "content is a list, where"),
        (b'{"text": "' + b"a" * LINE_LIMIT + b'"}\n', "line 1 is longer than 16 MiB"),
        (b"[" * 100_000 + b"\n", "line 1: broken JSON"),
        (b'{"text": "a \\ud83e"}\n', "half a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "line 1: broken JSON"),
    ],
)
def test_a_broken_file_is_named_with_line_and_mend(tmp_path, content, said):
    with pytest.raises(TrainerError) as caught:
        read(tmp_path, content)
    assert caught.value.code is ExitCode.DATA_INVALID
    assert caught.value.message.startswith(URI)
    assert said in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("declared", ["messages", "prompt-completion"])
def test_a_declared_format_is_held_against_the_first_record(tmp_path, declared):
    with pytest.raises(TrainerError, match=f"line 1: a record of format text in a file of format {declared}"):
        read(tmp_path, b'{"text": "a"}\n', declared=declared)


def test_plain_text_cannot_be_declared_as_anything_else(tmp_path):
    with pytest.raises(TrainerError, match=r"is plain text \(.txt\), but its format is given as messages"):
        read(tmp_path, b"a", uri="s3://team-a/book.txt", declared="messages")


any_text = st.text(st.characters(categories=("L", "Cs", "Cc", "P", "Z")))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=("L", "Cs", "Cc", "P", "Z"))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "prompt", "completion", "text"]), inner)
    ),
    max_leaves=8,
)


def as_lines(values: list) -> bytes:
    """Values as JSON Lines, in ASCII, so that any character can be written."""
    return "\n".join(json.dumps(value) for value in values).encode()


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(json_values, max_size=3).map(as_lines)))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    for uri in (URI, "s3://team-a/book.txt"):
        records = []
        with contextlib.suppress(TrainerError):
            records = list(read_records(path, uri, find_format(path, uri, None, TEXTS)))
        for record in records:
            tiny.tokenizer()(record.text or record.prompt + record.completion)


GIBIBYTE = 1 << 30


def enlarge(path: Path, size: int) -> None:
    """Appends NUL bytes that take no room on the disk."""
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("uri", [URI, "s3://team-a/book.txt"])
@pytest.mark.parametrize("start", [b"", b'{"text": "a"}\n\n{"text": "'], ids=["at once", "later"])
def test_a_line_of_ten_gibibytes_is_refused_after_a_few_mebibytes(tmp_path, uri, start):
    path = tmp_path / "file"
    path.write_bytes(start)
    enlarge(path, 10 * GIBIBYTE)
    peak, message = refused(path, uri)
    assert message == f"{uri} line {start.count(b'%c' % 10) + 1} is longer than 16 MiB. Split the record."
    assert peak < 3 * LINE_LIMIT


def test_a_document_without_end_is_refused_after_a_few_mebibytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"first\n\n" + (b"ab " * 21 + b"\n") * (LINE_LIMIT // 64 + 1))
    enlarge(path, 10 * GIBIBYTE)
    peak, message = refused(path, "s3://team-a/book.txt")
    assert message.startswith("s3://team-a/book.txt line 3 begins a document of more than 16 MiB. Put a blank line")
    assert peak < 12 * LINE_LIMIT  # four bytes a character, and a copy


def refused(path: Path, uri: str) -> tuple[int, str]:
    """(bytes of memory that reading took at most, what was said)."""
    tracemalloc.start()
    try:
        with pytest.raises(TrainerError) as caught:
            list(read_records(path, uri, find_format(path, uri, None, TEXTS)))
        return tracemalloc.get_traced_memory()[1], caught.value.message
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ['{"text": "a", "more": %s}', '{"messages": %s}', "%s"])
def test_nesting_without_end_is_refused(tmp_path, field):
    deep = "[" * 1_000_000 + "]" * 1_000_000
    with pytest.raises(TrainerError, match="line 1: broken JSON"):
        read(tmp_path, (field % deep).encode())


def test_a_conversation_of_a_hundred_thousand_messages_is_refused(tmp_path):
    turn = {"role": "assistant", "content": "a"}
    with pytest.raises(TrainerError, match="line 1: messages has 100000 messages, more than the 10000"):
        read(tmp_path, tiny.json_lines({"messages": [turn] * 100_000}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b'{"text": "a"}\n'), "is compressed by gzip. Decompress it (gunzip), and upload it again."),
        (gzip.compress(b'{"text": "a"}\n')[:12], "is compressed by gzip. Decompress it (gunzip), and upload it again."),
        (b"PK\x03\x04\x14\x00", "is a ZIP archive. Unpack it, and upload it again."),
        (b"PAR1\x15\x04", "is a Parquet file. Export it as JSON Lines, and upload it again."),
        ('{"text": "a"}\n'.encode("utf-16"), "is UTF-16. Save it as UTF-8, and upload it again."),
    ],
    ids=["gzip", "truncated gzip", "zip", "parquet", "utf-16"],
)
@pytest.mark.parametrize("uri", [URI, "s3://team-a/book.txt"])
def test_what_is_no_text_is_named_for_what_it_is(tmp_path, content, said, uri):
    with pytest.raises(TrainerError) as caught:
        read(tmp_path, content, uri)
    assert caught.value.message == f"{uri} {said}"


def test_nul_bytes_in_plain_text_are_refused(tmp_path):
    with pytest.raises(TrainerError, match=r"book.txt line 2 holds a NUL byte, so the file is no text"):
        read(tmp_path, b"one\ntwo\0\n", uri="s3://team-a/book.txt")


def test_byte_order_marks_and_windows_line_ends_are_passed_over(tmp_path):
    content = b"\xef\xbb\xbf" + tiny.json_lines(PAIR, PAIR).replace(b"\n", b"\r\n")
    assert [record.source for record in read(tmp_path, content)] == [f"{URI} line 1", f"{URI} line 2"]
    (text,) = read(tmp_path, b"\xef\xbb\xbfone\r\ntwo\r\n\r\n", uri="s3://team-a/book.txt")
    assert text.text == "one\ntwo"


def test_records_that_are_not_wanted_are_passed_over(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b'{"text": "1"}\n\n{"text": "2"}\n{"text": "3"}\n{"text": "4"}\n')
    assert [record.text for record in read_records(path, URI, "text", bytes([0, 1, 0, 1]))] == ["2", "4"]
    path.write_bytes(b"1\n\n2\n\n3\n")
    assert [record.text for record in read_records(path, "s3://a/b.txt", "text", bytes([1, 0, 1]))] == ["1", "3"]


def test_a_record_is_never_quoted_at_length(tmp_path):
    with pytest.raises(TrainerError) as caught:
        read(tmp_path, json.dumps({f"secret-{n}" * 50: 1 for n in range(100)}).encode())
    assert len(caught.value.message) < 1000
