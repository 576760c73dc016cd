"""Before an attempt begins: whether nothing of an earlier one is left, whether it may begin, and its Job."""

from finetune_api.conditions import Phase, Reason
from finetune_api.job import InvalidSpec
from finetune_operator import failures, policy, preflight
from finetune_operator.checks import leaving
from finetune_operator.outcome import Confirm, CreateJob, DeleteJob, Keep, Outcome, Situation
from finetune_operator.render import AttemptPlan, job_manifest, service_manifest
from finetune_operator.source import ModelRefused, resolve

_ASK_AGAIN = 60.0
"""Seconds after which a Job is created again that a quota had no room for."""


def refused(s: Situation) -> Outcome | None:
    """The API server said no to our Job."""
    if s.observed.refusal is None:
        return None
    trouble = failures.of_refusal(s.observed.refusal)
    if trouble.reason is Reason.QUOTA_EXCEEDED:
        return Outcome(Phase.PENDING, trouble.reason, trouble.message, look_again_after=_ASK_AGAIN)
    return Outcome(Phase.FAILED, Reason.JOB_REFUSED, failures.tell(Reason.JOB_REFUSED, s.observed.refusal).message)


def lingering(s: Situation) -> Outcome | DeleteJob | Keep | None:
    """No attempt begins while anything of another one lives."""
    job = next((job for job in s.observed.others if job.owner_uid == s.uid and not job.ended), None)
    if job is not None:
        return DeleteJob(job)
    pods = (*s.observed.lingering, *s.observed.living)
    return leaving.until_gone(s, pods) if pods else None


def invalid(s: Situation) -> Outcome | None:
    """The spec breaks the contract."""
    if not isinstance(s.job, InvalidSpec):
        return None
    message = failures.tell(Reason.INVALID_SPEC, str(s.job)).message
    return Outcome(Phase.FAILED, Reason.INVALID_SPEC, message, accepted=False)


def backing_off(s: Situation) -> Keep | None:
    """After a failure the next attempt waits."""
    begins = s.attempts.begins_at(s.uid, s.now, s.settings.retry_backoff, s.settings.longest_retry_backoff)
    wait = (begins - s.now).total_seconds() if begins else 0.0
    return Keep(look_again_after=wait) if wait > 0 else None


def create(s: Situation) -> Outcome | CreateJob | Confirm | None:
    """The model can be named, so the Job can be created; a further one once it is sure that no earlier one lives."""
    if isinstance(s.job, InvalidSpec):
        return None
    try:
        given = policy.grant(s.job, s.observed.profile, s.settings)
        model = resolve(s.job.spec, s.meta["namespace"], s.meta["name"], s.observed.sources)
        model = policy.vetted(given, model)
    except (ModelRefused, policy.Refused) as e:
        if not s.observed.confirmed:
            return Confirm()
        return Outcome(Phase.FAILED, e.failure.reason, e.failure.message, accepted=False)
    attempts = s.attempts
    if attempts.number and not s.observed.confirmed:
        return Confirm()
    attempt = AttemptPlan(attempts.number, attempts.divisor, s.checks)
    given = preflight.without_gpus(given) if s.checks else given
    job = job_manifest(given, attempt, model, s.settings, s.reporting)
    return CreateJob(job, service_manifest(given.job))
