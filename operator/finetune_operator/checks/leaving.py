"""Pods that are being deleted: nothing goes on before they end, and where one does not, only people can say why."""

from collections.abc import Iterator, Sequence

from finetune_api.conditions import Reason
from finetune_operator.observed import PodState
from finetune_operator.outcome import Keep, Outcome, Situation
from finetune_operator.stillness import LOOK
from finetune_operator.times import parse_time

_OVERDUE = 60.0
"""Seconds after the end of its grace for which a pod may still be there, before somebody is asked to look."""


def late(s: Situation) -> Outcome | None:
    """A pod of the present attempt should have been gone long ago, though it seems to run."""
    return _late(s, s.observed.living) if s.own_job else None


def until_gone(s: Situation, pods: Sequence[PodState]) -> Outcome | Keep:
    """Pods that must end before anything else happens."""
    return _late(s, pods) or Keep(look_again_after=min(_waits(s, pods), default=LOOK))


def waits(s: Situation) -> Iterator[float]:
    """Seconds until pods of the present attempt are late."""
    return _waits(s, s.observed.living)


def _waits(s: Situation, pods: Sequence[PodState]) -> Iterator[float]:
    left = ((parse_time(pod.gone_by) - s.now).total_seconds() + _OVERDUE for pod in pods if pod.gone_by)
    return (seconds for seconds in left if seconds > 0)


def _late(s: Situation, pods: Sequence[PodState]) -> Outcome | None:
    pod = next((pod for pod in pods if pod.gone_by and s.age(pod.gone_by) >= _OVERDUE), None)
    if pod is None:
        return None
    node = f"node {pod.node}" if pod.node else "its node"
    message = (
        f"Pod {pod.name} should have ended at {pod.gone_by}, and {node} does not confirm it. Next step: where the "
        f"node is lost, delete it, or the pod with `kubectl delete pod {pod.name} --force`."
    )
    return Outcome(s.status.phase or s.beginning, Reason.STOPPING, message)
