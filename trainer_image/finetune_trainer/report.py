"""Sends progress to the operator, in the format of Kubeflow Trainer's status server.

A thread of its own sends the newest status, at most every few seconds. Whatever happens to a report, training goes on.
"""

import logging
import threading
import time
from pathlib import Path

from finetune_api.run import Report, TrainerStatus
from finetune_trainer.connection import TIMEOUT_SECONDS, Connection

logger = logging.getLogger(__name__)


class Endpoint:
    """Where reports go.

    Args:
        url: ``http://`` or ``https://``.
        token: file of the bearer token; read again for every report, because the kubelet renews it.
        authority: file of the certificate authority (PEM); None: those of the system.
    """

    def __init__(self, url: str, token: Path | None, authority: Path | None) -> None:
        self._token = token
        self._connection = Connection(url, authority)

    def post(self, status: TrainerStatus) -> None:
        """Sends one report.

        Raises:
            OSError, ValueError: whatever goes wrong.
        """
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token.read_text().strip()}"
        self._connection.post(Report(trainer_status=status).to_json().encode(), headers)

    def close(self) -> None:
        """There is nothing more to send for now."""
        self._connection.close()


class Reporter:
    """Keeps the newest status and sends it from a thread. Without an endpoint it does nothing."""

    def __init__(self, endpoint: Endpoint | None, interval: float = 5.0) -> None:
        self._endpoint = endpoint
        self._interval = interval
        self._newest: TrainerStatus | None = None
        self._at_once = False
        self._closing = False
        self._complained = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="reports")
        if endpoint:
            self._thread.start()

    def update(self, status: TrainerStatus, at_once: bool = False) -> None:
        """Takes the newest status; ``at_once`` for what must not wait for the interval, such as a new phase."""
        with self._changed:
            self._newest = status
            self._at_once = self._at_once or at_once
            self._changed.notify()

    def close(self) -> None:
        """Sends what was not sent yet, and waits for that, but not longer than a report may take."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._endpoint:
            self._thread.join(TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        next_time = 0.0
        while (status := self._take(next_time)) is not None:
            next_time = time.monotonic() + self._interval
            if not self._sent(status):
                self._put_back(status)
        if self._endpoint:
            self._endpoint.close()

    def _take(self, next_time: float) -> TrainerStatus | None:
        """Waits for a status whose time has come; None: there will be no more."""
        with self._changed:
            while not (self._newest and (self._at_once or self._closing or time.monotonic() >= next_time)):
                if self._closing:
                    return None
                self._changed.wait(max(0.01, next_time - time.monotonic()) if self._newest else None)
            status, self._newest, self._at_once = self._newest, None, False
            return status

    def _put_back(self, status: TrainerStatus) -> None:
        """What could not be sent is sent when the next one is due, unless there is a newer one by then."""
        with self._changed:
            if self._newest is None and not self._closing:
                self._newest = status

    def _sent(self, status: TrainerStatus) -> bool:
        try:
            if self._endpoint:
                self._endpoint.post(status)
            self._complained = False
        except (OSError, ValueError) as error:
            if not self._complained:
                logger.warning("progress cannot be reported (training goes on): %s", error)
            self._complained = True
        return not self._complained
