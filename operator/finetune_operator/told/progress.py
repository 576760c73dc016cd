"""Progress, and the texts of `kubectl get`."""

from typing import Any

from finetune_api import names
from finetune_api.conditions import Phase
from finetune_api.job import InvalidSpec
from finetune_api.run import CHECKPOINT_NAME, CHECKPOINTS, REPORTED_PHASES, ReportedMetric, TrainerStatus
from finetune_operator.observed import Raw
from finetune_operator.outcome import Outcome, Situation
from finetune_operator.times import duration, format_time

_LARGEST_INTEGER = 2**53


def tell_progress(status: Raw, s: Situation, outcome: Outcome) -> None:
    """How far the training is, by the last report, and its newest checkpoint."""
    report = s.report
    if outcome.phase is Phase.SUCCEEDED:
        status["progress"] = (status.get("progress") or {}) | _last_reported(s) | {"percent": 100}
        status.pop("checkpoint", None)  # the trainer has removed it
    if outcome.phase.terminal:
        (status.get("progress") or {}).pop("etaSeconds", None)
    elif outcome.restarted:
        status.pop("progress", None)
    elif report and outcome.phase in REPORTED_PHASES:
        before = status.get("progress") or {}
        fields = _reported(report.status)
        unknown = {k: v for k, v in before.items() if k not in _REPORTED}
        if fields != {k: v for k, v in before.items() if k in _REPORTED}:
            status["progress"] = unknown | fields | {"heartbeat": format_time(report.received_at)}
        _checkpoint(status, s, report.status)


def _last_reported(s: Situation) -> Raw:
    """What the pod that ended had said at last, which may be more than there was time to write."""
    report = s.report
    if report is None:
        return {}
    return _reported(report.status) | {"heartbeat": format_time(report.received_at)}


def _checkpoint(status: Raw, s: Situation, report: TrainerStatus) -> None:
    """The newest complete one."""
    found = CHECKPOINT_NAME.fullmatch(report.metric(ReportedMetric.CHECKPOINT) or "")
    if found and not isinstance(s.job, InvalidSpec):
        prefix = names.job_prefix(s.job.spec.output.uri, s.job.name, s.job.uid)
        status["checkpoint"] = {"uri": f"{prefix}{CHECKPOINTS}{found[0]}/", "step": int(found[1])}


_REPORTED = ("percent", "step", "totalSteps", "etaSeconds", "tokensPerSecond", "loss")


def _reported(report: TrainerStatus) -> Raw:
    """The fields of ``status.progress`` that a report gives; the heartbeat alone is no change worth a write."""
    step, total = (integer(report, name) for name in (ReportedMetric.CURRENT_STEP, ReportedMetric.TOTAL_STEPS))
    percent = report.progress_percentage
    if percent is None:
        percent = min(100, 100 * step // total) if step is not None and total else 0
    tokens, loss = (report.number(name) for name in (ReportedMetric.TOKENS_PER_SECOND, ReportedMetric.LOSS))
    found = {
        "percent": percent,
        "step": step,
        "totalSteps": total,
        "etaSeconds": report.estimated_remaining_seconds,
        "tokensPerSecond": None if tokens is None else round(tokens, 1),
        "loss": None if loss is None else round(loss, 6),
    }
    return {key: value for key, value in found.items() if value is not None}


def integer(report: TrainerStatus, name: str) -> int | None:
    """A metric of a report as a number of steps."""
    value = report.number(name)
    return int(value) if value is not None and 0 <= value <= _LARGEST_INTEGER else None


def tell_headline(status: Raw) -> None:
    """The texts that `kubectl get` shows."""
    progress = status.get("progress") or {}
    texts: dict[str, Any] = {
        "progress": f"{progress['percent']}%" if "percent" in progress else None,
        "eta": duration(progress["etaSeconds"]) if "etaSeconds" in progress else None,
    }
    if metrics := status.get("metrics"):
        shown = metrics[0]  # a trainer says first what matters most
        base = f"{shown['baseline']:.2f}→" if shown.get("baseline") is not None else ""
        texts |= {"metric": shown["name"], "baseToTuned": f"{base}{shown['value']:.2f}"}
    unknown = {k: v for k, v in (status.get("headline") or {}).items() if k not in ("progress", "eta")}
    status["headline"] = unknown | {key: text for key, text in texts.items() if text is not None}
