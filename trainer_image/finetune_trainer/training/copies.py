"""Further sets of the trained weights: their moving average, and the best ones so far. Each rank has those of its own
share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import like, overwrite, own


class Copies:
    """Beside the parameters that are trained."""

    def __init__(self, trained: Mapping[str, nn.Parameter], ema_decay: float | None) -> None:
        """``ema_decay``: of the average; None: there is none."""
        self._trained = trained
        self._decay = ema_decay
        self._average = {name: own(p).detach().clone() for name, p in trained.items()} if ema_decay else {}
        self._best: dict[str, Tensor] = {}
        """On the CPU."""

    @torch.no_grad()
    def average(self, step: int) -> None:
        """The weights after one more step, number ``step`` from 0, go into the average.

        Its decay is min(d, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage: a short training
        would otherwise hardly leave the weights that it began with.
        """
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            for name, parameter in self._trained.items():
                self._average[name].lerp_(own(parameter), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the weights are their average, if there is one."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._average.items():
            parameter = own(self._trained[name])
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

    def keep_best(self) -> None:
        """The weights as they are now are the best ones."""
        self._best = {name: own(p).detach().to("cpu", copy=True) for name, p in self._trained.items()}

    @torch.no_grad()
    def put_in_place(self) -> None:
        """Makes the weights those that are published: the best ones, the average, or what they are."""
        for name, content in (self._best or self._average).items():
            own(self._trained[name]).copy_(content)

    def sets(self) -> dict[str, Iterator[tuple[str, Tensor]]]:
        """By their names the tensors that there are; those of sharded weights as such, one at a time."""
        sets = {"average": self._average, "best": self._best}
        return {
            kind: ((name, like(self._trained[name], part)) for name, part in kept.items())
            for kind, kept in sets.items()
        }

    def put_back(self, sets: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> None:
        """From :meth:`sets`, which the first rank has. All ranks call it."""
        given = ranks.told([name for name, content in sets.items() if content])
        self._best = {}
        for name, parameter in self._trained.items():
            for kind in given:
                read = torch.empty_like(parameter)
                overwrite(read, sets[kind].get(name) if ranks.first else None, ranks)
                if kind == "average":
                    self._average[name] = own(read)
                else:
                    self._best[name] = own(read).to("cpu")
