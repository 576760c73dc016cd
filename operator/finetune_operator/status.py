"""From an outcome to the status, and the patch that leads there.

Works on the raw status, so that fields and conditions of a newer version stay as they are.
"""

import hashlib
import json
from copy import deepcopy

from finetune_api.job import InvalidSpec
from finetune_api.plain import plain
from finetune_api.run import RunResult
from finetune_operator.observed import Raw
from finetune_operator.outcome import Outcome, Situation
from finetune_operator.times import format_time
from finetune_operator.told.attempts import account, attempts
from finetune_operator.told.conditions import conditions
from finetune_operator.told.progress import tell_headline, tell_progress


def next_status(s: Situation, outcome: Outcome) -> Raw:
    """The whole status that an outcome means."""
    status = deepcopy(s.raw_status)
    now = format_time(s.now)
    status["observedGeneration"] = s.meta.get("generation", 1)
    status["phase"] = outcome.phase.value
    status["message"] = outcome.message
    status.setdefault("startTime", now)
    status["conditions"] = conditions(s, outcome, now)
    _job(status, s, outcome)
    tell_progress(status, s, outcome)
    if outcome.result:
        _result(status, outcome.result)
    if outcome.ends:
        account(status, s, outcome.result)
    if outcome.phase.terminal:
        status["completionTime"] = now
    tell_headline(status)
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


def _job(status: Raw, s: Situation, outcome: Outcome) -> None:
    if not isinstance(s.job, InvalidSpec):
        status.setdefault("inputHash", _input_hash(s))
    if job := s.own_job:
        status["jobRef"] = {"name": job.name, "uid": job.uid}
    if told := attempts(s, outcome):
        status["attempts"] = told
    if outcome.ends and outcome.ends.counted:
        status["failures"] = s.attempts.failures + 1


def _input_hash(s: Situation) -> str:
    """Over what a run depends on: neither fields that may change later nor how a run may fail."""
    spec = {k: v for k, v in s.raw.get("spec", {}).items() if k not in ("preflight", "suspend", "cancel", "runPolicy")}
    return f"sha256:{hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()}"


def _result(status: Raw, result: RunResult) -> None:
    said = plain(result.to_dict())
    if said.get("checked"):
        status["check"] = said["checked"]
    for key in ("metrics", "result"):
        if said.get(key):
            status[key] = said[key]
