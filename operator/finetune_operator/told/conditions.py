"""Conditions: the summary by kstatus, and how far the chain from validation to publication came."""

from collections.abc import Iterator
from copy import deepcopy

from finetune_api.conditions import ConditionType, Phase, Reason
from finetune_api.run import REPORTED_PHASES
from finetune_operator.observed import Raw
from finetune_operator.outcome import Outcome, Situation

_CHAIN = (ConditionType.TRAINED, ConditionType.EVALUATED, ConditionType.PUBLISHED)
_WITH_QUOTA = (Phase.STARTING, *REPORTED_PHASES)
_PAST_EVALUATION = (Phase.PUBLISHING, Phase.SUCCEEDED)


def conditions(s: Situation, outcome: Outcome, now: str) -> list[Raw]:
    """All conditions; one keeps its transition time until it turns."""
    found = {c["type"]: c for c in deepcopy(s.raw_status.get("conditions") or [])}
    generation = s.meta.get("generation", 1)
    for kind, truth, reason, message in _wanted(found, outcome):
        before = found.get(kind, {})
        changed = before.get("status") != truth
        found[kind] = before | {
            "type": kind.value,
            "status": truth,
            "reason": reason.value,
            "message": message,
            "lastTransitionTime": now if changed else before["lastTransitionTime"],
        }
    for condition in found.values():
        condition["observedGeneration"] = generation
    return list(found.values())


def _wanted(before_now: dict[str, Raw], outcome: Outcome) -> Iterator[tuple[ConditionType, str, Reason, str]]:
    phase, reason, message = outcome.phase, outcome.reason, outcome.message
    yield ConditionType.READY, _truth(phase is Phase.SUCCEEDED), reason, message
    yield ConditionType.RECONCILING, _truth(not phase.terminal and phase is not Phase.SUSPENDED), reason, message
    yield ConditionType.STALLED, _truth(phase is Phase.FAILED), reason, message if phase is Phase.FAILED else ""
    checked = before_now.get(ConditionType.VALIDATED, {})
    if reason is Reason.CHECKED:
        yield ConditionType.VALIDATED, "True", reason, message
    elif outcome.accepted and checked.get("reason") == Reason.CHECKED:
        yield ConditionType.VALIDATED, "True", Reason.CHECKED, checked["message"]
    elif outcome.accepted:
        yield ConditionType.VALIDATED, "True", Reason.ACCEPTED, "The spec is valid and its model is known."
    else:
        yield ConditionType.VALIDATED, "False", reason, message
    if phase is Phase.QUEUED or ConditionType.QUOTA_RESERVED in before_now:
        yield ConditionType.QUOTA_RESERVED, _truth(phase in _WITH_QUOTA), reason, ""
    for kind in _CHAIN:
        before = before_now.get(kind, {}).get("status")
        if phase is Phase.SUCCEEDED or (phase in _PAST_EVALUATION and kind is not ConditionType.PUBLISHED):
            yield kind, "True", Reason.SUCCEEDED, ""
        elif (phase.terminal and before != "True") or (not phase.terminal and before):
            yield kind, "False", reason, ""


def _truth(value: bool) -> str:
    return "True" if value else "False"
