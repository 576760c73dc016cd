"""Requests outlast troubles that pass; credentials are renewed; buckets are followed to their region."""

import math
import threading

import pytest
from botocore.exceptions import EndpointConnectionError

from finetune_api.run import ExitCode
from finetune_api.spec import Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.parallel import Abandoned, Group
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.s3 import S3
from tests.faulty_s3 import error

QUICK = Patience(pause_seconds=0)
URI = "s3://team-a/key"


@pytest.fixture
def connection(faulty):
    return S3(Storage(endpoint_url=faulty.url), QUICK)


def read(connection: S3) -> bytes:
    return connection.call("read", URI, lambda api: api.get_object(Bucket="team-a", Key="key")["Body"].read())


class Away:
    """Work that finds no server, and counts."""

    def __init__(self) -> None:
        self.tries = 0

    def __call__(self, api) -> None:
        self.tries += 1
        raise EndpointConnectionError(endpoint_url="http://s3.example.com")


def tries(connection: S3) -> int:
    away = Away()
    with pytest.raises(TrainerError) as caught:
        connection.call("read", URI, away)
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE
    return away.tries


def test_a_server_that_was_there_is_waited_for_longer_than_one_that_never_was(s3, connection):
    """And one that has been given up no longer than that: what is left to tidy up need not take minutes again."""
    s3.put("key", b"x")
    assert tries(connection) == QUICK.first_tries
    assert read(connection) == b"x"
    assert tries(connection) == QUICK.tries
    assert tries(connection) == QUICK.first_tries


def test_a_server_that_answers_nothing_but_errors_is_there(faulty, connection):
    faulty.spoil(error(503, "SlowDown"), times=math.inf)
    with pytest.raises(TrainerError):
        read(connection)
    assert len(faulty.served) == QUICK.tries


def test_errors_of_another_kind_pass_through_at_once(connection):
    with pytest.raises(ZeroDivisionError):
        connection.call("read", URI, lambda api: 1 / 0)


def test_a_pause_ends_when_the_work_is_no_longer_wanted(faulty):
    connection = S3(Storage(endpoint_url=faulty.url), Patience(pause_seconds=100, longest_pause_seconds=100))
    group = Group()

    def refuse(exchange):
        error(503, "SlowDown")(exchange)
        threading.Thread(target=group.abandon).start()

    faulty.spoil(refuse)
    with pytest.raises(Abandoned):
        connection.call("read", URI, lambda api: api.get_object(Bucket="team-a", Key="key"), group)


def test_credentials_that_cannot_be_renewed_are_told_without_waiting(s3, faulty, connection):
    """They come from the environment, which stays as it is for as long as the pod lives."""
    s3.put("key", b"x")
    faulty.spoil(error(400, "ExpiredToken"), times=math.inf)
    with pytest.raises(TrainerError, match="The credentials have expired") as caught:
        read(connection)
    assert caught.value.code is ExitCode.STORAGE_REFUSED
    assert len(faulty.served) == 1


def test_credentials_that_expire_during_the_run_are_worth_another_pod(s3, faulty, connection):
    s3.put("key", b"x")
    read(connection)
    faulty.spoil(error(400, "ExpiredToken"), times=math.inf)
    with pytest.raises(TrainerError, match="expired during the run") as caught:
        read(connection)
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE


@pytest.mark.parametrize(("variable", "renewed"), [("AWS_SESSION_TOKEN", "newer"), ("AWS_ACCESS_KEY_ID", "newer")])
def test_credentials_that_were_renewed_are_used_without_a_new_process(
    s3, faulty, connection, monkeypatch, variable, renewed
):
    s3.put("key", b"x")

    def expire(exchange):
        monkeypatch.setenv(variable, renewed)
        error(400, "ExpiredToken")(exchange)

    faulty.spoil(expire)
    assert read(connection) == b"x"
    assert renewed in str(faulty.served[-1].headers)


def test_a_node_whose_clock_is_wrong_is_told_so(faulty, connection):
    faulty.spoil(error(403, "RequestTimeTooSkewed", ServerTime="2026-11-21T12:00:00Z"), times=math.inf)
    with pytest.raises(TrainerError, match="the node's clock and the server's are too far apart") as caught:
        read(connection)
    assert caught.value.code is ExitCode.STORAGE_UNAVAILABLE


@pytest.mark.parametrize(
    "redirect",
    [
        error(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
        error(400, "AuthorizationHeaderMalformed", Region="eu-west-1"),
    ],
)
def test_a_bucket_is_followed_to_its_region(s3, faulty, connection, redirect):
    s3.put("key", b"x")
    faulty.spoil(
        redirect, "GET", times=math.inf, where=lambda request: "/us-east-1/" in request.headers["authorization"]
    )
    assert read(connection) == b"x"
    assert "/eu-west-1/" in faulty.served[-1].headers["authorization"]


def test_a_bucket_whose_region_does_not_help_is_told(faulty, connection):
    faulty.spoil(error(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}), times=math.inf)
    with pytest.raises(TrainerError, match=r"set spec\.storage\.region to eu-west-1") as caught:
        read(connection)
    assert caught.value.code is ExitCode.STORAGE_REFUSED


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
    found = S3(Storage.model_validate(settings), QUICK).call("read", URI, lambda api: api.meta.config)
    assert found.request_checksum_calculation == found.response_checksum_validation == expected
