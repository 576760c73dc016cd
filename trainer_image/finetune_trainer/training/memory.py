"""How many tokens go through the model at a time, and whether activations are kept or computed again.

By arithmetic, from a short forward pass: the bytes that it leaves for the backward pass are counted, whatever the
architecture, adapter and precision are. On a GPU the answer is then tried.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.spec import Training
from finetune_trainer.errors import is_out_of_memory
from finetune_trainer.scaling.sharding import gathered_bytes, is_share, own_size
from finetune_trainer.training.optimizers import state_bytes

logger = logging.getLogger(__name__)

_CPU_TOKENS = 512
"""Enough to keep matrix products busy; more is hardly faster and takes more memory (docs/performance.md)."""
_GPU_TOKENS = 16_384
_ANSWER_TOKENS = 4_096
"""Enough for answers: a step of them computes one token each."""
_SHARE = 0.7
"""Of the free memory; the rest is for what comes and goes in between, and for fragments."""
_MEMORY_LIMIT, _MEMORY_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_MACHINE = Path("/proc/meminfo")


@dataclass(frozen=True)
class Fit:
    """What goes through the model at a time."""

    tokens: int
    """Of a forward pass."""
    recompute: bool
    """Activation checkpointing: a layer's activations are computed again in the backward pass."""
    divisor: int = 1
    """By how much ``tokens`` were made fewer, because memory ran out in an attempt before."""

    def divided(self, divisor: int, longest: int, setting: str) -> "Fit":
        """The same for another divisor.

        Args:
            divisor: the run file's ``micro_batch_divisor``.
            longest: tokens of the longest record, which cannot be cut; where that alone is too much, activations are
                computed again.
            setting: ``training.activationCheckpointing``.
        """
        if divisor == self.divisor:
            return self
        tokens = self.tokens * self.divisor // divisor
        recompute = self.recompute or (setting == "auto" and tokens < longest)
        return Fit(max(longest, tokens), recompute, divisor)


def choose_fit(kept: int, recomputed: int, free: int, longest: int, most: int, setting: str) -> Fit:
    """The decision.

    Args:
        kept: bytes a token leaves for the backward pass.
        recomputed: the same with activation checkpointing.
        free: bytes of memory.
        longest: tokens of the longest record, which cannot be cut.
        most: tokens that are enough.
        setting: ``training.activationCheckpointing``.
    """
    room = int(_SHARE * free)
    recompute = setting == "always" or (setting == "auto" and longest * kept > room)
    fitting = room // max(1, recomputed if recompute else kept)
    return Fit(max(longest, min(most, fitting)), recompute)


def training_bytes(settings: Training, on_cpu: bool) -> int:
    """Bytes that a trained parameter takes beside itself, once training has begun: its gradient, the optimizer's state,
    its average, and the best one so far, which is kept in the memory of the CPU."""
    return 4 + state_bytes(settings) + (4 if settings.ema_decay else 0) + (4 if settings.restore_best and on_cpu else 0)


def free_memory(device: torch.device, model: nn.Module, training_bytes: int, processes: int = 1) -> int:
    """Bytes that are left for activations on ``device``, once everything that is trained has all that it takes.

    Args:
        training_bytes: of :func:`training_bytes`.
        processes: that share this machine's memory where they compute on its CPU.
    """
    trained = sum(own_size(parameter) for parameter in model.parameters() if parameter.requires_grad)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_on_cpu() // processes
    return max(0, free - training_bytes * trained - gathered_bytes(model))


def _free_on_cpu(limit: Path = _MEMORY_LIMIT, used: Path = _MEMORY_USED, machine: Path = _MACHINE) -> int:
    """Bytes until the container's limit (cgroup v2), or until the machine's memory is full."""
    lines = (line.split() for line in machine.read_text().splitlines())
    free = next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free


def device_memory(processes: int) -> int:
    """Bytes that one process has: a GPU's, or its share of what is free on the machine that ``processes`` share."""
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else _free_on_cpu() // processes


def most_tokens(device: torch.device) -> int:
    """Tokens of a forward pass beyond which it is not faster."""
    return _GPU_TOKENS if device.type == "cuda" else _CPU_TOKENS


def answer_tokens(fitting: int, device: torch.device) -> int:
    """Tokens that prompts and answers may take at a time where ``fitting`` go through the model in training: as many
    where memory was what limited these, since those leave less behind."""
    return fitting if fitting < most_tokens(device) else max(fitting, _ANSWER_TOKENS)


def bytes_left_behind(forward: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass, not counting the model's own weights.

    All of it is free afterwards. A hook that hands back what it was given would keep it for ever: where that is what a
    function returned, it holds the function, which holds it.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if not is_share(parameter)}
    found: dict[int, torch.UntypedStorage] = {}  # held, so that no two lie at one place

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        gathered = isinstance(tensor._base if tensor._base is not None else tensor, nn.Parameter)
        if not gathered and storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in found.values())


def try_out(attempt: Callable[[int], None], tokens: int, least: int) -> int:
    """The largest of ``tokens``, a half, a quarter … but not below ``least``, with which ``attempt`` finds memory."""
    while tokens > least:
        try:
            attempt(tokens)
            return tokens
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.info("memory runs out with %d tokens a forward pass", tokens)
        torch.cuda.empty_cache()
        tokens = max(least, tokens // 2)
    return tokens
