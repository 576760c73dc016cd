"""The connection to an S3 account: its client, its credentials, and requests that outlast passing troubles.

botocore signs, finds credentials and endpoints, and follows redirects to other regions. It is imported with the first
request. Its own retries are off: they cover no broken transfer, and draw from Python's shared random generator.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune_api.spec import Storage
from finetune_trainer.storage.parallel import Group
from finetune_trainer.storage.patience import Patience
from finetune_trainer.storage.storage_errors import Attempt, Fault, came_from_server, fault_of

logger = logging.getLogger(__name__)

CONNECTIONS = 16
T = TypeVar("T")


@dataclass(frozen=True)
class _Client:
    api: Any
    credentials: Any
    """What it was made with; it may have renewed them since."""


class S3:
    """One S3 account. All methods may be called from several threads."""

    def __init__(self, settings: Storage, patience: Patience) -> None:
        self._settings = settings
        self.patience = patience
        self._lock = threading.Lock()
        self._made: _Client | None = None
        self._reached = False
        """Whether the server has answered, and was not given up since."""
        self._accepted = False

    def call(self, action: str, uri: str, work: Callable[[Any], T], group: Group | None = None) -> T:
        """``work`` with the client, again after passing troubles; ``work`` must be fit to be repeated.

        Raises:
            TrainerError: STORAGE_REFUSED where the server said no, STORAGE_UNAVAILABLE where it could not be reached or
                kept failing for as long as ``patience`` says.
            Abandoned: the group's work is no longer wanted.
        """
        group = group or Group()
        tries = 0
        while True:
            group.require()
            client = self._made
            try:
                client = self._client()
                answer = work(client.api)
            except Exception as error:
                group.require()  # rather than to explain the error with which a transfer was abandoned
                if (fault := self._fault(error, action, uri)) is None:
                    raise
                tries += 1
                pause = self._pause(fault, client, tries)
                if pause is None:
                    raise fault.error from error
                logger.info("%s Trying again in %.1f s.", fault.error.message, pause)
                group.pause(pause)
            else:
                self._reached = self._accepted = True
                return answer

    def _fault(self, error: Exception, action: str, uri: str) -> Fault | None:
        self._reached = self._reached or came_from_server(error)
        server = self._settings.endpoint_url or "AWS S3"
        return fault_of(error, Attempt(action, uri, server, self._accepted))

    def _pause(self, fault: Fault, client: _Client | None, tries: int) -> float | None:
        """Seconds to wait before the next try; None where there is none."""
        if not fault.passing and not (fault.expired and self._renewed(client)):
            return None
        pause = self.patience.pause(tries, self._reached)
        if pause is None:
            self._reached = False  # what comes next, tidying up for instance, need not wait that long again
        return pause

    def _client(self) -> _Client:
        with self._lock:
            self._made = self._made or self._connect()
            return self._made

    def _renewed(self, stale: _Client | None) -> bool:
        """Looks for credentials anew; False where there are none but those of ``stale``."""
        with self._lock:
            if self._made is stale:
                self._made = None
                with suppress(Exception):  # the next try meets it again, and explains it
                    self._made = self._connect()
            return stale is None or self._made is None or self._made.credentials != stale.credentials

    def _connect(self) -> _Client:
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import NoCredentialsError  # type: ignore[import-untyped]
        from botocore.session import Session  # type: ignore[import-untyped]

        settings, patience = self._settings, self.patience
        fallback = "WhenRequired" if settings.endpoint_url else "WhenSupported"
        checksums = {"WhenRequired": "when_required", "WhenSupported": "when_supported"}[settings.checksums or fallback]
        session = Session()
        if (found := session.get_credentials()) is None:
            raise NoCredentialsError
        api = session.create_client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region or "us-east-1",
            config=Config(
                connect_timeout=patience.connect_seconds,
                read_timeout=patience.silence_seconds,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=CONNECTIONS,
                request_checksum_calculation=checksums,
                response_checksum_validation=checksums,
            ),
        )
        return _Client(api, found.get_frozen_credentials())
