"""The optimizers of a training, by the names of ``training.optimizer``."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from finetune_api.spec import Training

Groups = list[dict[str, Any]]
"""Parameters and, as ``weight_decay``, how strongly they decay."""


@dataclass(frozen=True)
class _Kind:
    make: Callable[[Groups, float], Optimizer]
    """From the parameters and the momentum."""
    state_bytes: Callable[[float], int]
    """That its state takes for each parameter, by the momentum."""
    momentum: float = 0.0
    """Where the user gives none."""
    on_shares: bool = True
    """Whether it can work on a share of a weight; what looks at rows or blocks of a weight cannot."""


def make_optimizer(trained: Iterable[nn.Parameter], settings: Training) -> Optimizer:
    """The optimizer that ``settings`` asks for. Its learning rate is set before each step.

    Decay is decoupled (Loshchilov and Hutter 2019) in all of them, and touches matrices only: norms and biases have no
    scale to keep small.
    """
    trained, decay = list(trained), settings.weight_decay
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return _kind(settings).make([group for group in groups if group["params"]], _momentum(settings))


def state_bytes(settings: Training) -> int:
    """Bytes that the optimizer keeps for each trained parameter."""
    return _kind(settings).state_bytes(_momentum(settings))


def works_on_shares(settings: Training) -> bool:
    """Whether the optimizer can be used where each rank has a share of the weights only (FSDP2)."""
    return _kind(settings).on_shares


def _kind(settings: Training) -> _Kind:
    return _KINDS[settings.optimizer]


def _momentum(settings: Training) -> float:
    return _kind(settings).momentum if settings.momentum is None else settings.momentum


def _adamw(groups: Groups, _: float) -> Optimizer:
    return torch.optim.AdamW(groups, fused=True)


def _sgd(groups: Groups, momentum: float) -> Optimizer:
    return _decoupled(lambda bare: torch.optim.SGD(bare, momentum=momentum), groups)


def _rmsprop(groups: Groups, momentum: float) -> Optimizer:
    return _decoupled(lambda bare: torch.optim.RMSprop(bare, momentum=momentum), groups)


def _adafactor(groups: Groups, _: float) -> Optimizer:
    """With the learning rate that it is given, not one of its own, and not scaled by the size of the weights: a LoRA
    begins with zeros, and would never grow."""
    from transformers.optimization import Adafactor

    made: Any = Adafactor
    return made(groups, lr=0.0, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]


def _adamw8bit(groups: Groups, _: float) -> Optimizer:
    """Moments in blocks of 8 bits (Dettmers et al. 2022); small parameters keep theirs in fp32."""
    if sys.modules.get("bitsandbytes", sys) is None:
        del sys.modules["bitsandbytes"]  # where PEFT was kept from importing it
    import bitsandbytes.optim

    made: Any = bitsandbytes.optim
    return made.AdamW8bit(groups)  # type: ignore[no-any-return]


def _decoupled(make: Callable[[Groups], Optimizer], groups: Groups) -> Optimizer:
    """An optimizer that would add its decay to the gradient, with one that shrinks the weights before each step."""
    optimizer = make([group | {"weight_decay": 0.0, "shrink": group["weight_decay"]} for group in groups])

    @torch.no_grad()
    def shrink(_optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["shrink"] else ():
                parameter.mul_(1 - group["lr"] * group["shrink"])

    optimizer.register_step_pre_hook(shrink)
    return optimizer


_KINDS = {
    "adamw": _Kind(_adamw, lambda _: 8),
    "sgd": _Kind(_sgd, lambda momentum: 4 if momentum else 0, momentum=0.9),
    "rmsprop": _Kind(_rmsprop, lambda momentum: 8 if momentum else 4),
    "adafactor": _Kind(_adafactor, lambda _: 1, on_shares=False),  # a row and a column of each matrix
    "adamw8bit": _Kind(_adamw8bit, lambda _: 3, on_shares=False),  # two bytes, and each block's scales
}
