"""Attempts: what is known of each, and what they took."""

from copy import deepcopy

from finetune_api.job import InvalidSpec
from finetune_api.run import ReportedMetric, RunResult
from finetune_operator.attempts import MOST_KEPT
from finetune_operator.observed import PodState, Raw
from finetune_operator.outcome import Outcome, Situation
from finetune_operator.times import format_time, parse_time
from finetune_operator.told.progress import integer


def attempts(s: Situation, outcome: Outcome) -> list[Raw]:
    """The last ones, with what is known of the present one by now."""
    job, before = s.own_job, s.attempts.present
    present = dict(before) | {"number": s.attempts.number}
    if job:
        present |= {"job": job.name, "startedAt": job.created_at}
        if (used := s.profile) is not None:
            present["profile"] = used.to_dict()
        if s.attempts.divisor > 1:
            present["microBatchDivisor"] = s.attempts.divisor
        if s.checks:
            present["check"] = True
    if (report := s.observed.report) and (step := integer(report.status, ReportedMetric.RESUMED_AT)) is not None:
        present["resumedAtStep"] = step
    if outcome.stops:
        reason, case = outcome.stops
        present |= {"reason": reason.value, "message": case}
    if end := outcome.ends:
        finished = (job.finished_at if job else None) or format_time(s.now)
        present |= {"finishedAt": finished, "reason": end.reason.value, "message": end.message}
    others = deepcopy([a for a in s.attempts.recorded if a is not before])
    return [*others, *([present] if job or before or outcome.ends else [])][-MOST_KEPT:]


def account(status: Raw, s: Situation, result: RunResult | None) -> None:
    """What the attempt that has ended took, beside those before it."""
    usage = dict(status.get("usage") or {})
    before = usage.get("gpuSeconds")
    if result and result.usage:
        usage |= result.usage.to_dict()
    if s.observed.witnesses or before is not None:
        seconds = sum(_seconds(pod, s) for pod in s.observed.witnesses)
        usage["gpuSeconds"] = (before or 0) + round(_gpus(s) * seconds)
    used = s.profile
    if used is not None and used.price_per_hour is not None and usage.get("gpuSeconds"):
        usage["cost"] = f"{usage['gpuSeconds'] / 3600 * used.price_per_hour:.2f} {used.currency}"
    if usage:
        status["usage"] = usage


def _gpus(s: Situation) -> int:
    return 0 if s.checks or isinstance(s.job, InvalidSpec) else s.job.spec.resources.gpus_per_node


def _seconds(pod: PodState, s: Situation) -> float:
    if not pod.started_at or pod.started_at < pod.created_at:  # one that did not start is said to have in 1970
        return 0.0
    end = parse_time(pod.finished_at) if pod.finished_at else s.now
    return max(0.0, (end - parse_time(pod.started_at)).total_seconds())
