"""What the errors of S3 mean: whether trying again may help, and the sentence that a user reads.

Which exit code: STORAGE_UNAVAILABLE where another pod, later or on another node, may fare better, else STORAGE_REFUSED.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line

MISSING = {"NoSuchKey", "404", "NotFound"}
TAKEN = {"PreconditionFailed", "412"}
"""A condition did not hold: If-None-Match of a write, If-Match of a read."""
UNSATISFIABLE = {"InvalidRange", "416"}

_NO_CONDITIONS = {"NotImplemented", "501"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_SKEWED = {"RequestTimeTooSkewed"}
_ELSEWHERE = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "AuthorizationHeaderMalformed",
    "301",
}
_GARBLED = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_PASSING = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "ConditionalRequestConflict",
    "OperationAborted",
}
_PASSING_STATUS = {408, 409, 425, 429}
_NETWORK = {
    "ConnectionError",  # botocore's: no such host, connection refused or timed out, TLS, proxy
    "HTTPClientError",  # closed connections, read time-outs, broken streams
    "IncompleteReadError",
    "ResponseParserError",  # an answer that is no S3 server's, as gateways give when what is behind them is away
    "CredentialRetrievalError",  # whoever hands out the pod's identity is away
    "MetadataRetrievalError",
    "BrokenOff",
}

_MENDS = {
    "NoSuchBucket": "The bucket does not exist: correct the URI or create the bucket.",
    "AccessDenied": "Access is denied: the credentials of spec.storage.credentials, or the pod's identity, need "
    "s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and s3:DeleteObject on the prefix.",
    "InvalidAccessKeyId": "The server does not know this access key: correct the Secret of spec.storage.credentials.",
    "SignatureDoesNotMatch": "The secret key does not belong to the access key: correct the Secret of "
    "spec.storage.credentials.",
}
_MENDS |= dict.fromkeys(MISSING, "The object does not exist: correct the URI or upload the object.")
_MENDS |= dict.fromkeys(("403", "Forbidden", "AllAccessDisabled"), _MENDS["AccessDenied"])
_MENDS |= dict.fromkeys(
    _NO_CONDITIONS,
    "The server has no conditional writes (If-None-Match), without which a result cannot be published safely: upgrade "
    "it or use another server.",
)


class BrokenOff(Exception):
    """A transfer ended early, became unbearably slow, or brought something else than was asked for."""


class Garbled(Exception):
    """What arrived at the server is not what was sent."""


class WrongBytes(TrainerError):
    """An object was read twice, and neither time had the digest that it must have."""

    def __init__(self, uri: str, found: str, expected: str) -> None:
        super().__init__(
            ExitCode.STORAGE_REFUSED,
            f"{uri} has SHA-256 {found}, but {expected} was recorded when it was written: it was changed or damaged "
            "since. Write it again, or remove it.",
        )
        self.uri, self.found, self.expected = uri, found, expected


@dataclass(frozen=True)
class Attempt:
    """What was tried."""

    action: str
    """``read``, ``write``, ``list`` or ``delete``."""
    uri: str
    server: str
    """As a user knows it."""
    accepted: bool
    """Whether these credentials have been good for something before."""


@dataclass(frozen=True)
class Fault:
    """An error, understood."""

    error: TrainerError
    passing: bool = False
    """Whether the same request may succeed a little later."""
    expired: bool = False
    """Whether it may succeed with newer credentials."""


def code_of(error: Any) -> str:
    """The code in a server's answer (botocore's ClientError): ``NoSuchKey``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def came_from_server(error: Exception) -> bool:
    """Whether the server was reached, whatever it said."""
    return isinstance(error, BrokenOff | Garbled) or isinstance(getattr(error, "response", None), dict)


def fault_of(error: Exception, attempt: Attempt) -> Fault | None:
    """What an error of botocore or of a transfer means; None for errors of another kind."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    if isinstance(error, ClientError):
        return _answered(error, attempt)
    if isinstance(error, Garbled):
        return Fault(_garbled(attempt, one_line(error)), passing=True)
    if any(kind.__name__ in _NETWORK for kind in type(error).__mro__):
        return Fault(_unreachable(error, attempt), passing=True)
    if isinstance(error, BotoCoreError):
        mend = "Check spec.storage and its credentials Secret."
        return Fault(_refused(attempt, f": {one_line(error).rstrip('.')}. {mend}"))
    return None


def _answered(error: Any, attempt: Attempt) -> Fault:
    code, status = code_of(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _EXPIRED:
        return Fault(_expired(attempt, code), expired=True)
    if code in _SKEWED:
        return Fault(_skewed(error, attempt, code), passing=True)
    if code in _ELSEWHERE:
        return Fault(_elsewhere(error, attempt, code))
    if code in _MENDS:
        return Fault(_refused(attempt, f" ({code}). {_MENDS[code]}"))
    if code in _GARBLED:
        return Fault(_garbled(attempt, code), passing=True)
    if code in _PASSING or status >= 500 or status in _PASSING_STATUS:
        what = f"the server kept answering {status or ''} {code}. Look at the S3 server's health"
        return Fault(_unavailable(attempt, what), passing=True)
    said = one_line(error.response.get("Error", {}).get("Message") or code, 200)
    return Fault(_refused(attempt, f" ({code}): {said.rstrip('.')}. Correct the URI or spec.storage."))


def _garbled(attempt: Attempt, how: str) -> TrainerError:
    return _unavailable(
        attempt,
        f"what arrived is not what was sent ({how}). Look for what changes data between the training pod and the "
        "server",
    )


def _expired(attempt: Attempt, code: str) -> TrainerError:
    """Credentials that were good for a while: the next pod reads the Secret anew, or asks for its own identity's.

    Nothing renews credentials that had expired before the run began, so another pod would fare the same.
    """
    mend = (
        "put fresh ones into the Secret of spec.storage.credentials, or leave it out and let the pod's ServiceAccount "
        "have an identity that renews itself"
    )
    if attempt.accepted:
        return _unavailable(attempt, f"the credentials expired during the run ({code}). Before the next try, {mend}")
    return _refused(attempt, f" ({code}). The credentials have expired: {mend}.")


def _skewed(error: Any, attempt: Attempt, code: str) -> TrainerError:
    """Another pod may run on a node whose clock is right."""
    told = error.response.get("Error", {}).get("ServerTime")
    server_time = f" It was {told} there." if told else ""
    return _unavailable(
        attempt,
        f"the node's clock and the server's are too far apart ({code}).{server_time} Mend the time synchronisation of "
        "the node, or of the server",
    )


def _elsewhere(error: Any, attempt: Attempt, code: str) -> TrainerError:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    named = f"set spec.storage.region to {region}" if region else "set spec.storage.region to that region"
    return _refused(attempt, f" ({code}). The bucket lies in another region: {named}.")


def _unreachable(error: Exception, attempt: Attempt) -> TrainerError:
    return _unavailable(
        attempt,
        f"{attempt.server} could not be reached or broke off ({one_line(error, 200)}). Check spec.storage.endpointUrl "
        "and the network between the training pod and the server",
    )


def _unavailable(attempt: Attempt, what: str) -> TrainerError:
    return TrainerError(ExitCode.STORAGE_UNAVAILABLE, f"Cannot {attempt.action} {attempt.uri}: {what}.")


def _refused(attempt: Attempt, what: str) -> TrainerError:
    return TrainerError(ExitCode.STORAGE_REFUSED, f"Cannot {attempt.action} {attempt.uri}{what}")
