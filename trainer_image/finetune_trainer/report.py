"""Sends progress to the operator, in the format of Kubeflow Trainer's status server.

A thread of its own sends the newest status, at most every few seconds. Whatever happens to a report, training goes on.
"""

import logging
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from finetune_api.run import Report, TrainerStatus

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Endpoint:
    """Where reports go."""

    url: str
    token: Path | None
    """File of the bearer token; read again for every report, because the kubelet renews it."""
    authority: Path | None
    """File of the certificate authority (PEM); None: those of the system."""

    def post(self, status: TrainerStatus) -> None:
        """Sends one report.

        Raises:
            OSError, ValueError: whatever goes wrong.
        """
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url} is not an HTTP URL")
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.read_text().strip()}"
        body = Report(trainer_status=status).to_json().encode()
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310
        secure = self.url.startswith("https://")
        context = ssl.create_default_context(cafile=self.authority) if secure else None
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=context):  # noqa: S310
            pass


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
            self._thread.join(_TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        next_time = 0.0
        while (status := self._take(next_time)) is not None:
            next_time = time.monotonic() + self._interval
            self._send(status)

    def _take(self, next_time: float) -> TrainerStatus | None:
        """Waits for a status whose time has come; None: there will be no more."""
        with self._changed:
            while not (self._newest and (self._at_once or self._closing or time.monotonic() >= next_time)):
                if self._closing:
                    return None
                self._changed.wait(max(0.01, next_time - time.monotonic()) if self._newest else None)
            status, self._newest, self._at_once = self._newest, None, False
            return status

    def _send(self, status: TrainerStatus) -> None:
        try:
            if self._endpoint:
                self._endpoint.post(status)
            self._complained = False
        except (OSError, ValueError) as error:
            if not self._complained:
                logger.warning("progress cannot be reported (training goes on): %s", error)
            self._complained = True
