"""What is told of a status that was written, beside its Event: a line of the log, and the counters."""

import logging

from finetune_api.conditions import Phase
from finetune_operator.logs import JobLog
from finetune_operator.metrics import Metrics
from finetune_operator.observed import Raw

log = logging.getLogger(__name__)
_ENDS = frozenset(phase.value for phase in Phase if phase.terminal)


class Journal:
    """Tells each change of phase or reason once; progress is no news."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def wrote(self, before: Raw, after: Raw) -> None:
        """A status was written: the FineTuneJob as it was, and as the API server answered."""
        meta, old, new = after["metadata"], before.get("status") or {}, after.get("status") or {}
        namespace, phase, reason = meta["namespace"], new.get("phase", ""), _reason(new)
        if (old.get("phase"), _reason(old)) != (phase, reason):
            fields = {"phase": phase, "reason": reason, "was": old.get("phase") or "new"}
            level = logging.WARNING if phase == Phase.FAILED else logging.INFO
            JobLog(log, namespace, meta["name"]).log(level, "%s", new.get("message", ""), fields=fields)
        if phase in _ENDS and old.get("phase") not in _ENDS:
            self._metrics.finished(namespace, phase, reason)
        if (used := _gpu_seconds(new) - _gpu_seconds(old)) > 0:
            self._metrics.used(namespace, used)


def _reason(status: Raw) -> str:
    return next((str(c["reason"]) for c in status.get("conditions") or () if c["type"] == "Ready"), "")


def _gpu_seconds(status: Raw) -> float:
    return float((status.get("usage") or {}).get("gpuSeconds") or 0)
