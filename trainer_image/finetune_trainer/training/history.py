"""The steps of a training, as many of them as are worth keeping: a long run shall not cost memory for its past."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_trainer.progress import StepDone

_MOST = 1000


@dataclass(frozen=True)
class Between:
    """What the model was worth between two steps."""

    step: int
    """After so many steps."""
    metrics: dict[str, float]
    """By their names."""


@dataclass
class History:
    """Every ``stride``-th step, and the last one; the stride doubles whenever there would be too many."""

    stride: int = 1
    kept: list[StepDone] = field(default_factory=list)
    last: StepDone | None = None
    tokens: int = 0
    """Trained on, padding not counted, repetitions counted."""
    evaluations: list[Between] = field(default_factory=list)
    """The newest ones that were measured between steps, oldest first."""

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """One more evaluation, after ``step`` steps."""
        self.evaluations = [*self.evaluations, Between(step, dict(metrics))][-_MOST:]

    def add(self, done: StepDone) -> None:
        """One more step."""
        self.last = done
        self.tokens += done.tokens
        if done.step % self.stride == 0:
            self.kept.append(done)
        if len(self.kept) > _MOST:
            self.stride *= 2
            self.kept = [step for step in self.kept if step.step % self.stride == 0]

    @property
    def steps(self) -> list[StepDone]:
        """Those kept, in order; the last one is always among them."""
        more = self.last is not None and self.kept[-1:] != [self.last]
        return [*self.kept, self.last] if more and self.last else list(self.kept)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, content: dict[str, Any]) -> "History":
        """From ``to_dict``'s JSON."""
        last = content["last"]
        return cls(
            stride=content["stride"],
            kept=[StepDone(**step) for step in content["kept"]],
            last=StepDone(**last) if last else None,
            tokens=content["tokens"],
            evaluations=[Between(**each) for each in content["evaluations"]],
        )
