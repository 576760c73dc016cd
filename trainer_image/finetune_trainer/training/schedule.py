"""The learning rate as a function of the step, so that any step's rate is known without the steps before it."""

import math
from dataclasses import dataclass

DECAY_FRACTION = 0.2
"""Share of the steps in which ``wsd`` lets the rate fall, where the user gives none: with it the loss is that of a
cosine (Hägele et al. 2024)."""


@dataclass(frozen=True)
class Schedule:
    """Rises in a line from zero; then goes down to zero at once (``cosine``, ``linear``), stays and goes down in a line
    at the end (``wsd``), or stays (``constant``; ``plateau``, whose rate is lowered by what is measured)."""

    highest: float
    kind: str
    total_steps: int
    warmup_fraction: float
    decay_fraction: float | None = None
    """Of ``wsd``; None: DECAY_FRACTION."""

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, from 0. No step has rate zero, as it would be for nothing."""
        warmup = math.floor(self.warmup_fraction * self.total_steps)
        if step < warmup:
            return self.highest * (step + 1) / (warmup + 1)
        begin = warmup
        if self.kind == "wsd":
            decay = DECAY_FRACTION if self.decay_fraction is None else self.decay_fraction
            begin = max(warmup, self.total_steps - math.floor(decay * self.total_steps))
        left = 1 - max(0, step - begin) / max(1, self.total_steps - begin)  # 1 … just above 0
        falling = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left, "wsd": left}
        return self.highest * falling.get(self.kind, 1.0)
