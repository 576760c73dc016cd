"""What Prometheus is told of FineTuneJobs: how many are in which phase, and how each live one is doing.

Nothing is kept: the values are looked up in the caches when somebody asks, so that the series of a job that has ended
or was deleted are gone. Only the leader tells, or sums over replicas would count every job twice.

Series: namespaces × phases for the counts, and ``len(_OF_EACH)`` for each of at most ``most`` live jobs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.conditions import Phase
from finetune_operator.metrics import Definition
from finetune_operator.observed import Raw
from finetune_operator.times import parse_time

JOBS = Definition("gauge", "finetune_jobs", "FineTuneJobs by phase.", ("namespace", "phase"))
OMITTED = Definition(
    "gauge",
    "finetune_job_series_omitted",
    "Live FineTuneJobs that have no series of their own, because there are more than the setting metrics_jobs.",
)
_EACH = ("namespace", "name")
PROGRESS = Definition("gauge", "finetune_job_progress_ratio", "How much of a live FineTuneJob is done, 0 to 1.", _EACH)
LOSS = Definition("gauge", "finetune_job_loss", "Training loss of a live FineTuneJob.", _EACH)
SPEED = Definition("gauge", "finetune_job_tokens_per_second", "Training speed of a live FineTuneJob.", _EACH)
LEFT = Definition("gauge", "finetune_job_eta_seconds", "Time that a live FineTuneJob will still take.", _EACH)
HEARTBEAT = Definition(
    "gauge", "finetune_job_heartbeat_timestamp_seconds", "When a live FineTuneJob last told of progress, Unix.", _EACH
)

DEFINITIONS = (JOBS, OMITTED, PROGRESS, LOSS, SPEED, LEFT, HEARTBEAT)

_LIVE = frozenset(phase.value for phase in Phase if not phase.terminal)

_OF_EACH: tuple[tuple[Definition, str, Callable[[Any], float]], ...] = (
    (PROGRESS, "percent", lambda percent: percent / 100),
    (LOSS, "loss", float),
    (SPEED, "tokensPerSecond", float),
    (LEFT, "etaSeconds", float),
    (HEARTBEAT, "heartbeat", lambda text: parse_time(text).timestamp()),
)
"""(metric, field of status.progress, how the field becomes its value)."""


class JobCollector(Collector):
    """Looks FineTuneJobs up for Prometheus.

    Args:
        jobs: all FineTuneJobs; none where this replica does not lead.
        most: live FineTuneJobs with series of their own.
    """

    def __init__(self, jobs: Callable[[], Iterable[Raw]], most: int) -> None:
        self._jobs, self._most = jobs, most

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The metrics without values: a registry asks for them when it takes a collector."""
        yield from (_family(definition) for definition in DEFINITIONS)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics as of now."""
        counts: Counter[tuple[str, str]] = Counter()
        telling = []
        for raw in self._jobs():
            meta, status = raw["metadata"], raw.get("status") or {}
            phase = status.get("phase") or Phase.PENDING.value
            counts[meta["namespace"], phase] += 1
            if phase in _LIVE and status.get("progress"):
                telling.append((meta.get("creationTimestamp", ""), meta["namespace"], meta["name"], status["progress"]))
        families = {definition: _family(definition) for definition in DEFINITIONS}
        for labels, count in sorted(counts.items()):
            families[JOBS].add_metric(labels, count)
        families[OMITTED].add_metric((), max(0, len(telling) - self._most))
        for _, namespace, name, progress in sorted(telling, key=lambda job: job[:3])[: self._most]:
            for definition, field, value in _OF_EACH:
                if progress.get(field) is not None:
                    families[definition].add_metric((namespace, name), value(progress[field]))
        yield from families.values()


def _family(definition: Definition) -> GaugeMetricFamily:
    return GaugeMetricFamily(definition.name, definition.about, labels=definition.labels)
