"""How an attempt ended, and whether another one follows."""

from finetune_api.conditions import Phase, Reason, Retry, retry_of
from finetune_api.job import InvalidSpec
from finetune_api.run import RunResult
from finetune_api.status import Checked
from finetune_operator import failures
from finetune_operator.attempts import AttemptEnd
from finetune_operator.checks.leaving import until_gone
from finetune_operator.failures import Failure
from finetune_operator.observed import PodState
from finetune_operator.outcome import Confirm, Keep, Outcome, Situation


def completed(s: Situation) -> Outcome | Confirm | None:
    """The Job is complete: the termination message of its pod, or of the first of several, is the result."""
    job = s.own_job
    if job is None or not job.complete:
        return None
    ended = [pod for pod in s.observed.witnesses if pod.leads and pod.ended and not pod.failed]
    if not s.observed.confirmed and not any(failures.result_of(pod) for pod in ended):
        return Confirm()
    if not ended and (image := _own_image(s)):
        return _ended_well(f"The program of image {image} ended well.")
    if not ended:
        case = f"Job {job.name} is complete, but its pod is gone, and the result with it"
        return conclude(s, failures.tell(Reason.RESULT_LOST, case))
    return succeeded(s, ended[-1])


def succeeded(s: Situation, pod: PodState) -> Outcome:
    """A trainer ended well: what it left is the result."""
    result = failures.result_of(pod)
    if result is not None and result.error is not None:
        return conclude(s, failures.told_by_trainer(result.error), result)
    if s.checks and result is not None and result.checked is not None:
        return _checked(result.checked, result)
    if result is not None and s.checks:
        result = result.model_copy(update={"result": None})  # whatever it says, nothing was trained
    if (result is None or result.result is None) and (image := _own_image(s)):
        return _ended_well(f"The program of image {image} ended well.", result)
    if result is None or result.result is None:
        case = f"pod {pod.name} ended well and left no result that this version can read: {pod.ended_message[:200]!r}"
        return conclude(s, failures.tell(Reason.RESULT_MISSING, case))
    where = result.result.adapter_uri or result.result.model_uri
    return _ended_well(f"Published to {where}." if where else "The result is published.", result)


def _checked(found: Checked, result: RunResult) -> Outcome:
    """The check found nothing against the training, which is next."""
    message = f"Checked: {found.records} records to train on with {found.tokens} tokens; the training begins."
    if found.cut:
        message = (
            f"{message} {found.cut} of the {found.records + found.validation_records} records lose what they have "
            "beyond training.maxLength tokens."
        )
    if found.duplicates:
        message = (
            f"{message} {found.duplicates} of the {found.validation_records} records to measure with are also trained "
            "on, and what they measure is memory."
        )
    end = AttemptEnd(Reason.CHECKED, message)
    return Outcome(Phase.STARTING, Reason.CHECKED, message, result=result, ends=end, look_again_after=0.0)


def _ended_well(message: str, result: RunResult | None = None) -> Outcome:
    end = AttemptEnd(Reason.SUCCEEDED, message)
    return Outcome(Phase.SUCCEEDED, Reason.SUCCEEDED, message, result=result, ends=end)


def _own_image(s: Situation) -> str | None:
    """The image of a team's own program, which need not know what our trainer leaves as its result."""
    return None if isinstance(s.job, InvalidSpec) or s.job.spec.trainer is None else s.job.spec.trainer.image


def failed(s: Situation) -> Outcome | Confirm | Keep | None:
    """The Job failed. Why is said once all of its pods have ended: another one may have the better reason."""
    job = s.own_job
    if job is None or job.failed_reason is None:
        return None
    if left := _results(s):
        return succeeded(s, left[-1])
    if s.observed.living:
        return until_gone(s, s.observed.living)
    if not s.observed.confirmed and failures.of_pods(s.observed.witnesses) is None:
        return Confirm()
    cause = failures.cause(s.observed.witnesses)
    return conclude(s, failures.of_job(job, s.observed.witnesses), failures.result_of(cause) if cause else None)


def deleted(s: Situation) -> Outcome | Confirm | None:
    """The Job of the present attempt existed once and is gone."""
    present = s.attempts.present
    if s.observed.job is not None or not present:
        return None
    if not s.observed.confirmed:
        return Confirm()
    return gone(s) or conclude(
        s, failures.tell(Reason.JOB_DELETED, f"Job {present.get('job')} was deleted before it had finished")
    )


def gone(s: Situation) -> Outcome | None:
    """A Job was deleted, by us or others; its pods had come to an end all the same that must not be lost."""
    if left := _results(s):
        return succeeded(s, left[-1])
    failure = failures.of_pods(s.observed.witnesses)
    return conclude(s, failure) if failure and retry_of(failure.reason) is Retry.NEVER else None


def _results(s: Situation) -> list[PodState]:
    """Pods that ended well and left what can be read as the result; the others of a gang have none to leave."""
    led = [pod for pod in s.observed.witnesses if pod.leads and pod.ended and not pod.failed]
    return [pod for pod in led if failures.result_of(pod)]


def suspension(s: Situation) -> str:
    """What a suspended job says."""
    from_where = f" from the checkpoint of step {s.status.checkpoint.step}" if s.status.checkpoint else ""
    return f"Suspended; set spec.suspend to false to go on{from_where}."


def conclude(s: Situation, failure: Failure, result: RunResult | None = None) -> Outcome:
    """The attempt has ended otherwise than well: the end of the job, or another attempt."""
    rule = retry_of(failure.reason)
    if rule is Retry.SMALLER and (s.policy.on_out_of_memory == "Fail" or s.checks):  # nothing of a check is smaller
        rule = Retry.NEVER
    counted = rule in (Retry.COUNTED, Retry.SMALLER)
    failures_now = s.attempts.failures + counted
    end = AttemptEnd(failure.reason, failure.case, counted)
    if failure.reason is Reason.SUSPENDED and s.to_be_suspended:
        return Outcome(Phase.SUSPENDED, Reason.SUSPENDED, suspension(s), ends=end)
    if rule is Retry.NEVER or (counted and failures_now > s.policy.max_retries):
        often = f" It failed {failures_now} times." if counted and failures_now > 1 else ""
        message = f"{failure.case.rstrip('.')}.{often} {failure.way_out}"
        phase = Phase.CANCELLED if failure.reason is Reason.CANCELLED else Phase.FAILED
        return Outcome(phase, failure.reason, message, ends=end, result=result, accepted=not s.checks)
    less = ", with half as much going through the model at a time" if rule is Retry.SMALLER else ""
    goes_on = "It goes on from the newest checkpoint" if s.status.checkpoint else "It begins anew"
    message = (
        f"Attempt {s.attempts.number} ended ({failure.reason}): {failure.case.rstrip('.')}. "
        f"{goes_on} in attempt {s.attempts.number + 1}{less}."
    )
    reason = Reason.RETRYING if counted else failure.reason
    return Outcome(s.beginning, reason, message, ends=end, restarted=True, look_again_after=0.0)
