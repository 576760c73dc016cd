"""What ends an attempt from outside: the user's wish, a deadline, a standstill, a pod that cannot start.

It is written down first, as the reason of the attempt; then the Job is deleted, its pods get SIGTERM and save a
checkpoint; and once they are gone the attempt has ended. Whoever crashes in between finds the reason in the status.
"""

from collections.abc import Iterator

from finetune_api.conditions import Phase, Reason
from finetune_api.run import GRACE_SECONDS, ReportedMetric
from finetune_operator import failures
from finetune_operator.checks import leaving
from finetune_operator.checks.ending import conclude, gone, suspension
from finetune_operator.failures import Failure, tell
from finetune_operator.outcome import Confirm, DeleteJob, Keep, Outcome, Situation
from finetune_operator.stillness import LOOK
from finetune_operator.times import parse_time, seconds_of

_GIVEN_UP = (Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CONFIG_ERROR, Reason.POD_REFUSED)
"""What a pod waits for that no other pod's end mends."""


def stopping(s: Situation) -> Outcome | DeleteJob | Confirm | Keep | None:
    """It was decided before that the present attempt is to stop."""
    present, job = s.attempts.present, s.own_job
    if "reason" not in present:
        return None
    if job is not None and not job.ended:
        return DeleteJob(job)
    if s.observed.living:
        return leaving.until_gone(s, s.observed.living)
    if not s.observed.confirmed:
        return Confirm()
    return gone(s) or conclude(s, _written_down(present["reason"], str(present.get("message", ""))))


def _written_down(reason: str, case: str) -> Failure:
    return tell(Reason(reason) if reason in set(Reason) else Reason.JOB_DELETED, case)


def cancelled(s: Situation) -> Outcome | None:
    """The user cancels the job."""
    return _stop(s, tell(Reason.CANCELLED, "spec.cancel is true")) if s.to_be_cancelled else None


def suspended(s: Situation) -> Outcome | None:
    """The user suspends the job."""
    return _stop(s, tell(Reason.SUSPENDED, "spec.suspend is true")) if s.to_be_suspended else None


def past_deadline(s: Situation) -> Outcome | None:
    """The job has had its time."""
    left = _until_deadline(s)
    return None if left is None or left > 0 else _stop(s, _deadline(s))


def stalled(s: Situation) -> Outcome | None:
    """The trainer makes no progress."""
    left, pod = _until_stalled(s), s.lead
    if left is None or left > 0 or pod is None:
        return None
    report = s.observed.report
    step = report.status.metric(ReportedMetric.CURRENT_STEP) if report else None
    last = f"its last report was of step {step}" if step else "it reported no step"
    case = f"pod {pod.name} made no progress for {s.policy.stall_timeout} (spec.runPolicy.stallTimeout); {last}"
    return _stop(s, tell(Reason.STALLED, case))


def given_up(s: Situation) -> Outcome | None:
    """The pod cannot start, and nothing has changed about that for as long as the operator's settings allow."""
    trouble = hopeless(s)
    if trouble is None or s.observed.still_for < s.settings.give_up_after:
        return None
    limit = f"given up after {s.settings.give_up_after:.0f} s"
    return _stop(s, tell(trouble.reason, f"{trouble.case.rstrip('.')}; {limit}"))


def hopeless(s: Situation) -> Failure | None:
    """What keeps the pod from starting and does not pass by itself."""
    if s.own_job is None:
        return None
    troubles = list(failures.of_all_waiting(s.observed.pods))
    if len(s.observed.pods) < s.nodes and s.observed.complaint:
        troubles.append(failures.of_refusal(s.observed.complaint))
    return next((trouble for trouble in troubles if trouble.reason in _GIVEN_UP), None)


def _stop(s: Situation, failure: Failure) -> Outcome | None:
    """Writes down why the present attempt is to stop, if it has a Job; what no Job is there for is no stop."""
    job = s.own_job
    if job is None or job.ended:
        return None
    message = (
        f"Job {job.name} is being stopped: {failure.case.rstrip('.')}. Its pods get up to {GRACE_SECONDS} s to save a "
        "checkpoint."
    )
    phase = s.status.phase or s.beginning
    stops = (failure.reason, failure.case)
    return Outcome(phase, Reason.STOPPING, message, stops=stops, look_again_after=0.0)


def at_rest(s: Situation) -> Outcome | None:
    """No attempt runs, and none is to begin: by the user's wish, or because time is up."""
    if s.to_be_cancelled:
        return Outcome(Phase.CANCELLED, Reason.CANCELLED, "Cancelled: spec.cancel is true.")
    left = _until_deadline(s)
    if left is not None and left <= 0:
        return Outcome(Phase.FAILED, Reason.DEADLINE_EXCEEDED, _deadline(s).message)
    if s.to_be_suspended:
        return Outcome(Phase.SUSPENDED, Reason.SUSPENDED, suspension(s))
    return None


def next_look(s: Situation) -> float | None:
    """Seconds until one of the limits here may be reached, if nothing happens."""
    return min(_waits(s), default=None)


def _waits(s: Situation) -> Iterator[float]:
    yield from leaving.waits(s)
    if (left := _until_deadline(s)) is not None:
        yield max(0.0, left)
    if (left := _until_stalled(s)) is not None:
        yield min(LOOK, max(0.0, left))
    if hopeless(s):
        yield min(LOOK, max(0.0, s.settings.give_up_after - s.observed.still_for))


def _deadline(s: Situation) -> Failure:
    case = f"the job was not done within {s.policy.deadline} (spec.runPolicy.deadline) of {s.status.start_time}"
    return tell(Reason.DEADLINE_EXCEEDED, case)


def _until_deadline(s: Situation) -> float | None:
    limit = seconds_of(s.policy.deadline)
    if limit is None or not s.status.start_time:
        return None
    return limit - (s.now - parse_time(s.status.start_time)).total_seconds()


def _until_stalled(s: Situation) -> float | None:
    """Only of pods that all run, and only where they can report."""
    limit, pod = seconds_of(s.policy.stall_timeout), s.lead
    if limit is None or s.reporting is None or pod is None or not pod.running or pod.ended or s.at_work < s.nodes:
        return None
    return limit - s.observed.still_for
