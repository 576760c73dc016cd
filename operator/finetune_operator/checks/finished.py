"""A job in its final phase: nothing of it may run on, and in time nothing of it needs to be there."""

from collections.abc import Iterator

from finetune_operator.observed import JobState
from finetune_operator.outcome import DeleteJob, Keep, Situation
from finetune_operator.times import seconds_of


def leftover(s: Situation) -> DeleteJob | None:
    """A Job that has not ended. Two replicas that crossed may have left one."""
    job = next((job for job in _own(s) if not job.ended), None)
    return DeleteJob(job) if job else None


def outlived(s: Situation) -> DeleteJob | Keep | None:
    """``spec.runPolicy.ttlAfterFinished`` is over: the Jobs go with their pods, the FineTuneJob stays."""
    limit, job = seconds_of(s.policy.ttl_after_finished), next(_own(s), None)
    if limit is None or job is None:
        return None
    left = limit - s.age(s.status.completion_time)
    return Keep(look_again_after=left) if left > 0 else DeleteJob(job, even_if_ended=True)


def first_look(s: Situation) -> float | None:
    """Seconds until a job that finishes now is to be looked at again."""
    return seconds_of(s.policy.ttl_after_finished)


def _own(s: Situation) -> Iterator[JobState]:
    jobs = (*s.observed.others, *((s.observed.job,) if s.observed.job else ()))
    return (job for job in jobs if job.owner_uid == s.uid)
