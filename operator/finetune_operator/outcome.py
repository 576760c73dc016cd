"""What a look at one FineTuneJob comes to, before it is put into words of the status."""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from finetune_api.conditions import ConditionType, Phase, Reason
from finetune_api.job import FineTuneJob, InvalidSpec
from finetune_api.plain import plain_text
from finetune_api.run import RunResult
from finetune_api.spec import RunPolicy
from finetune_api.status import FineTuneJobStatus, ProfileUsed
from finetune_operator import preflight
from finetune_operator.attempts import AttemptEnd, Attempts
from finetune_operator.observed import JobState, Observed, PodState, Raw, ReceivedReport, leading
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.times import parse_time


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create the Job of the attempt. That it exists already is no error."""

    manifest: dict[str, Any]
    service: dict[str, Any] | None = None
    """The Service of the pods, where they must find one another: it comes first."""


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job and its pods, unless it ended meanwhile. That it is gone already is no error."""

    job: JobState
    even_if_ended: bool = False


@dataclass(frozen=True, slots=True)
class ReadEvents:
    """Read what the Events of the present attempt's Job say of pods that could not be created."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Read Jobs, pods and what ``job://`` names from the API server itself, before a verdict that cannot be taken
    back."""


Action = CreateJob | DeleteJob | ReadEvents | Confirm


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
    stops: tuple[Reason, str] | None = None
    """Why the present attempt is to be stopped, from now on: reason and case."""
    ends: AttemptEnd | None = None
    """How the present attempt has ended."""
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
    """Nothing is known that the status should say; an event will come, or the time."""

    look_again_after: float | None = None
    """Seconds after which to look again."""


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

    @cached_property
    def attempts(self) -> Attempts:
        """What the status tells of attempts."""
        return Attempts.of(self.raw_status)

    @cached_property
    def policy(self) -> RunPolicy:
        """``spec.runPolicy``, within what the profile of the present attempt allows; the defaults where this version
        cannot read the spec."""
        asked = RunPolicy() if isinstance(self.job, InvalidSpec) else self.job.spec.run_policy
        if (given := self.profile) is None:
            return asked
        most = asked.max_retries if given.max_retries is None else min(asked.max_retries, given.max_retries)
        return asked.model_copy(
            update={
                "max_retries": most,
                "deadline": asked.deadline or given.deadline,
                "stall_timeout": asked.stall_timeout or given.stall_timeout,
            }
        )

    @cached_property
    def profile(self) -> ProfileUsed | None:
        """What the Job of the present attempt was given by a profile, by its own word or by the status."""
        try:
            if (job := self.own_job) and job.profile:
                return ProfileUsed.model_validate_json(job.profile)
            return ProfileUsed.model_validate(self.attempts.present.get("profile"))
        except ValidationError:
            return None

    @property
    def own_job(self) -> JobState | None:
        """The Job of the present attempt, where it is ours."""
        job = self.observed.job
        return job if job is not None and job.owner_uid == self.uid else None

    @cached_property
    def nodes(self) -> int:
        """Pods that train together."""
        return 1 if self.checks or isinstance(self.job, InvalidSpec) else self.job.spec.resources.nodes

    @cached_property
    def at_work(self) -> int:
        """Pods of the present attempt that run, or have done their part."""
        return sum(pod.running or (pod.ended and not pod.failed) for pod in self.observed.pods)

    @cached_property
    def checks(self) -> bool:
        """Whether the present attempt only checks, by its Job, by the status, or because it is about to."""
        if (job := self.own_job) is not None:
            return job.checks
        if present := self.attempts.present:
            return present.get("check") is True
        return preflight.due(self.job, self.raw_status, self.attempts)

    @property
    def beginning(self) -> Phase:
        """The phase of an attempt whose pod does not run yet."""
        return Phase.VALIDATING if self.checks else Phase.STARTING

    @property
    def lead(self) -> PodState | None:
        """The newest pod of the present attempt that leads the others, where its Job is ours."""
        return leading(self.observed.pods) if self.own_job else None

    @property
    def report(self) -> ReceivedReport | None:
        """The last report of that pod."""
        lead, report = leading(self.observed.pods), self.observed.report
        return report if report and lead and report.pod_uid == lead.uid else None

    @property
    def told(self) -> Reason | None:
        """The reason that the status last written gives for where the job is."""
        ready = next((c for c in self.status.conditions if c.type is ConditionType.READY), None)
        return ready.reason if ready else None

    @property
    def to_be_suspended(self) -> bool:
        """Whether ``spec.suspend`` is set, also in a spec that this version cannot read."""
        return self._raw_wish("suspend") if isinstance(self.job, InvalidSpec) else self.job.spec.suspend

    @property
    def to_be_cancelled(self) -> bool:
        """Whether ``spec.cancel`` is set, also in a spec that this version cannot read."""
        return self._raw_wish("cancel") if isinstance(self.job, InvalidSpec) else self.job.spec.cancel

    def _raw_wish(self, field: str) -> bool:
        return (self.raw.get("spec") or {}).get(field) is True

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
