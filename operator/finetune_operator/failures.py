"""What a pod's end, or its failing to start, means: a reason, and a sentence for the user."""

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.conditions import MEANINGS, Reason, Retry, retry_of
from finetune_api.run import ExitCode, RunError, RunResult
from finetune_operator.observed import JobState, PodState

_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "ImageInspectError": Reason.IMAGE_PULL_FAILED,
    "RegistryUnavailable": Reason.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG_ERROR,
    "CreateContainerError": Reason.CONTAINER_CONFIG_ERROR,
}
_DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
"""Reasons of the condition DisruptionTarget; any other one is an eviction."""
_ASKED_TO_END = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
"""Exit codes of a trainer that a deletion ended before it could say so itself."""
_OWN_DISK = ("ephemeral-storage", "ephemeral local storage", "emptydir volume")
"""What a kubelet says that evicts a pod for the disk that it fills: another node may have more, but not for ever."""
POD_NAME = re.compile(r'pods "[^"]*"')
"""In what an API server says of a pod that it refuses; each try has another name."""
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
        return f"{self.case.rstrip('.')}. {self.way_out}"

    @property
    def way_out(self) -> str:
        """The next step, as a sentence."""
        return f"Next step: {self.next_step}." if self.next_step else _AFTER_THE_MEND


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
        return _of_disruption(pod, pod.disruption)
    result = result_of(pod)
    if result is not None and result.error is not None:
        return told_by_trainer(result.error)
    if pod.exit_code is None:
        what = ": ".join(part for part in (pod.ended_reason, pod.ended_message) if part) or "no reason was given"
        reason = Reason.NODE_LOST if pod.ended_reason == "NodeLost" else Reason.DISRUPTED
        return tell(reason, f"pod {pod.name} failed before its trainer ended: {_quote(what)}")
    return _of_exit_code(pod, pod.exit_code)


def _of_disruption(pod: PodState, disruption: str) -> Failure:
    """The platform took the pod away. What the trainer itself found out before counts more: it would find it again."""
    result = result_of(pod)
    if result is not None and result.error is not None and retry_of(result.error.reason) is Retry.NEVER:
        return told_by_trainer(result.error)
    if any(words in f"{disruption} {pod.ended_message}".lower() for words in _OWN_DISK):
        return tell(Reason.DISK_FULL, f"pod {pod.name} was evicted: {_quote(disruption)}")
    reason = _DISRUPTIONS.get(disruption.partition(":")[0], Reason.DISRUPTED)
    on = f" from node {pod.node}" if pod.node else ""
    return tell(reason, f"pod {pod.name} was taken away{on}: {_quote(disruption)}")


def _of_exit_code(pod: PodState, code: int) -> Failure:
    if code in set(ExitCode) and code != ExitCode.SUCCEEDED:
        reason = ExitCode(code).reason
        return tell(reason, f"{MEANINGS[reason].sentence.rstrip('.')} (exit code {code}; it left no message)")
    if pod.ended_reason in ("StartError", "ContainerCannotRun"):
        return tell(Reason.TRAINER_CRASHED, f"pod {pod.name}: the trainer did not start: {_quote(pod.ended_message)}")
    if pod.gone_by and code in _ASKED_TO_END:
        return tell(Reason.DISRUPTED, f"pod {pod.name} was deleted (exit code {code})")
    if code > 128 and (name := _signal_name(code - 128)):
        return tell(Reason.TRAINER_KILLED, f"pod {pod.name}: the trainer was killed by {name} (exit code {code})")
    left = f": {_quote(pod.ended_message)}" if pod.ended_message else ""
    return tell(Reason.TRAINER_CRASHED, f"pod {pod.name}: the trainer ended with exit code {code}{left}")


def of_pods(pods: Sequence[PodState]) -> Failure | None:
    """Why the pods of an attempt failed, once none lives: as the one did that is the cause; None where none did."""
    pod, silent = cause(pods), next((pod for pod in pods if not pod.ended), None)
    if pod is not None and silent is not None and pod.exit_code == ExitCode.PEERS_LOST:
        case = f"pod {silent.name} is gone, and nobody has seen how it ended; pod {pod.name} lost it"
        return tell(Reason.DISRUPTED, case)
    return of_pod(pod) if pod else None


def cause(pods: Sequence[PodState]) -> PodState | None:
    """The pod whose end made an attempt fail.

    One that found what no attempt can mend, since another would find it again. Else the first that ended by itself or
    was taken away: whom the others lose they cannot do without, whichever way they end of it. Where none did, the first
    that lost the others or was asked to end, as a Job asks all once one has failed.
    """
    return min((pod for pod in pods if pod.failed), key=_precedence, default=None)


def _precedence(pod: PodState) -> tuple[int, str, bool, str]:
    """Rank, time, and whether to stand back where the time is the same: it has whole seconds."""
    ended = pod.finished_at or ""
    if retry_of(of_pod(pod).reason) is Retry.NEVER:
        return 0, ended, False, pod.name
    asked = pod.gone_by is not None and pod.exit_code in _ASKED_TO_END and pod.ended_reason != "OOMKilled"
    lost = pod.exit_code == ExitCode.PEERS_LOST
    if pod.disruption is None and (asked or lost or pod.exit_code == ExitCode.PREEMPTED):
        return 2, min(ended, pod.asked_at or ended), not lost, pod.name
    return 1, ended, pod.disruption is None, pod.name


def of_job(job: JobState, pods: Sequence[PodState]) -> Failure:
    """Why a failed Job failed: as its pods did, or where none is left, as the Job says.

    Only who takes a pod away takes away a pod that failed: a Job leaves them where they are.
    """
    failure = of_pods(pods)
    if failure is not None:
        return failure
    case = f"Job {job.name} failed ({job.failed_reason}: {job.failed_message}) and left no pod that says why"
    return tell(Reason.DISRUPTED if job.failed_reason == "BackoffLimitExceeded" else Reason.TRAINER_CRASHED, case)


def of_refusal(complaint: str) -> Failure:
    """Why the API server refuses a Job or its pod, by its own words."""
    said = _quote(POD_NAME.sub("the pod", complaint))
    if "exceeded quota" in complaint:
        return tell(Reason.QUOTA_EXCEEDED, f"there is no room in a quota: {said}")
    return tell(Reason.POD_REFUSED, f"the pod cannot be created: {said}")


def of_all_waiting(pods: Sequence[PodState]) -> Iterator[Failure]:
    """Why those of an attempt's pods do not start that do not."""
    troubles = (of_waiting(pod) for pod in pods if not pod.ended and not pod.running)
    return (trouble for trouble in troubles if trouble)


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
