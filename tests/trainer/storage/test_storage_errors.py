"""What each answer of S3 means: waited out or not, which exit code, and what the user is told to do."""

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from finetune_api.run import ExitCode
from finetune_trainer.storage.storage_errors import Attempt, BrokenOff, Garbled, came_from_server, fault_of

URL = "http://s3.example.com"
REFUSED, UNAVAILABLE = ExitCode.STORAGE_REFUSED, ExitCode.STORAGE_UNAVAILABLE


def answered(status, code, headers=None, **elements):
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return ClientError(
        {"Error": {"Code": code, "Message": "no", **elements}, "ResponseMetadata": metadata}, "PutObject"
    )


def fault(error, accepted=False):
    return fault_of(error, Attempt("write", "s3://bucket/key", URL, accepted))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (answered(403, "AccessDenied"), REFUSED, "s3:GetObject, s3:PutObject and s3:DeleteObject"),
        (answered(403, "403"), REFUSED, "s3:GetObject"),
        (answered(403, "InvalidAccessKeyId"), REFUSED, "does not know this access key"),
        (answered(403, "SignatureDoesNotMatch"), REFUSED, "secret key does not belong"),
        (answered(404, "NoSuchBucket"), REFUSED, "correct the URI or create the bucket"),
        (answered(404, "NoSuchKey"), REFUSED, "correct the URI or upload the object"),
        (answered(501, "NotImplemented"), REFUSED, "no conditional writes"),
        (answered(400, "EntityTooLarge"), REFUSED, "(EntityTooLarge): no. Correct the URI or spec.storage."),
        (answered(301, "PermanentRedirect"), REFUSED, "set spec.storage.region to that region"),
        (
            answered(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
            REFUSED,
            "lies in another region: set spec.storage.region to eu-west-1",
        ),
        (answered(400, "AuthorizationHeaderMalformed", Region="eu-west-1"), REFUSED, "region to eu-west-1"),
        (NoCredentialsError(), REFUSED, "Check spec.storage and its credentials Secret"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(error, code, said):
    found = fault(error)
    assert (found.passing, found.expired, found.error.code) == (False, False, code)
    assert found.error.message.startswith("Cannot write s3://bucket/key")
    assert said in found.error.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answered(503, "SlowDown"), "kept answering 503 SlowDown. Look at the S3 server's health"),
        (answered(500, "InternalError"), "kept answering 500 InternalError"),
        (answered(502, "502"), "kept answering 502"),
        (answered(429, "TooManyRequests"), "kept answering 429 TooManyRequests"),
        (answered(400, "RequestTimeout"), "kept answering 400 RequestTimeout"),
        (answered(409, "ConditionalRequestConflict"), "kept answering 409"),
        (answered(200, "InternalError"), "kept answering 200 InternalError"),
        (answered(400, "BadDigest"), "what arrived is not what was sent (BadDigest)"),
        (Garbled("MD5 a was sent, b arrived"), "what arrived is not what was sent (MD5 a was sent, b arrived)"),
        (
            answered(403, "RequestTimeTooSkewed", ServerTime="2026-11-21T12:00:00Z"),
            "too far apart (RequestTimeTooSkewed). It was 2026-11-21T12:00:00Z there. Mend the time synchronisation",
        ),
        (EndpointConnectionError(endpoint_url=URL), f"{URL} could not be reached"),
        (ConnectionClosedError(endpoint_url=URL), f"{URL} could not be reached or broke off"),
        (ReadTimeoutError(endpoint_url=URL), "could not be reached or broke off"),
        (ResponseStreamingError(error="reset"), "could not be reached or broke off"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), "could not be reached or broke off"),
        (CredentialRetrievalError(provider="web identity", error_msg="away"), "could not be reached or broke off"),
        (BrokenOff("10 bytes in 8 s"), "broke off (10 bytes in 8 s). Check spec.storage.endpointUrl"),
    ],
)
def test_a_trouble_that_may_pass_is_waited_out_and_a_retry_may_help(error, said):
    found = fault(error)
    assert (found.passing, found.error.code) == (True, UNAVAILABLE)
    assert found.error.message.startswith("Cannot write s3://bucket/key: ")
    assert said in found.error.message


@pytest.mark.parametrize(
    ("accepted", "code", "said"),
    [(True, UNAVAILABLE, "expired during the run (ExpiredToken)"), (False, REFUSED, "The credentials have expired")],
)
def test_expired_credentials_are_worth_a_retry_if_they_were_good_once(accepted, code, said):
    """A new pod reads the Secret, or asks for its identity, anew; what had expired before the run stays expired."""
    found = fault(answered(400, "ExpiredToken"), accepted)
    assert (found.expired, found.passing, found.error.code) == (True, False, code)
    assert said in found.error.message
    assert "put fresh ones into the Secret of spec.storage.credentials" in found.error.message


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("ours"), KeyError("ETag")])
def test_errors_of_another_kind_are_not_explained_away(error):
    assert fault(error) is None


@pytest.mark.parametrize(
    ("error", "reached"),
    [
        (answered(503, "SlowDown"), True),
        (BrokenOff("ended early"), True),
        (Garbled("other bytes"), True),
        (EndpointConnectionError(endpoint_url=URL), False),
        (ReadTimeoutError(endpoint_url=URL), False),
    ],
)
def test_it_is_known_whether_a_server_was_there_at_all(error, reached):
    assert came_from_server(error) is reached
