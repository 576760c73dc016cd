"""The learning rate as a function of the step, so that any step's rate is known without the steps before it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Rises in a line from zero, then goes down to zero (``cosine``, ``linear``) or stays (``constant``)."""

    highest: float
    kind: str
    total_steps: int
    warmup_fraction: float

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, from 0. No step has rate zero, as it would be for nothing."""
        warmup = math.floor(self.warmup_fraction * self.total_steps)
        if step < warmup:
            return self.highest * (step + 1) / (warmup + 1)
        left = 1 - (step - warmup) / max(1, self.total_steps - warmup)  # 1 … just above 0
        falling = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left, "constant": 1.0}
        return self.highest * falling[self.kind]
