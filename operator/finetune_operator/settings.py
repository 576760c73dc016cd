"""The operator's settings: one frozen dataclass, read once from environment variables.

Local mode and a cluster differ by these values and by nothing else.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self
from urllib.parse import urlsplit

from finetune_operator.logs import FORMATS

PREFIX = "FINETUNE_OPERATOR_"
REPORTS_PATH = "/v1/reports"
"""Path of the reports endpoint."""


class InvalidSetting(ValueError):
    """An environment variable cannot be used. ``str()`` names it, its value and what is expected."""


def _setting(default: Any, about: str, *, least: float | None = None) -> Any:
    return field(default=default, metadata={"about": about, "least": least})


@dataclass(frozen=True)
class Settings:
    """Every setting is the environment variable ``FINETUNE_OPERATOR_<NAME>``; durations are seconds."""

    trainer_image: str = _setting(
        "finetune-trainer:0.1.0", "Image of the training pods. It must be of the operator's release."
    )
    image_pull_policy: str = _setting("IfNotPresent", "imagePullPolicy of the training pods.")
    run_as_user: int = _setting(65532, "Numeric user of the training pods.", least=1)

    namespace: str = _setting("default", "Namespace of the operator itself: its Lease and its Secret live there.")
    watch_namespaces: tuple[str, ...] = _setting((), "Namespaces to serve, separated by commas. Empty: all.")
    watch_selector: str = _setting(
        "",
        "Label selector of the FineTuneJobs to serve, as in kubectl get --selector: a shard of them. Empty: all.",
    )
    identity: str = _setting("", "Name of this replica, unique among replicas. Empty: the host name (the pod's name).")
    workers: int = _setting(8, "FineTuneJobs that are worked on at the same time.", least=1)
    progress_interval: float = _setting(
        10.0, "Shortest time between two writes of a job's status that only tell of progress.", least=0
    )

    retry_backoff: float = _setting(
        10.0,
        "Wait before another attempt. Doubled with every attempt in a row that does not last longest_retry_backoff; "
        "give or take a quarter.",
        least=0,
    )
    longest_retry_backoff: float = _setting(600.0, "Longest wait before another attempt.", least=0)
    give_up_after: float = _setting(
        1800.0,
        "Time after which a FineTuneJob fails whose pod cannot start: its image cannot be pulled, a Secret is missing, "
        "the API server refuses it. One that waits for room or quota waits for ever.",
        least=1,
    )
    progress_writes: float = _setting(
        20.0,
        "Most writes a second that only tell of progress, over all jobs: with more jobs than that allows, each of them "
        "waits for longer than progress_interval.",
        least=0.1,
    )

    reports_url: str = _setting(
        "",
        f"https:// URL under which training pods reach the reports endpoint, with the path {REPORTS_PATH}. "
        "Empty: no endpoint, and pods report nothing.",
    )
    reports_bind: str = _setting("0.0.0.0", "Address that the reports endpoint listens on.")  # noqa: S104
    reports_port: int = _setting(9443, "Port that the reports endpoint listens on.", least=0)
    reports_secret: str = _setting(
        "finetune-operator-reports",
        "Secret of the operator's namespace that holds the endpoint's certificate. It must exist; it may be empty.",
    )
    reports_connections: int = _setting(
        5000,
        "Connections of training pods that stay open from one report to the next, at up to 40 KiB each. Further pods "
        "connect anew for every report, at several times the processor time.",
        least=0,
    )
    advertise_address: str = _setting(
        "", "host:port at which other replicas reach this one's reports endpoint. Empty: the host name and the port."
    )

    health_bind: str = _setting("0.0.0.0", "Address that /healthz and /livez listen on.")  # noqa: S104
    health_port: int = _setting(8080, "Port that /healthz and /livez listen on.", least=0)

    metrics: bool = _setting(True, "Whether to serve metrics for Prometheus, at /metrics.")
    metrics_bind: str = _setting("0.0.0.0", "Address that /metrics listens on.")  # noqa: S104
    metrics_port: int = _setting(8081, "Port that /metrics listens on.", least=0)
    metrics_jobs: int = _setting(
        1000, "Live FineTuneJobs that have series of their own (five each), the oldest first. 0: none.", least=0
    )

    leader_election: bool = _setting(True, "Whether to take the Lease before working: needed with several replicas.")
    lease_name: str = _setting("finetune-operator", "Name of the Lease.")
    lease_duration: float = _setting(15.0, "Time after which a silent leader has lost the Lease.", least=1)
    lease_renew_deadline: float = _setting(
        10.0, "Time after which a leader that cannot renew stops working. Less than the duration.", least=0.5
    )
    lease_retry_period: float = _setting(2.0, "Time between two tries to take or renew the Lease.", least=0.05)

    request_timeout: float = _setting(30.0, "Longest time for one request to the API server.", least=1)
    watch_quiet: float = _setting(
        70.0,
        "Time without a word after which a watch counts as dead. An API server says something about every minute.",
        least=1,
    )
    watch_timeout: float = _setting(240.0, "Time after which a watch is renewed.", least=1)
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: str = _setting("text", "text (logfmt) or json: one line each, with its fields.")

    def __post_init__(self) -> None:
        if self.image_pull_policy not in ("Always", "IfNotPresent", "Never"):
            raise _wrong("image_pull_policy", self.image_pull_policy, "Always, IfNotPresent or Never")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise _wrong("log_level", self.log_level, "DEBUG, INFO, WARNING or ERROR")
        if self.log_format not in FORMATS:
            raise _wrong("log_format", self.log_format, " or ".join(FORMATS))
        if not self.lease_retry_period < self.lease_renew_deadline < self.lease_duration:
            found = f"{self.lease_retry_period}, {self.lease_renew_deadline}, {self.lease_duration}"
            raise _wrong("lease_renew_deadline", found, "lease_retry_period < lease_renew_deadline < lease_duration")
        url = urlsplit(self.reports_url)
        if self.reports_url and (url.scheme != "https" or not url.hostname or url.path != REPORTS_PATH):
            expected = f"an https:// URL with the path {REPORTS_PATH}, such as https://host:9443{REPORTS_PATH}"
            raise _wrong("reports_url", self.reports_url, expected)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings that the environment gives, defaults for the rest.

        Raises:
            InvalidSetting: see there; also for a variable with our prefix that is no setting.
        """
        known = {f"{PREFIX}{f.name.upper()}": f for f in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        if unknown := sorted(given.keys() - known.keys()):
            raise InvalidSetting(f"{unknown[0]} is not a setting; the settings are: {', '.join(sorted(known))}")
        return cls(**{known[name].name: _parse(known[name], value) for name, value in given.items()})

    @property
    def replica(self) -> str:
        """Name of this replica."""
        return self.identity or socket.gethostname()


def cannot_listen(endpoint: str, address: str, port: int, error: OSError) -> InvalidSetting:
    """What to tell where an endpoint (``health``, ``metrics`` or ``reports``) cannot have its address."""
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    where = f"{address} ({PREFIX}{endpoint.upper()}_BIND)"
    return _wrong(f"{endpoint}_port", port, f"a free port of {where} to listen on: {why}")


def documentation() -> list[tuple[str, str, str]]:
    """(environment variable, default as text, meaning) of every setting, in order."""
    return [(f"{PREFIX}{f.name.upper()}", _text(f.default), f.metadata["about"]) for f in fields(Settings)]


def _text(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _wrong(name: str, value: object, expected: str) -> InvalidSetting:
    return InvalidSetting(f"{PREFIX}{name.upper()}: found {value!r}, expected {expected}")


def _parse(setting: Any, text: str) -> Any:
    text = text.strip()
    kind = type(setting.default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise _wrong(setting.name, text, "true or false")
        return text.lower() == "true"
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is str:
        return text
    least = setting.metadata["least"]
    try:
        number = kind(text)
    except ValueError:
        raise _wrong(setting.name, text, f"a number, {least} or more") from None
    if not least <= number < float("inf"):
        raise _wrong(setting.name, text, f"a number, {least} or more")
    return number
