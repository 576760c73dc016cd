"""What a look at one FineTuneJob comes to, before it is put into words of the status."""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from finetune_api.conditions import Phase, Reason
from finetune_api.job import FineTuneJob, InvalidSpec
from finetune_api.plain import plain_text
from finetune_api.run import RunResult
from finetune_api.status import FineTuneJobStatus
from finetune_operator.observed import Observed, Raw
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create the Job of the attempt. That it exists already is no error."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Confirm:
    """Read Job, pods and what ``job://`` names from the API server itself, before a verdict that cannot be taken
    back."""


Action = CreateJob | Confirm


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the FineTuneJob is now."""

    phase: Phase
    reason: Reason
    message: str
    result: RunResult | None = None
    """What the trainer left, where it ended."""
    accepted: bool = True
    """Whether the spec, and the model it names, could be used."""
    restarted: bool = False
    """Whether progress starts anew."""
    patient: bool = False
    """Whether writing it may wait until the progress interval is over."""
    look_again_after: float | None = None
    """Seconds after which the same observations mean something else."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain_text(self.message))


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing is known that the status should say; an event will come."""


@dataclass(frozen=True)
class Situation:
    """All that a decision is made from."""

    raw: Raw
    """The FineTuneJob as the API server holds it."""
    observed: Observed
    now: datetime
    """UTC."""
    settings: Settings
    reporting: Reporting | None
    meta: Raw = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", self.raw["metadata"])

    @cached_property
    def uid(self) -> str:
        """UID of the FineTuneJob."""
        return str(self.meta["uid"])

    @cached_property
    def raw_status(self) -> Raw:
        """The status last written, with fields of newer versions."""
        status = self.raw.get("status")
        return status if isinstance(status, dict) else {}

    @cached_property
    def status(self) -> FineTuneJobStatus:
        """The status last written, as far as this version understands it."""
        return understood(self.raw_status)

    @cached_property
    def job(self) -> FineTuneJob | InvalidSpec:
        """The typed FineTuneJob, or what is wrong with it."""
        try:
            return FineTuneJob.read(self.raw)
        except InvalidSpec as e:
            return e

    def age(self, timestamp: str | None) -> float:
        """Seconds since a time of the API server; 0 where there is none, or where the clocks disagree."""
        if not timestamp:
            return 0.0
        return max(0.0, (self.now - parse_time(timestamp)).total_seconds())


def understood(raw: Raw) -> FineTuneJobStatus:
    """The fields of a status that this version can read; the others are passed over one by one, because a newer
    version may have written them and a job must not start anew for that."""
    with suppress(ValueError):
        return FineTuneJobStatus.model_validate(raw)
    kept: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            FineTuneJobStatus.model_validate({key: value})
        except ValueError:
            continue
        kept[key] = value
    return FineTuneJobStatus.model_validate(kept)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The moment that an RFC 3339 text names."""
    return datetime.fromisoformat(text)
