"""S3: what is written and read, what becomes of races and lost answers, and what refusals mean to a user."""

import hashlib
import math
import socket
import threading
import time

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import store as storage
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.store import Store
from tests.faulty_s3 import after, ended_after, error, lost_answer

BUCKET = "team-a"
QUICK = Patience(pause_seconds=0)


@pytest.fixture
def store(s3):
    return Store(Storage(endpoint_url=s3.url))


@pytest.fixture
def shaky(faulty):
    """A store at the faulty server."""
    return Store(Storage(endpoint_url=faulty.url), QUICK)


def test_files_are_downloaded_with_their_digests(s3, store, tmp_path):
    contents = {str(number): bytes([number]) * number for number in range(6)}
    for name, content in contents.items():
        s3.put(f"storage/files/{name}", content)
    digests = store.download_all(f"s3://{BUCKET}/storage/files/", list(contents), tmp_path / "deep")
    assert {path.name: path.read_bytes() for path in (tmp_path / "deep").iterdir()} == contents
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_files_of_which_nobody_wants_a_digest_are_downloaded_without_one(s3, store, tmp_path, monkeypatch):
    monkeypatch.setattr(hashlib, "sha256", None)  # whatever signs requests has its own
    s3.put("storage/plain/model", b"weights")
    store.fetch_all(f"s3://{BUCKET}/storage/plain/", ["model"], tmp_path)
    assert (tmp_path / "model").read_bytes() == b"weights"


def test_a_prefix_is_listed_by_name_with_sizes(s3, store):
    for number in range(3):
        s3.put(f"storage/list/{number}", b"x" * number)
    s3.put("storage/list/deeper/3", b"")
    assert [(entry.name, entry.size) for entry in store.objects(f"s3://{BUCKET}/storage/list/")] == [
        ("0", 0),
        ("1", 1),
        ("2", 2),
        ("deeper/3", 0),
    ]


def test_an_object_is_created_once(s3, store):
    uri = f"s3://{BUCKET}/storage/once"
    assert store.create(uri, b"first") is True
    assert store.create(uri, b"second") is False
    assert s3.get(uri) == b"first"


def test_of_many_that_create_an_object_one_wins(s3):
    """Each with a connection of its own, as pods have."""
    uri = f"s3://{BUCKET}/storage/race"
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        store = Store(Storage(endpoint_url=s3.url))
        store.read_if_there(uri)
        barrier.wait()
        if store.create(uri, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [s3.get(uri)]


def test_a_write_whose_answer_got_lost_finds_its_own_object(s3, faulty, shaky):
    uri = f"s3://{BUCKET}/storage/lost-answer"
    faulty.spoil(lost_answer, "PUT")
    assert shaky.create(uri, b"mine") is False
    assert s3.get(uri) == b"mine"
    assert len(faulty.of("PUT")) == 2


def test_two_writes_that_meet_at_the_server_are_settled_by_another_try(s3, faulty, shaky):
    uri = f"s3://{BUCKET}/storage/conflict"
    faulty.spoil(error(409, "ConditionalRequestConflict"), "PUT")
    assert shaky.create(uri, b"mine") is True


def test_a_manifest_that_came_in_between_is_not_overwritten(s3, faulty, shaky):
    uri = f"s3://{BUCKET}/storage/in-between"
    faulty.spoil(after(lambda: s3.put("storage/in-between", b"another's")), "PUT")
    assert shaky.create(uri, b"mine") is False
    assert s3.get(uri) == b"another's"


def test_an_object_that_is_not_there_may_be_asked_for(store):
    assert store.read_if_there(f"s3://{BUCKET}/storage/nothing") is None


def test_what_is_read_into_memory_is_bounded(s3, store, monkeypatch):
    uri = s3.put("storage/manifest.json", b"12345")
    monkeypatch.setattr(storage, "SMALL", 4)
    for read in (store.read, store.read_if_there):
        with pytest.raises(TrainerError, match=f"{uri} has 5 bytes, and no manifest is that large") as caught:
            read(uri)
        assert caught.value.code is ExitCode.STORAGE_REFUSED
    monkeypatch.setattr(storage, "SMALL", 5)
    assert store.read(uri) == store.read_if_there(uri) == b"12345"


def test_objects_are_removed(s3, store):
    uris = [s3.put(f"storage/removed/{number}", b"x") for number in range(5)]
    store.remove_all(uris)
    assert s3.names(f"s3://{BUCKET}/storage/removed/") == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://no-such-bucket/key", "Cannot read s3://no-such-bucket/key (NoSuchBucket). The bucket does not exist"),
        (f"s3://{BUCKET}/none.jsonl", f"Cannot read s3://{BUCKET}/none.jsonl (NoSuchKey). The object does not exist"),
    ],
)
def test_what_is_missing_is_named(store, tmp_path, uri, said):
    with pytest.raises(TrainerError) as caught:
        store.download(uri, tmp_path / "file")
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert caught.value.message.startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("action", "work"),
    [
        ("read", lambda store, path: store.download(f"s3://{BUCKET}/train.jsonl", path)),
        ("read", lambda store, path: store.read_if_there(f"s3://{BUCKET}/manifest.json")),
        ("list", lambda store, path: store.objects(f"s3://{BUCKET}/model/")),
        ("write", lambda store, path: store.create(f"s3://{BUCKET}/manifest.json", b"{}")),
        ("delete", lambda store, path: store.remove_all([f"s3://{BUCKET}/old"])),
    ],
)
def test_who_lacks_a_right_is_told_which(faulty, shaky, tmp_path, action, work):
    faulty.spoil(error(403, "AccessDenied"), times=math.inf)
    with pytest.raises(TrainerError) as caught:
        work(shaky, tmp_path / "file")
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert caught.value.message.startswith(f"Cannot {action} s3://{BUCKET}/")
    assert "s3:ListBucket on the bucket and s3:GetObject" in caught.value.message
    assert len(faulty.served) == 1
    assert list(tmp_path.iterdir()) == []


def test_one_forbidden_object_among_many_is_named(s3, faulty, shaky, tmp_path):
    names = [str(number) for number in range(8)]
    for name in names:
        s3.put(f"storage/forbidden/{name}", b"x")
    faulty.spoil(error(403, "AccessDenied"), "GET", "storage/forbidden/5", times=math.inf)
    with pytest.raises(TrainerError) as caught:
        shaky.download_all(f"s3://{BUCKET}/storage/forbidden/", names, tmp_path)
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert f"Cannot read s3://{BUCKET}/storage/forbidden/5 (AccessDenied)" in caught.value.message


def test_a_bucket_that_is_removed_during_the_run_is_named(s3, tmp_path):
    s3.client.create_bucket(Bucket="short-lived")
    store = Store(Storage(endpoint_url=s3.url), QUICK)
    assert store.create("s3://short-lived/first", b"{}")
    store.remove_all(["s3://short-lived/first"])
    s3.client.delete_bucket(Bucket="short-lived")
    (tmp_path / "file").write_bytes(b"x")
    for work in (
        lambda: store.create("s3://short-lived/second", b"{}"),
        lambda: store.upload_all(tmp_path, ["file"], "s3://short-lived/"),
        lambda: store.read_if_there("s3://short-lived/first"),
    ):
        with pytest.raises(TrainerError, match=r"s3://short-lived/.*NoSuchBucket.*create the bucket") as caught:
            work()
        assert caught.value.code is ExitCode.STORAGE_REFUSED


@pytest.mark.parametrize("trouble", [(500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (429, "")])
def test_a_passing_trouble_is_waited_out(s3, faulty, shaky, trouble):
    uri = s3.put("storage/passing", b"there")
    faulty.spoil(error(*trouble), "GET", times=5)
    assert shaky.read(uri) == b"there"
    assert len(faulty.of("GET")) == 6


def test_a_small_object_that_breaks_off_is_read_again(s3, faulty, shaky):
    uri = s3.put("storage/small", b"whole")
    faulty.spoil(ended_after(2), "GET")
    assert shaky.read(uri) == b"whole"


def test_a_listing_that_breaks_off_is_made_again(s3, faulty, shaky):
    s3.put("storage/listing/one", b"x")
    faulty.spoil(ended_after(50), "GET")
    assert [entry.name for entry in shaky.objects(f"s3://{BUCKET}/storage/listing/")] == ["one"]


def test_a_trouble_that_does_not_pass_ends_after_the_tries_that_patience_names(faulty, shaky):
    faulty.spoil(error(503, "SlowDown"), times=math.inf)
    with pytest.raises(TrainerError, match=r"kept answering 503 SlowDown\. Look at the S3 server's health") as caught:
        shaky.read(f"s3://{BUCKET}/key")
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    assert len(faulty.served) == QUICK.tries


def test_a_server_that_is_not_there_is_given_up_soon():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(TrainerError) as caught:
            Store(Storage(endpoint_url=url)).read("s3://bucket/key")
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    assert f"{url} could not be reached" in caught.value.message
    assert "spec.storage.endpointUrl" in caught.value.message
    assert time.monotonic() - began < 30


def test_missing_credentials_are_the_users_to_mend(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(TrainerError) as caught:
        Store(Storage(endpoint_url=s3.url)).read(f"s3://{BUCKET}/key")
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert "spec.storage" in caught.value.message


@pytest.mark.parametrize(
    "key",
    [
        *("../other/x", "a/./x", "a/..", "..", "a\\..\\x", "a/%2e%2e/x", "a%00b", "a\0b", "a\nb", "a\x1b[2J"),
        *("\uff0e\uff0e/x", "a\u2215x", "a\u202ex", "a\u200bx"),
    ],
)
def test_a_key_that_some_program_takes_for_another_place_is_never_asked_for(key, tmp_path):
    """Without a server: no request is made. The words can be shown on a terminal."""
    nowhere = Store(Storage(endpoint_url="http://127.0.0.1:1"), QUICK)
    for work in (
        lambda: nowhere.read(f"s3://{BUCKET}/{key}"),
        lambda: nowhere.create(f"s3://{BUCKET}/{key}", b"x"),
        lambda: nowhere.download(f"s3://{BUCKET}/{key}", tmp_path / "x"),
        lambda: nowhere.objects(f"s3://{BUCKET}/{key}/"),
    ):
        with pytest.raises(TrainerError) as refused:
            work()
        assert refused.value.code is ExitCode.STORAGE_REFUSED
        assert "is no plain place in S3" in refused.value.message
        assert refused.value.message.isprintable()
