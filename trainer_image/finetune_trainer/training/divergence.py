"""When a training has gone astray: no number any more, or a loss that has left its course for good.

A single high loss is a hard batch. What counts is the median of the last few steps against those before them, and
their spread by the median absolute deviation, which one outlier cannot move.
"""

import math
from statistics import median

_RECENT = 5
_BEFORE = 50
_LEAST_BEFORE = 20
_SPREADS = 8.0
_LEAST_RISE = 0.5
"""Nats. Less is no harm, however unusual it is."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class LossWatch:
    """Watches the losses of one training. Its memory is part of a checkpoint, so that a resumed run judges alike."""

    def __init__(self, losses: list[float] | None = None) -> None:
        self.losses = losses or []
        """The newest, oldest first."""

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step of this loss and gradient norm; None: nothing, and it is remembered."""
        if not math.isfinite(loss):
            return f"loss became {loss}"
        if not math.isfinite(norm):
            return f"gradient's norm became {norm}"
        self.losses = [*self.losses, loss][-(_BEFORE + _RECENT) :]
        before, recent = self.losses[:-_RECENT], self.losses[-_RECENT:]
        if len(before) < _LEAST_BEFORE:
            return None
        usual = median(before)
        spread = _NORMAL * median(abs(value - usual) for value in before)
        if median(recent) <= usual + max(_SPREADS * spread, _LEAST_RISE):
            return None
        return f"loss rose from about {usual:.3f} to {median(recent):.3f} and stayed there"
