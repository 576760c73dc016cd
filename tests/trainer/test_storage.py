"""S3: what is written and read, and what its refusals mean to a user."""

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Store

BUCKET = "team-a"


@pytest.fixture
def store(s3):
    return Store(Storage(endpoint_url=s3.url))


@pytest.fixture
def broken_server():
    """A server that answers whatever is in ``replies`` by turns; the last one for ever."""
    replies: list[tuple[int, str, bytes]] = []
    served: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            served.append(self.path)
            status, code, body = replies.pop(0) if len(replies) > 1 else replies[0]
            length = len(body)
            if code == "cut":
                length += 100
            elif code:
                body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                length = len(body)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def do_PUT(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.replies, server.served = replies, served
    server.store = Store(Storage(endpoint_url=f"http://127.0.0.1:{server.server_port}"))
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_is_there_whole_with_its_digest(s3, store, tmp_path):
    content = bytes(range(256)) * 8192
    uri = s3.put("storage/two-mebibytes", content)
    digest = store.download(uri, tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_download_that_breaks_off_is_tried_again(broken_server, tmp_path):
    broken_server.replies += [(200, "cut", b"half"), (200, "", b"whole")]
    broken_server.store.download("s3://bucket/key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert len(broken_server.served) == 2


def test_a_download_that_always_breaks_off_ends_and_leaves_no_file(broken_server, tmp_path):
    broken_server.replies += [(200, "cut", b"half")]
    with pytest.raises(TrainerError) as caught:
        broken_server.store.download("s3://bucket/key", tmp_path / "file")
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    assert not (tmp_path / "file").exists()


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


def test_of_many_that_create_an_object_one_wins(s3, store):
    uri = f"s3://{BUCKET}/storage/race"
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if store.create(uri, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [s3.get(uri)]


def test_an_object_that_is_not_there_may_be_asked_for(store):
    assert store.read_if_there(f"s3://{BUCKET}/storage/nothing") is None


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


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "said"),
    [
        (403, "AccessDenied", ExitCode.STORAGE_REFUSED, "s3:GetObject"),
        (403, "InvalidAccessKeyId", ExitCode.STORAGE_REFUSED, "does not know this access key"),
        (403, "SignatureDoesNotMatch", ExitCode.STORAGE_REFUSED, "secret key does not belong"),
        (501, "NotImplemented", ExitCode.STORAGE_REFUSED, "no conditional writes"),
        (400, "EntityTooLarge", ExitCode.STORAGE_REFUSED, "(EntityTooLarge)"),
        (503, "SlowDown", ExitCode.STORAGE_UNAVAILABLE, "kept answering 503 SlowDown"),
        (500, "InternalError", ExitCode.STORAGE_UNAVAILABLE, "kept answering 500 InternalError"),
    ],
)
def test_a_refusal_says_what_to_do(broken_server, status, code, exit_code, said):
    broken_server.replies.append((status, code, b""))
    with pytest.raises(TrainerError) as caught:
        broken_server.store.create("s3://bucket/manifest.json", b"{}")
    assert caught.value.code is exit_code
    assert "s3://bucket/manifest.json" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("action", "work"),
    [
        ("read", lambda store, path: store.download("s3://bucket/train.jsonl", path)),
        ("read", lambda store, path: store.read_if_there("s3://bucket/manifest.json")),
        ("list", lambda store, path: store.objects("s3://bucket/model/")),
    ],
)
def test_a_reader_without_the_right_is_told_which_right_is_missing(broken_server, tmp_path, action, work):
    broken_server.replies.append((403, "AccessDenied", b""))
    with pytest.raises(TrainerError) as caught:
        work(broken_server.store, tmp_path / "file")
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert caught.value.message.startswith(f"Cannot {action} s3://bucket/")
    assert "s3:ListBucket on the bucket and s3:GetObject" in caught.value.message
    assert list(tmp_path.glob("file")) == []


def test_a_passing_trouble_is_waited_out(broken_server):
    broken_server.replies += [(503, "SlowDown", b""), (200, "", b"there")]
    assert broken_server.store.read("s3://bucket/key") == b"there"


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
    ("settings", "expected"),
    [
        ({}, "when_supported"),
        ({"endpointUrl": "http://127.0.0.1:1"}, "when_required"),
        ({"endpointUrl": "http://127.0.0.1:1", "checksums": "WhenSupported"}, "when_supported"),
        ({"checksums": "WhenRequired"}, "when_required"),
    ],
)
def test_checksums_of_its_own_the_client_adds_where_servers_take_them(s3, settings, expected):
    config = Store(Storage.model_validate(settings))._client.meta.config
    assert config.request_checksum_calculation == config.response_checksum_validation == expected
