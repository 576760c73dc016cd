"""Finds out what goes through a model at a time: by a look at a short forward pass, and on a GPU by trying."""

from array import array
from dataclasses import replace
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]

from finetune_trainer.encoding import Example
from finetune_trainer.memory import Fit, bytes_left_behind, choose_fit, free_memory, most_tokens, try_out
from finetune_trainer.objective import collate

_LOOK = 256
"""Tokens of the forward pass whose memory is counted."""


def find_fit(objective: Any, model: Any, packed: bool, accelerator: Accelerator, longest: int, setting: str) -> Fit:
    """The fit for ``objective``, which wraps ``model``, on this machine as it is now.

    Args:
        longest: tokens of the longest record.
        setting: ``training.activationCheckpointing``.
    """
    device, config = accelerator.device, model.config.get_text_config()
    objective.train()

    def forward(tokens: int) -> Any:
        half = bytes(tokens - tokens // 2) + b"\1" * (tokens // 2)  # half of them are learned
        example = Example(array("i", bytes(4 * tokens)), half)
        return objective(collate([example], packed, device)).loss

    short = min(longest, _LOOK)
    kept = bytes_left_behind(lambda: forward(short), model) // short
    inputs = config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    layer = kept // config.num_hidden_layers
    fit = choose_fit(kept, inputs + layer, free_memory(device, model), longest, most_tokens(device), setting)
    if device.type != "cuda":
        return fit

    def attempt(tokens: int) -> None:
        accelerator.backward(forward(tokens))
        model.zero_grad()

    return replace(fit, tokens=try_out(attempt, fit.tokens, longest))
