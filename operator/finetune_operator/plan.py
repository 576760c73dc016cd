"""What to do next about one FineTuneJob: a pure function of what is known.

No I/O, no clock, no randomness. Each check looks at one thing and answers with an outcome or an action, or leaves the
question to the next; their order is the order of ``CHECKS``. Nothing here needs to be told what was done before: the
same situation gives the same decision, so that a crash between any two calls is mended by looking again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.conditions import Phase, Reason
from finetune_api.job import InvalidSpec
from finetune_api.run import REPORTED_PHASES, ReportedMetric, RunResult
from finetune_operator import failures, policy
from finetune_operator.events import EventText, event_for
from finetune_operator.observed import JobState, Observed, PodState, Raw
from finetune_operator.outcome import Action, Confirm, CreateJob, Keep, Outcome, Situation
from finetune_operator.render import Reporting, job_manifest
from finetune_operator.settings import Settings
from finetune_operator.source import ModelRefused, resolve
from finetune_operator.status import merge_patch, next_status, touched


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: first the actions, and then look again; or one write of the status, and then the events."""

    actions: tuple[Action, ...] = ()
    status: Raw | None = None
    """JSON merge patch of the status."""
    events: tuple[EventText, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again though nothing happens."""


Check = Callable[[Situation], Outcome | Action | Keep | None]


def plan(raw: Raw, observed: Observed, now: datetime, settings: Settings, reporting: Reporting | None) -> Decision:
    """The next step for one FineTuneJob."""
    situation = Situation(raw, observed, now, settings, reporting)
    if "deletionTimestamp" in situation.meta:
        return Decision()  # the garbage collector takes the children
    if _final(situation):
        return Decision(status=touched(situation))
    found = next(answer for check in CHECKS if (answer := check(situation)) is not None)
    if isinstance(found, Keep):
        return Decision()
    if isinstance(found, Outcome):
        return _write(situation, found)
    return Decision(actions=(found,))


def _final(s: Situation) -> bool:
    """Whether the phase is one that nothing leaves, or one that only a newer version knows."""
    phase = s.raw_status.get("phase")
    return bool(phase) and (phase not in set(Phase) or Phase(phase).terminal)


def _write(s: Situation, outcome: Outcome) -> Decision:
    patch = merge_patch(s.raw_status, next_status(s, outcome))
    if not patch:
        return Decision(requeue_after=outcome.look_again_after)
    if outcome.patient and s.observed.written_at:
        wait = s.settings.progress_interval - (s.now - s.observed.written_at).total_seconds()
        if wait > 0:
            return Decision(requeue_after=wait)
    event = event_for(s, outcome)
    return Decision(status=patch, events=(event,) if event else (), requeue_after=outcome.look_again_after)


def _failed(failure: failures.Failure, *, accepted: bool = True, result: RunResult | None = None) -> Outcome:
    return Outcome(Phase.FAILED, failure.reason, failure.message, accepted=accepted, result=result)


def refused(s: Situation) -> Outcome | None:
    """The API server said no to our Job."""
    if s.observed.refusal is None:
        return None
    return _failed(failures.tell(Reason.JOB_REFUSED, s.observed.refusal))


def taken(s: Situation) -> Outcome | None:
    """Somebody else's Job has the name of ours: neither adopted nor touched."""
    job = s.observed.job
    if job is None or job.owner_uid == s.uid:
        return None
    case = f"Job {job.namespace}/{job.name} exists and is not controlled by this FineTuneJob; it is left untouched"
    return _failed(failures.tell(Reason.NAME_CONFLICT, case))


def completed(s: Situation) -> Outcome | Confirm | None:
    """The Job is complete: the termination message of its pod is the result."""
    job = s.observed.job
    if job is None or not job.complete:
        return None
    ended = [pod for pod in s.observed.pods if pod.ended and not pod.failed]
    result = failures.result_of(ended[-1]) if ended else None
    if result is None and not s.observed.confirmed:
        return Confirm()
    if result is not None and result.error is not None:
        return _failed(failures.told_by_trainer(result.error), result=result)
    if (result is None or result.result is None) and (image := _own_image(s)):
        return Outcome(Phase.SUCCEEDED, Reason.SUCCEEDED, f"The program of image {image} ended well.", result=result)
    if result is None or result.result is None:
        case = f"Job {job.name} is complete, but {_what_it_left(ended)}"
        return _failed(failures.tell(Reason.RESULT_MISSING, case))
    return Outcome(Phase.SUCCEEDED, Reason.SUCCEEDED, _published(result), result=result)


def _own_image(s: Situation) -> str | None:
    """The image of a team's own program, which need not know what our trainer leaves as its result."""
    return None if isinstance(s.job, InvalidSpec) or s.job.spec.trainer is None else s.job.spec.trainer.image


def _what_it_left(ended: list[PodState]) -> str:
    if not ended:
        return "its pod is gone, and the result with it"
    return f"pod {ended[-1].name} left no result that this version can read: {ended[-1].ended_message[:200]!r}"


def _published(result: RunResult) -> str:
    where = (result.result.adapter_uri or result.result.model_uri) if result.result else None
    return f"Published to {where}." if where else "The result is published."


def failed(s: Situation) -> Outcome | Confirm | None:
    """The Job failed for good."""
    job = s.observed.job
    if job is None or job.failed_reason is None:
        return None
    if not s.observed.confirmed and not any(pod.failed for pod in s.observed.pods):
        return Confirm()
    last = next((pod for pod in reversed(s.observed.pods) if pod.failed), None)
    result = failures.result_of(last) if last else None
    return _failed(failures.of_job(job, s.observed.pods), result=result)


def suspended(s: Situation) -> Outcome | None:
    """Somebody, such as a queue, suspended the Job."""
    job = s.observed.job
    if job is None or not job.suspended:
        return None
    message = f"Job {job.name} is suspended; it goes on when whoever suspended it sets its spec.suspend to false."
    return Outcome(Phase.SUSPENDED, Reason.JOB_CREATED, message, restarted=True)


def running(s: Situation) -> Outcome | None:
    """The trainer is running; the last report says where it is."""
    pod = _newest(s.observed)
    if s.observed.job is None or pod is None or not pod.running or pod.ended:
        return None
    phase = _reported_phase(s, pod)
    reason = {Phase.EVALUATING: Reason.EVALUATING, Phase.PUBLISHING: Reason.PUBLISHING}.get(phase, Reason.TRAINING)
    verb = {Phase.EVALUATING: "evaluating", Phase.PUBLISHING: "publishing"}.get(phase, "training")
    on = f" on node {pod.node}" if pod.node else ""
    return Outcome(phase, reason, f"Pod {pod.name} is {verb}{on}.", patient=s.status.phase in REPORTED_PHASES)


def _reported_phase(s: Situation, pod: PodState) -> Phase:
    report = s.observed.report
    if report and report.pod_uid == pod.uid and (name := report.status.metric(ReportedMetric.PHASE)):
        return Phase(name) if name in REPORTED_PHASES else Phase.RUNNING
    return s.status.phase if s.status.phase in REPORTED_PHASES else Phase.RUNNING


def waiting(s: Situation) -> Outcome | None:
    """The pod does not start, and may never do so by itself."""
    pod = _newest(s.observed)
    if s.observed.job is None or pod is None or pod.ended or pod.running:
        return None
    trouble = failures.of_waiting(pod)
    return Outcome(Phase.STARTING, trouble.reason, trouble.message, restarted=True) if trouble else None


def retrying(s: Situation) -> Outcome | None:
    """A pod failed, and the Job starts another.

    Only what the Job has counted is a retry: a pod that failed may have failed the Job with it.
    """
    job, lost = s.observed.job, [pod for pod in s.observed.pods if pod.failed]
    if job is None or job.ending or not lost:
        return None
    failure = failures.of_pod(lost[-1])
    if lost[-1].disruption is not None:
        message = f"{failure.case.rstrip('.')}. The Job starts another; that does not count as a retry."
        return Outcome(Phase.STARTING, Reason.DISRUPTED, message, restarted=True)
    if job.failures == 0:
        return None
    message = f"Try {job.failures} failed and the Job starts another. {failure.reason}: {failure.case.rstrip('.')}."
    return Outcome(Phase.STARTING, Reason.RETRYING, message, restarted=True)


def ended(s: Situation) -> Keep | None:
    """The pod has ended, but its Job has not said yet what comes of it."""
    pod = _newest(s.observed)
    return Keep() if s.observed.job and pod and pod.ended else None


def starting(s: Situation) -> Outcome | None:
    """The Job exists and its pod is on the way: told once, and once more where it takes its time."""
    job, pod = s.observed.job, _newest(s.observed)
    if job is None:
        return None
    slow_after = s.settings.progress_interval
    if pod is not None and s.age(pod.created_at) >= slow_after:
        on = f" on node {pod.node}: it pulls the image or mounts volumes" if pod.node else ": it has no node yet"
        return Outcome(Phase.STARTING, Reason.POD_STARTING, f"Pod {pod.name} is starting{on}.")
    return _job_created(job, slow_after - s.age(pod.created_at) if pod else None)


def _job_created(job: JobState, look_again_after: float | None) -> Outcome:
    message = f"Job {job.name} is created; if no pod appears, `kubectl describe job {job.name}` says why."
    return Outcome(Phase.STARTING, Reason.JOB_CREATED, message, look_again_after=look_again_after)


def deleted(s: Situation) -> Outcome | Confirm | None:
    """The Job existed once and is gone."""
    if s.status.job_ref is None:
        return None
    if not s.observed.confirmed:
        return Confirm()
    case = f"Job {s.status.job_ref.name} was deleted before it had finished"
    return _failed(failures.tell(Reason.JOB_DELETED, case))


def invalid(s: Situation) -> Outcome | None:
    """The spec breaks the contract."""
    if not isinstance(s.job, InvalidSpec):
        return None
    return _failed(failures.tell(Reason.INVALID_SPEC, str(s.job)), accepted=False)


def create(s: Situation) -> Outcome | Action | None:
    """The model can be named, so the Job can be created."""
    if isinstance(s.job, InvalidSpec):
        return None
    try:
        given = policy.grant(s.job, s.observed.profile, s.settings)
        model = resolve(s.job.spec, s.meta["namespace"], s.meta["name"], s.observed.sources)
        policy.require_model(given, model)
    except (ModelRefused, policy.Refused) as e:
        return _failed(e.failure, accepted=False) if s.observed.confirmed else Confirm()
    return CreateJob(job_manifest(given, 0, model, s.settings, s.reporting))


def _newest(observed: Observed) -> PodState | None:
    return observed.pods[-1] if observed.pods else None


CHECKS: tuple[Check, ...] = (
    refused,
    taken,
    completed,
    failed,
    suspended,
    running,
    waiting,
    retrying,
    ended,
    starting,
    deleted,
    invalid,
    create,
)
