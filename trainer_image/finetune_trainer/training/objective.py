"""What the loop knows of what it trains: examples become a batch, and a batch a loss. Which objective it is, and what
its batches are made of, it never asks: recipes make objectives (:mod:`finetune_trainer.recipes`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune_trainer.models.parts import without_adapter
from finetune_trainer.preparation.encoding import Example
from finetune_trainer.training.layout import PADDED, Layout

T = TypeVar("T")

IGNORED = -100
"""Target that does not count, by cross_entropy's convention."""


@dataclass(frozen=True)
class Loss:
    """What a model makes of a batch."""

    loss: Tensor
    """Sum over the units that count (learned tokens, or records, or pairs); a scalar in fp32 that carries gradients."""
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    """Sums of other measures over the same units; scalars, made only where no gradients are asked for."""
    predictions: Sequence[Any] = ()
    """One for each example of the batch, in its order, where a metric needs more than sums. Only without gradients."""


class Objective(nn.Module):
    """A model and the loss that it learns by."""

    references: ClassVar[int] = 0
    """How many numbers it must know of each example from the model before its first step. It is asked for them once:
    they are the predictions for a batch of examples that have no ``references`` yet."""
    surveys: ClassVar[bool] = False
    """Whether it must look at all examples of a step before it can tell the loss of any of them."""
    smoothing: float = 0.0
    """``training.labelSmoothing``, for :meth:`cross_entropy`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def cross_entropy(self, logits: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        """What every objective that learns classes or tokens calls: the sum of the cross entropies, nats, in fp32; or
        [N] each of them (``reduction`` "none").

        While the model is trained the labels are smoothed (Szegedy et al. 2016): with s the smoothing and K the number
        of classes the target has the probability 1 - s + s / K, each other class s / K. Measured is without it.

        Args:
            logits: [N, K].
            targets: [N] numbers of classes; -100 does not count.
        """
        smoothing = self.smoothing if self.training else 0.0
        return functional.cross_entropy(logits.float(), targets, reduction=reduction, label_smoothing=smoothing)

    def choose_layout(self) -> Layout:
        """How records lie in a forward pass of this model, before it has an adapter or after; may try it out."""
        return PADDED

    def use(self, layout: Layout) -> None:
        """From here on batches have this layout."""

    def collate(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Any:
        """Examples as one batch on ``device``, one after the other in a row, or one a row and padded."""
        raise NotImplementedError

    def collate_survey(self, examples: Sequence[Example], packed: bool, device: torch.device) -> Any:
        """Examples of a step as a batch to look at; only the sums are taken of what :meth:`forward` makes of it."""
        raise NotImplementedError

    def surveyed(self, sums: Mapping[str, float], units: float) -> None:
        """What it found in all examples of a step, before it is asked for the loss of the first of them."""

    def forward(self, batch: Any) -> Loss:
        """The loss of what :meth:`collate` returned."""
        raise NotImplementedError

    def stand_in(self, tokens: int) -> Example:
        """An example of so many tokens, to see what memory one takes."""
        raise NotImplementedError

    def recompute(self) -> None:
        """From here on keeps little for the backward pass, and computes it again instead.

        Raises:
            ValueError: the architecture cannot.
        """
        self.model.activation_checkpointing_enable()

    def lend(self, work: Callable[[Any], T]) -> T:
        """Does something else with the model. Where its weights are sharded they are there for as long as it takes."""
        return work(self.model)

    def tie_weights(self) -> None:
        """Makes weights one again that are one in this architecture. Accelerate asks for it where it has moved them."""
        without_adapter(self.model).tie_weights()
