"""What a pod's end, or its failing to start, means: a reason, and a sentence for the user."""

import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from finetune_api.conditions import MEANINGS, Reason
from finetune_api.run import ExitCode, RunError, RunResult
from finetune_operator.observed import JobState, PodState

_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG_ERROR,
}
_AFTER_THE_MEND = "After the mend delete the FineTuneJob and apply it again."
"""The trainer says how to mend its case, but knows nothing of FineTuneJobs: Failed is final and a spec immutable."""
_LONGEST_QUOTE = 1000
"""Characters of somebody else's words that a message repeats."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, or what it waits for."""

    reason: Reason
    case: str
    """What happened, as one sentence or more."""
    next_step: str = ""
    """What to do about it, once nobody tries again; empty where the case says how to mend it."""

    @property
    def message(self) -> str:
        """The case at hand and the next step, for a verdict that is final."""
        return f"{self.case.rstrip('.')}. {f'Next step: {self.next_step}.' if self.next_step else _AFTER_THE_MEND}"


def tell(reason: Reason, case: str) -> Failure:
    """A failure told as the case at hand, followed by the reason's next step."""
    return Failure(reason, case, MEANINGS[reason].next_step)


def told_by_trainer(error: RunError) -> Failure:
    """A failure in the trainer's own words."""
    return Failure(error.reason, _quote(error.message))


def result_of(pod: PodState) -> RunResult | None:
    """The pod's termination message, if it is a readable result."""
    try:
        return RunResult.model_validate_json(pod.ended_message)
    except ValidationError:
        return None


def of_pod(pod: PodState) -> Failure:
    """Why a pod failed.

    The kernel's and the platform's word comes first: they ended the process whatever it wrote before. Then what the
    trainer wrote, then its exit code.
    """
    if pod.ended_reason == "OOMKilled":
        case = f"pod {pod.name}: the kernel killed the trainer at the memory limit of its container (exit code 137)"
        return tell(Reason.OUT_OF_MEMORY, case)
    if pod.disruption is not None:
        return tell(Reason.DISRUPTED, f"pod {pod.name} was taken away: {_quote(pod.disruption)}")
    result = result_of(pod)
    if result is not None and result.error is not None:
        return told_by_trainer(result.error)
    if pod.exit_code is None:
        what = ": ".join(part for part in (pod.ended_reason, pod.ended_message) if part) or "no reason was given"
        return tell(Reason.DISRUPTED, f"pod {pod.name} failed before its trainer ended: {_quote(what)}")
    return _of_exit_code(pod, pod.exit_code)


def _of_exit_code(pod: PodState, code: int) -> Failure:
    if code in set(ExitCode) and code != ExitCode.SUCCEEDED:
        reason = ExitCode(code).reason
        return tell(reason, f"{MEANINGS[reason].sentence.rstrip('.')} (exit code {code}; it left no message)")
    if pod.ended_reason in ("StartError", "ContainerCannotRun"):
        return tell(Reason.TRAINER_CRASHED, f"pod {pod.name}: the trainer did not start: {_quote(pod.ended_message)}")
    if code > 128 and (name := _signal_name(code - 128)):
        return tell(Reason.TRAINER_KILLED, f"pod {pod.name}: the trainer was killed by {name} (exit code {code})")
    left = f": {_quote(pod.ended_message)}" if pod.ended_message else ""
    return tell(Reason.TRAINER_CRASHED, f"pod {pod.name}: the trainer ended with exit code {code}{left}")


def of_job(job: JobState, pods: Iterable[PodState]) -> Failure:
    """Why a failed Job failed: as its last failed pod did, or where no pod is left, as the Job says.

    A pod that the platform took away never decides while another one ended by itself.
    """
    failed = sorted(
        (pod for pod in pods if pod.failed), key=lambda pod: (pod.disruption is None, pod.finished_at or "", pod.name)
    )
    if not failed:
        case = f"Job {job.name} failed ({job.failed_reason}: {job.failed_message}) and left no pod that says why"
        return tell(Reason.TRAINER_CRASHED, case)
    failure = of_pod(failed[-1])
    if job.failed_reason == "BackoffLimitExceeded" and job.failures > 1:
        return replace(failure, case=f"{failure.case.rstrip('.')}. It failed {job.failures} times.")
    return failure


def of_waiting(pod: PodState) -> Failure | None:
    """Why a pod does not start, where waiting alone may not help."""
    if pod.unschedulable is not None:
        return tell(Reason.UNSCHEDULABLE, f"pod {pod.name} finds no node: {_quote(pod.unschedulable)}")
    reason = _WAITING.get(pod.waiting_reason or "")
    if reason is None:
        return None
    return tell(reason, f"pod {pod.name} does not start: {_steady(pod)}")


def _steady(pod: PodState) -> str:
    """What a waiting container says. A kubelet alternates between two wordings; the user needs one, and a status that
    is not written anew each time."""
    message = pod.waiting_message
    if ": ErrImagePull: " in message:
        message = message.split(": ErrImagePull: ", 1)[1]
    return _quote(message or pod.waiting_reason or "")


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"
