"""What lies in S3 after an upload is what was sent, or there is an error; nothing unfinished stays behind."""

import base64
import hashlib
import math
import os
import threading

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.store import Store
from finetune_trainer.storage.upload import Sent
from tests.faulty_s3 import after, deaf, error, garbled_request, lost_answer, reset_after

BUCKET = "team-a"
PIECE = 5 << 20  # the server takes no smaller parts but the last
LARGE = os.urandom(2 * PIECE + 1000)
SMALL = b"small"
QUICK = Patience(pause_seconds=0, tries=4)


@pytest.fixture
def prefix(request):
    return f"s3://{BUCKET}/upload/{request.node.name}/"


@pytest.fixture
def store(faulty):
    return Store(Storage(endpoint_url=faulty.url), QUICK, piece=PIECE)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "large").write_bytes(LARGE)
    (tmp_path / "small").write_bytes(SMALL)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def unfinished(s3) -> list[str]:
    return [entry["Key"] for entry in s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


def refused(store, directory, prefix, name="large") -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        store.upload_all(directory, [name], prefix)
    return caught.value


def test_files_of_any_size_arrive_and_are_told_with_size_and_digest(s3, store, directory, prefix):
    sent = store.upload_all(directory, ["large", "small", "empty"], prefix)
    for name, content in {"large": LARGE, "small": SMALL, "empty": b""}.items():
        assert s3.get(prefix + name) == content
        assert sent[name] == Sent(len(content), hashlib.sha256(content).hexdigest())
    assert unfinished(s3) == []


def test_large_files_go_in_parts_and_small_ones_in_one_request(store, faulty, directory, prefix):
    store.upload_all(directory, ["large", "small"], prefix)
    assert len(faulty.of("PUT", "/large?uploadId")) == 3
    assert len(faulty.of("PUT", "/small")) == 1


def test_every_body_travels_with_its_digest(store, faulty, directory, prefix):
    """By which the servers that look at it refuse what was garbled on the way."""
    store.upload_all(directory, ["large", "small"], prefix)
    for request in faulty.of("PUT"):
        digest = hashlib.md5(request.body).digest()
        assert request.headers["content-md5"].encode() == base64.b64encode(digest)


@pytest.mark.parametrize(
    "spoil",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(400, "RequestTimeout"),
        error(400, "BadDigest"),
        error(400, "XAmzContentSHA256Mismatch"),
        lost_answer,
        garbled_request,
        reset_after(0),
    ],
)
@pytest.mark.parametrize("name", ["large", "small"])
def test_what_goes_wrong_with_one_request_is_sent_again(s3, store, faulty, directory, prefix, name, spoil):
    faulty.spoil(spoil, "PUT", times=2)
    store.upload_all(directory, [name], prefix)
    assert s3.get(prefix + name) == (directory / name).read_bytes()
    assert unfinished(s3) == []


def test_a_server_that_takes_nothing_off_the_line_is_tried_again(s3, faulty, directory, prefix):
    patience = Patience(pause_seconds=0, connect_seconds=0.5)
    faulty.spoil(deaf, "PUT")
    Store(Storage(endpoint_url=faulty.url), patience, piece=2 * len(LARGE)).upload_all(directory, ["large"], prefix)
    assert s3.get(prefix + "large") == LARGE
    assert len(faulty.of("PUT")) == 2


@pytest.mark.parametrize("name", ["large", "small"])
def test_bytes_that_never_arrive_as_they_were_sent_are_no_upload(s3, store, faulty, directory, prefix, name):
    """The server in these tests ignores Content-MD5; its ETag gives the change away."""
    faulty.spoil(garbled_request, "PUT", times=math.inf)
    failed = refused(store, directory, prefix, name)
    assert failed.code is ExitCode.STORAGE_UNAVAILABLE
    assert f"Cannot write {prefix}{name}: what arrived is not what was sent (MD5" in failed.message
    assert unfinished(s3) == []


@pytest.mark.parametrize("headers", [{"x-amz-server-side-encryption": "aws:kms"}, {"etag": '"0x8DC5"'}])
def test_an_etag_that_is_no_digest_is_not_taken_for_one(s3, store, faulty, directory, prefix, headers):
    def other_etag(exchange):
        answer = exchange.pass_on()
        etag = {"etag": '"' + "a" * 32 + '"'} | headers
        exchange.answer(type(answer)(answer.status, answer.headers | etag, answer.body))

    faulty.spoil(other_etag, "PUT", times=1)
    faulty.spoil(other_etag, "HEAD", times=1)
    store.upload_all(directory, ["small"], prefix)
    assert s3.get(prefix + "small") == SMALL


@pytest.mark.parametrize("name", ["large", "small"])
@pytest.mark.parametrize("became", ["gone", "other", "shorter"])
def test_an_object_that_is_not_there_in_the_end_is_no_upload(s3, store, faulty, directory, prefix, name, became):
    key = f"{prefix}{name}".removeprefix(f"s3://{BUCKET}/")
    content = (directory / name).read_bytes()
    doing = {
        "gone": lambda: s3.client.delete_object(Bucket=BUCKET, Key=key),
        "other": lambda: s3.put(key, content[::-1]),
        "shorter": lambda: s3.put(key, content[:-1]),
    }[became]
    faulty.spoil(after(doing), "HEAD", times=math.inf)
    failed = refused(store, directory, prefix, name)
    assert failed.code is ExitCode.STORAGE_UNAVAILABLE
    assert f"Cannot write {prefix}{name}: what arrived is not what was sent" in failed.message


@pytest.mark.parametrize(("method", "path"), [("PUT", "partNumber=2"), ("POST", "/large?uploadId")])
def test_a_multipart_upload_that_the_server_lost_is_started_anew(s3, store, faulty, directory, prefix, method, path):
    faulty.spoil(error(404, "NoSuchUpload"), method, path)
    sent = store.upload_all(directory, ["large"], prefix)
    assert s3.get(prefix + "large") == LARGE
    assert sent["large"].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert len(faulty.of("POST", "/large?uploads")) == 2


def test_a_server_that_always_loses_uploads_is_told_in_words(store, faulty, directory, prefix):
    faulty.spoil(error(404, "NoSuchUpload"), "PUT", "partNumber", times=math.inf)
    failed = refused(store, directory, prefix)
    assert failed.code is ExitCode.STORAGE_UNAVAILABLE
    assert "the server lost the multipart upload 3 times" in failed.message


def test_a_completion_that_fails_after_its_status_was_sent_is_asked_for_again(s3, store, faulty, directory, prefix):
    """S3 puts a multipart upload together for minutes, and says 200 before it knows."""
    faulty.spoil(error(200, "InternalError"), "POST", "/large?uploadId")
    store.upload_all(directory, ["large"], prefix)
    assert s3.get(prefix + "large") == LARGE


@pytest.mark.parametrize("came", ["whole", "shorter"])
def test_a_completion_that_tells_no_etag_is_judged_by_the_size(s3, store, faulty, directory, prefix, came):
    """Ceph's tells none: it begins to answer before it has put the parts together."""

    def nothing_told(exchange):
        answer = exchange.pass_on()
        if came == "shorter":
            s3.put(f"{prefix}large".removeprefix(f"s3://{BUCKET}/"), LARGE[:-1])
        body = b"  <CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>"
        exchange.answer(type(answer)(200, {"content-type": "application/xml"}, body))

    faulty.spoil(nothing_told, "POST", "/large?uploadId")
    if came == "shorter":
        assert "10486759 bytes with ETag" in refused(store, directory, prefix).message
    else:
        store.upload_all(directory, ["large"], prefix)
        assert s3.get(prefix + "large") == LARGE


def test_a_completion_whose_answer_got_lost_is_found_done(s3, store, faulty, directory, prefix):
    def gone_afterwards(exchange):
        exchange.pass_on()
        exchange.reset()
        faulty.spoil(error(404, "NoSuchUpload"), "POST", "/large?uploadId")  # as S3 answers the second time

    faulty.spoil(gone_afterwards, "POST", "/large?uploadId")
    store.upload_all(directory, ["large"], prefix)
    assert s3.get(prefix + "large") == LARGE
    assert len(faulty.of("POST", "/large?uploads")) == 1


@pytest.mark.parametrize("trouble", [error(403, "AccessDenied"), error(500, "InternalError")])
@pytest.mark.parametrize(("method", "path"), [("PUT", "partNumber=2"), ("POST", "/large?uploadId")])
def test_an_upload_that_fails_leaves_nothing_unfinished(s3, store, faulty, directory, prefix, trouble, method, path):
    faulty.spoil(trouble, method, path, times=math.inf)
    refused(store, directory, prefix)
    assert unfinished(s3) == []
    assert s3.names(prefix) == []


def test_one_file_that_fails_ends_the_others_and_leaves_nothing_unfinished(s3, store, faulty, directory, prefix):
    """The large one is in the middle of its parts when the small one is refused."""
    begun = threading.Event()

    def hold(exchange):
        begun.set()
        exchange.answer(exchange.pass_on())

    def refuse(exchange):
        begun.wait(10)
        error(403, "AccessDenied")(exchange)

    faulty.spoil(hold, "PUT", "/large")
    faulty.spoil(refuse, "PUT", "/small")
    with pytest.raises(TrainerError, match="/small"):
        store.upload_all(directory, ["large", "small"], prefix)
    assert unfinished(s3) == []


def test_credentials_that_expire_in_the_middle_are_renewed(s3, faulty, directory, prefix, tmp_path, monkeypatch):
    """As the files of a shared Secret and the identity of a pod are: by whoever hands them out, not by us."""
    secrets = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))
    secrets.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")

    def expire(exchange):
        secrets.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = new\n")
        error(400, "ExpiredToken")(exchange)

    signed_by = lambda key: lambda request: f"Credential={key}/" in request.headers["authorization"]  # noqa: E731
    faulty.spoil(expire, "PUT", "partNumber=2", times=math.inf, where=signed_by("old"))
    Store(Storage(endpoint_url=faulty.url), QUICK, piece=PIECE).upload_all(directory, ["large"], prefix)
    assert s3.get(prefix + "large") == LARGE
    assert any(signed_by("new")(request) for request in faulty.of("PUT"))
