"""From an outcome to the status: phase, conditions, headline, progress, attempts, usage.

Works on the raw status, so that fields and conditions of a newer version stay as they are.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from finetune_api import names
from finetune_api.conditions import ConditionType, Phase, Reason
from finetune_api.job import InvalidSpec
from finetune_api.plain import plain
from finetune_api.run import (
    CHECKPOINT_NAME,
    CHECKPOINTS,
    REPORTED_PHASES,
    ReportedMetric,
    RunResult,
    TrainerStatus,
)
from finetune_operator.attempts import MOST_KEPT
from finetune_operator.observed import PodState, Raw
from finetune_operator.outcome import Outcome, Situation
from finetune_operator.times import duration, format_time, parse_time

_LARGEST_INTEGER = 2**53
_CHAIN = (ConditionType.TRAINED, ConditionType.EVALUATED, ConditionType.PUBLISHED)
_WITH_QUOTA = (Phase.STARTING, *REPORTED_PHASES)
_PAST_EVALUATION = (Phase.PUBLISHING, Phase.SUCCEEDED)


def next_status(s: Situation, outcome: Outcome) -> Raw:
    """The whole status that an outcome means."""
    status = deepcopy(s.raw_status)
    now = format_time(s.now)
    status["observedGeneration"] = s.meta.get("generation", 1)
    status["phase"] = outcome.phase.value
    status["message"] = outcome.message
    status.setdefault("startTime", now)
    status["conditions"] = _conditions(s, outcome, now)
    _job(status, s, outcome)
    _progress(status, s, outcome)
    if outcome.result:
        _result(status, outcome.result)
    if outcome.ends:
        _usage(status, s, outcome.result)
    if outcome.phase.terminal:
        status["completionTime"] = now
    _headline(status)
    return status


def touched(s: Situation) -> Raw | None:
    """The patch that a finished job needs: none, but for a spec whose mutable fields changed since."""
    generation = s.meta.get("generation", 1)
    if s.raw_status.get("observedGeneration") == generation:
        return None
    conditions = deepcopy(s.raw_status.get("conditions") or [])
    for condition in conditions:
        condition["observedGeneration"] = generation
    return {"observedGeneration": generation, "conditions": conditions}


def merge_patch(old: Raw, new: Raw) -> Raw:
    """The JSON merge patch (RFC 7386) from one object to another; empty where they are equal."""
    patch: Raw = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif value != before or key not in old:
            patch[key] = value
    return patch


def _conditions(s: Situation, outcome: Outcome, now: str) -> list[Raw]:
    conditions = {c["type"]: c for c in deepcopy(s.raw_status.get("conditions") or [])}
    generation = s.meta.get("generation", 1)
    for kind, truth, reason, message in _wanted(conditions, outcome):
        before = conditions.get(kind, {})
        changed = before.get("status") != truth
        conditions[kind] = before | {
            "type": kind.value,
            "status": truth,
            "reason": reason.value,
            "message": message,
            "lastTransitionTime": now if changed else before["lastTransitionTime"],
        }
    for condition in conditions.values():
        condition["observedGeneration"] = generation
    return list(conditions.values())


def _wanted(conditions: dict[str, Raw], outcome: Outcome) -> Iterator[tuple[ConditionType, str, Reason, str]]:
    phase, reason, message = outcome.phase, outcome.reason, outcome.message
    yield ConditionType.READY, _truth(phase is Phase.SUCCEEDED), reason, message
    yield ConditionType.RECONCILING, _truth(not phase.terminal and phase is not Phase.SUSPENDED), reason, message
    yield ConditionType.STALLED, _truth(phase is Phase.FAILED), reason, message if phase is Phase.FAILED else ""
    if outcome.accepted:
        yield ConditionType.VALIDATED, "True", Reason.ACCEPTED, "The spec is valid and its model is known."
    else:
        yield ConditionType.VALIDATED, "False", reason, message
    if phase is Phase.QUEUED or ConditionType.QUOTA_RESERVED in conditions:
        yield ConditionType.QUOTA_RESERVED, _truth(phase in _WITH_QUOTA), reason, ""
    for kind in _CHAIN:
        before = conditions.get(kind, {}).get("status")
        if phase is Phase.SUCCEEDED or (phase in _PAST_EVALUATION and kind is not ConditionType.PUBLISHED):
            yield kind, "True", Reason.SUCCEEDED, ""
        elif (phase.terminal and before != "True") or (not phase.terminal and before):
            yield kind, "False", reason, ""


def _truth(value: bool) -> str:
    return "True" if value else "False"


def _job(status: Raw, s: Situation, outcome: Outcome) -> None:
    if not isinstance(s.job, InvalidSpec):
        status.setdefault("inputHash", _input_hash(s))
    if job := s.own_job:
        status["jobRef"] = {"name": job.name, "uid": job.uid}
    if attempts := _attempts(s, outcome):
        status["attempts"] = attempts
    if outcome.ends and outcome.ends.counted:
        status["failures"] = s.attempts.failures + 1


def _attempts(s: Situation, outcome: Outcome) -> list[Raw]:
    """The last ones, with what is known of the present one by now."""
    job, before = s.own_job, s.attempts.present
    present = dict(before) | {"number": s.attempts.number}
    if job:
        present |= {"job": job.name, "startedAt": job.created_at}
        if (used := s.profile) is not None:
            present["profile"] = used.to_dict()
        if s.attempts.divisor > 1:
            present["microBatchDivisor"] = s.attempts.divisor
    if (report := s.observed.report) and (step := _integer(report.status, ReportedMetric.RESUMED_AT)) is not None:
        present["resumedAtStep"] = step
    if outcome.stops:
        reason, case = outcome.stops
        present |= {"reason": reason.value, "message": case}
    if end := outcome.ends:
        finished = (job.finished_at if job else None) or format_time(s.now)
        present |= {"finishedAt": finished, "reason": end.reason.value, "message": end.message}
    others = deepcopy([a for a in s.attempts.recorded if a is not before])
    return [*others, *([present] if job or before or outcome.ends else [])][-MOST_KEPT:]


def _input_hash(s: Situation) -> str:
    """Over what a run depends on: neither fields that may change later nor how a run may fail."""
    spec = {k: v for k, v in s.raw.get("spec", {}).items() if k not in ("suspend", "cancel", "runPolicy")}
    return f"sha256:{hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()}"


def _progress(status: Raw, s: Situation, outcome: Outcome) -> None:
    report = s.observed.report
    if outcome.phase is Phase.SUCCEEDED:
        status["progress"] = (status.get("progress") or {}) | _last_reported(s) | {"percent": 100}
        status.pop("checkpoint", None)  # the trainer has removed it
    if outcome.phase.terminal:
        (status.get("progress") or {}).pop("etaSeconds", None)
    elif outcome.restarted:
        status.pop("progress", None)
    elif report and outcome.phase in REPORTED_PHASES and s.observed.pods[-1].uid == report.pod_uid:
        before = status.get("progress") or {}
        fields = _reported(report.status)
        unknown = {k: v for k, v in before.items() if k not in _REPORTED}
        if fields != {k: v for k, v in before.items() if k in _REPORTED}:
            status["progress"] = unknown | fields | {"heartbeat": format_time(report.received_at)}
        _checkpoint(status, s, report.status)


def _last_reported(s: Situation) -> Raw:
    """What the pod that ended had said at last, which may be more than there was time to write."""
    report = s.observed.report
    if report is None or not s.observed.pods or s.observed.pods[-1].uid != report.pod_uid:
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
    step, total = (_integer(report, name) for name in (ReportedMetric.CURRENT_STEP, ReportedMetric.TOTAL_STEPS))
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


def _integer(report: TrainerStatus, name: str) -> int | None:
    value = report.number(name)
    return int(value) if value is not None and 0 <= value <= _LARGEST_INTEGER else None


def _result(status: Raw, result: RunResult) -> None:
    said = plain(result.to_dict())
    for key in ("metrics", "result"):
        if said.get(key):
            status[key] = said[key]


def _usage(status: Raw, s: Situation, result: RunResult | None) -> None:
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
    return 0 if isinstance(s.job, InvalidSpec) else s.job.spec.resources.gpus_per_node


def _seconds(pod: PodState, s: Situation) -> float:
    if not pod.started_at or pod.started_at < pod.created_at:  # one that did not start is said to have in 1970
        return 0.0
    end = parse_time(pod.finished_at) if pod.finished_at else s.now
    return max(0.0, (end - parse_time(pod.started_at)).total_seconds())


def _headline(status: Raw) -> None:
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
