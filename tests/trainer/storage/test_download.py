"""A download goes on where it broke off, is of one version of its object, and is there whole or not at all."""

import errno
import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.storage_errors import WrongBytes
from finetune_trainer.storage.store import Store
from tests.faulty_s3 import after, dripping, ended_after, error, garbled_answer, reset_after, shortened_to

PIECE = 64 << 10
CONTENT = bytes(range(251)) * 1000  # 245 KiB: four pieces, the last of them shorter
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(pause_seconds=0, tries=4)


@pytest.fixture
def uri(s3, request):
    return s3.put(f"download/{request.node.name}", CONTENT)


@pytest.fixture
def store(faulty):
    return Store(Storage(endpoint_url=faulty.url), QUICK, piece=PIECE)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "file"


def left(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE + 17])
def test_an_object_of_any_size_arrives_whole_with_its_digest(s3, store, file, size):
    content = os.urandom(size)
    uri = s3.put(f"download/size-{size}", content)
    assert store.download(uri, file) == hashlib.sha256(content).hexdigest()
    assert file.read_bytes() == content
    assert left(file) == ["file"]


def test_each_piece_is_asked_for_once_and_of_one_version(s3, store, faulty, file, uri):
    store.download(uri, file)
    first, *others = faulty.of("GET")
    assert [first.range, *sorted(request.range for request in others)] == [
        "0-65535",
        "131072-196607",
        "196608-250999",
        "65536-131071",
    ]
    etag = s3.client.head_object(Bucket="team-a", Key=uri.removeprefix("s3://team-a/"))["ETag"]
    assert {request.headers.get("if-match") for request in others} == {etag}


def test_a_file_that_is_there_already_is_replaced(store, file, uri):
    file.parent.mkdir()
    file.write_bytes(b"old")
    store.download(uri, file)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("broken", [reset_after, ended_after, shortened_to])
@pytest.mark.parametrize("piece", ["0-", "131072-"])
def test_a_piece_that_breaks_off_goes_on_where_it_stopped(store, faulty, file, uri, broken, piece):
    """A connection reset, a body shorter than announced, and one that is announced shorter than it was asked for.

    A reset may take with it what has arrived and was not read yet.
    """
    faulty.spoil(broken(1000), "GET", where=lambda request: request.range.startswith(piece))
    assert store.download(uri, file) == DIGEST
    start = int(piece.rstrip("-"))
    asked = [request.range for request in faulty.of("GET")]
    _, again = (int(each.partition("-")[0]) for each in asked if each.endswith(f"-{start + PIECE - 1}"))
    assert again in range(start if broken is reset_after else start + 1000, start + 1001)
    assert len(asked) == 5


@pytest.mark.parametrize("trouble", [(500, "InternalError"), (503, "SlowDown")])
def test_a_server_that_fails_for_a_while_is_waited_for(store, faulty, file, uri, trouble):
    faulty.spoil(error(*trouble), "GET", times=3)
    assert store.download(uri, file) == DIGEST


def test_an_answer_that_drips_is_broken_off_and_asked_for_again(faulty, file, uri):
    """Every byte comes within the time-out, and all of them would take hours."""
    store = Store(Storage(endpoint_url=faulty.url), Patience(pause_seconds=0, silence_seconds=0.5), piece=PIECE)
    faulty.spoil(dripping(0.05), "GET")
    assert store.download(uri, file) == DIGEST


def test_an_answer_that_stays_away_is_asked_for_again(faulty, file, uri):
    store = Store(Storage(endpoint_url=faulty.url), Patience(pause_seconds=0, silence_seconds=0.5), piece=PIECE)
    faulty.spoil(dripping(60), "GET")
    assert store.download(uri, file) == DIGEST


def test_a_download_that_always_breaks_off_ends_in_words_and_leaves_no_file(store, faulty, file, uri):
    faulty.spoil(ended_after(10), "GET", times=math.inf)
    with pytest.raises(TrainerError) as caught:
        store.download(uri, file)
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    assert f"Cannot read {uri}: {faulty.url} could not be reached or broke off" in caught.value.message
    assert "ended early" in caught.value.message
    assert not file.exists()


def test_a_download_that_failed_goes_on_with_the_next_call(store, faulty, file, uri):
    faulty.spoil(ended_after(1000), "GET", times=math.inf, where=lambda request: request.range.startswith("1"))
    faulty.spoil(error(403, "AccessDenied"), "GET", times=math.inf, where=lambda request: request.range[:1] == "1")
    with pytest.raises(TrainerError):
        store.download(uri, file)
    had = len(faulty.of("GET"))
    faulty.faults.clear()
    assert store.download(uri, file) == DIGEST
    assert all(int(request.range.partition("-")[0]) >= PIECE for request in faulty.of("GET")[had:])
    assert left(file) == ["file"]


KILLED = """
import os, sys
from pathlib import Path
from finetune_api.spec import Storage
from finetune_trainer.storage.partfile import PartFile
from finetune_trainer.storage.store import Store
uri, endpoint, path, most = sys.argv[1:]
append = PartFile.append
written = []
def die_after_some(self, index, block, group):
    append(self, index, block, group)
    written.append(len(block))
    if sum(written) >= int(most):
        os._exit(9)
PartFile.append = die_after_some
Store(Storage(endpoint_url=endpoint), piece=64 << 10).download(uri, Path(path))
"""


@pytest.mark.parametrize("most", [1, 65536, 200000])
def test_a_download_whose_process_was_killed_goes_on_in_the_next(store, faulty, file, uri, most):
    killed = subprocess.run([sys.executable, "-c", KILLED, uri, faulty.url, str(file), str(most)], timeout=60)
    assert killed.returncode == 9
    assert not file.exists()
    had = len(faulty.of("GET"))
    assert store.download(uri, file) == DIGEST
    assert file.read_bytes() == CONTENT
    assert len(faulty.of("GET")) - had <= 4 - (most >= 2 * PIECE)


def test_an_object_that_changes_meanwhile_is_read_anew(s3, store, faulty, file, uri):
    key, other = uri.removeprefix("s3://team-a/"), CONTENT[::-1]
    faulty.spoil(after(lambda: s3.put(key, other)), "GET", where=lambda request: request.range.startswith("65536-"))
    assert store.download(uri, file) == hashlib.sha256(other).hexdigest()
    assert file.read_bytes() == other


def test_an_object_that_changes_at_a_server_without_conditions_is_read_anew(s3, store, faulty, file, uri):
    """It ignores If-Match, and tells another ETag."""
    key, other = uri.removeprefix("s3://team-a/"), CONTENT[::-1]

    def change(exchange):
        s3.put(key, other)
        headers = {name: value for name, value in exchange.request.headers.items() if name != "if-match"}
        exchange.answer(exchange.pass_on(replace(exchange.request, headers=headers)))

    faulty.spoil(change, "GET", where=lambda request: request.range.startswith("65536-"))
    assert store.download(uri, file) == hashlib.sha256(other).hexdigest()


def test_an_object_that_keeps_changing_is_given_up_in_words(s3, store, faulty, file, uri):
    key, versions = uri.removeprefix("s3://team-a/"), iter(range(100))
    change = after(lambda: s3.put(key, CONTENT + str(next(versions)).encode()))
    faulty.spoil(change, "GET", times=math.inf, where=lambda request: request.range.startswith("65536-"))
    with pytest.raises(TrainerError, match="was overwritten while it was read, twice") as caught:
        store.download(uri, file)
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    assert left(file) == []


def test_what_an_earlier_process_left_of_another_version_is_not_used(s3, store, faulty, file, uri):
    faulty.spoil(error(403, "AccessDenied"), "GET", where=lambda request: request.range.startswith("131072-"))
    with pytest.raises(TrainerError):
        store.download(uri, file)
    other = CONTENT[::-1]
    s3.put(uri.removeprefix("s3://team-a/"), other)
    assert store.download(uri, file) == hashlib.sha256(other).hexdigest()
    assert file.read_bytes() == other


def test_bytes_that_were_garbled_on_the_way_are_fetched_again(store, faulty, file, uri):
    faulty.spoil(garbled_answer, "GET")
    assert store.download(uri, file, DIGEST) == DIGEST
    assert file.read_bytes() == CONTENT


def test_bytes_that_are_wrong_in_the_bucket_are_refused_in_words(s3, store, file, uri):
    wrong = CONTENT[:-1] + b"!"
    s3.put(uri.removeprefix("s3://team-a/"), wrong)
    found = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(WrongBytes) as caught:
        store.download(uri, file, DIGEST)
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert caught.value.message.startswith(f"{uri} has SHA-256 {found}, but {DIGEST} was recorded")
    assert left(file) == []


def test_a_server_that_answers_without_a_range_is_not_believed(store, faulty, file, uri):
    def whole(exchange):
        headers = {name: value for name, value in exchange.request.headers.items() if name != "range"}
        exchange.answer(exchange.pass_on(type(exchange.request)("GET", exchange.request.path, headers, b"")))

    faulty.spoil(whole, "GET", times=math.inf)
    with pytest.raises(TrainerError, match="bytes 0-65535 were asked for, 251000 bytes with no range came"):
        store.download(uri, file)


def test_a_full_disk_is_told_as_the_system_tells_it(store, file, uri):
    """Whoever asked for the download knows what it was for, and says that."""
    file.parent.mkdir()
    Path(f"{file}.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        store.download(uri, file)
    assert caught.value.errno == errno.ENOSPC
    assert not file.exists()


def test_files_that_no_longer_matter_are_not_waited_for(s3, faulty, tmp_path):
    """One is refused while another hangs."""
    for name in ("hangs", "refused"):
        s3.put(f"download/group/{name}", CONTENT)
    store = Store(Storage(endpoint_url=faulty.url), Patience(pause_seconds=60), piece=PIECE)
    faulty.spoil(error(503, "SlowDown"), "GET", "group/hangs", times=math.inf)
    faulty.spoil(error(403, "AccessDenied"), "GET", "group/refused")
    with pytest.raises(TrainerError, match="group/refused"):
        store.download_all("s3://team-a/download/group/", ["hangs", "refused"], tmp_path)
