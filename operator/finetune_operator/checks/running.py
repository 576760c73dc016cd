"""A Job that is there and has not ended: it waits, starts or runs."""

from finetune_api.conditions import Phase, Reason
from finetune_api.run import REPORTED_PHASES, ReportedMetric
from finetune_operator import failures
from finetune_operator.observed import JobState, PodState
from finetune_operator.outcome import Keep, Outcome, ReadEvents, Situation
from finetune_operator.stillness import LOOK

_POD_OVERDUE = 5.0
"""Seconds after which a Job should have made its pod."""
_EVENT_OVERDUE = 1.0
"""Seconds after which the Event should be there of a pod that could not be made."""


def taken(s: Situation) -> Outcome | None:
    """Somebody else's Job or Service has the name of ours: neither adopted nor touched."""
    job, what = s.observed.job, s.observed.taken
    if job is not None and job.owner_uid != s.uid:
        what = f"Job {job.namespace}/{job.name}"
    if what is None:
        return None
    case = f"{what} exists and is not controlled by this FineTuneJob; it is left untouched"
    return Outcome(Phase.FAILED, Reason.NAME_CONFLICT, failures.tell(Reason.NAME_CONFLICT, case).message)


def queued(s: Situation) -> Outcome | None:
    """Somebody, such as a queue, suspended the Job: it has no pods, and is no failure."""
    job = s.own_job
    if job is None or not job.suspended:
        return None
    message = f"Job {job.name} waits for its turn: it goes on when whoever suspended it sets its spec.suspend to false."
    return Outcome(Phase.QUEUED, Reason.QUEUED, message, restarted=True)


def running(s: Situation) -> Outcome | None:
    """The trainer is running, in all pods; the last report says where it is."""
    pod = s.lead
    if pod is None or not pod.running or pod.ended or s.at_work < s.nodes:
        return None
    if s.checks:
        message = f"Pod {pod.name} checks data, model and S3 before anything is trained."
        return Outcome(Phase.VALIDATING, Reason.CHECKING, message)
    phase = _reported_phase(s, pod)
    reason = {Phase.EVALUATING: Reason.EVALUATING, Phase.PUBLISHING: Reason.PUBLISHING}.get(phase, Reason.TRAINING)
    verb = {Phase.EVALUATING: "evaluating", Phase.PUBLISHING: "publishing"}.get(phase, "training")
    on = f" on node {pod.node}" if pod.node else ""
    message = f"Pod {pod.name} is {verb}{on}{_with_others(s)}."
    return Outcome(phase, reason, message, patient=s.status.phase in REPORTED_PHASES)


def _with_others(s: Situation) -> str:
    return f"; {s.at_work} of {s.nodes} pods are running" if s.nodes > 1 else ""


def _reported_phase(s: Situation, pod: PodState) -> Phase:
    report = s.observed.report
    if report and report.pod_uid == pod.uid and (name := report.status.metric(ReportedMetric.PHASE)):
        return Phase(name) if name in REPORTED_PHASES else Phase.RUNNING
    return s.status.phase if s.status.phase in REPORTED_PHASES else Phase.RUNNING


def waiting(s: Situation) -> Outcome | None:
    """A pod does not start, and may never do so by itself."""
    trouble = next(failures.of_all_waiting(s.observed.pods), None) if s.own_job else None
    return Outcome(s.beginning, trouble.reason, trouble.message, restarted=True) if trouble else None


def without_pod(s: Situation) -> Outcome | ReadEvents | None:
    """The Job has not made all of its pods yet: the Events say whether one was refused."""
    job = s.own_job
    if job is None or len(s.observed.witnesses) >= s.nodes:
        return None
    overdue_in = _POD_OVERDUE - s.age(job.created_at)
    if overdue_in > 0 and not job.short:
        return _job_created(s, job, overdue_in)
    if s.observed.complaint is None:
        return ReadEvents()
    if not s.observed.complaint:
        return _job_created(s, job, _until_event(s) if job.short else LOOK)
    trouble = failures.of_refusal(s.observed.complaint)
    patient = s.told is trouble.reason  # only the figures are new
    return Outcome(s.beginning, trouble.reason, trouble.message, patient=patient, look_again_after=LOOK)


def _until_event(s: Situation) -> float:
    """Seconds until the Event may be there that says why a pod was refused: it is written beside the Job's status."""
    return min(LOOK, max(_EVENT_OVERDUE, s.observed.still_for / 2))


def ended(s: Situation) -> Keep | None:
    """A pod has ended or is gone, but its Job has not said yet what comes of it."""
    pod = s.lead
    over = pod is None or pod.ended or any(other.failed for other in s.observed.pods if not other.leads)
    return Keep() if s.own_job and over else None


def starting(s: Situation) -> Outcome | None:
    """The pods are on the way: told once, and once more where one takes its time."""
    job, pod = s.own_job, next((pod for pod in s.observed.pods if not pod.running and not pod.ended), None)
    if job is None or pod is None:
        return None
    slow_after = s.settings.progress_interval
    if s.age(pod.created_at) >= slow_after:
        on = f" on node {pod.node}: it pulls the image or mounts volumes" if pod.node else ": it has no node yet"
        return Outcome(s.beginning, Reason.POD_STARTING, f"Pod {pod.name} is starting{on}{_with_others(s)}.")
    return _job_created(s, job, slow_after - s.age(pod.created_at))


def _job_created(s: Situation, job: JobState, look_again_after: float | None) -> Outcome:
    message = f"Job {job.name} is created; if no pod appears, `kubectl describe job {job.name}` says why."
    return Outcome(s.beginning, Reason.JOB_CREATED, message, look_again_after=look_again_after)
