"""Finds out what goes through a model at a time: by a look at a short forward pass, and on a GPU by trying."""

from dataclasses import replace
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]

from finetune_api.spec import Training
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import gathered_bytes
from finetune_trainer.training.memory import (
    Fit,
    bytes_left_behind,
    choose_fit,
    free_memory,
    most_tokens,
    training_bytes,
    try_out,
)
from finetune_trainer.training.objective import Objective

_LOOK = 128
"""Tokens of the forward pass whose memory is counted."""


def find_fit(
    objective: Objective, packed: bool, accelerator: Accelerator, longest: int, settings: Training, ranks: Ranks
) -> Fit:
    """The fit for ``objective`` on this machine as it is now; on all ranks the one that suits each of them.

    Args:
        longest: tokens of the longest record.
    """
    model = objective.model
    device, config = accelerator.device, model.config.get_text_config()
    objective.train()

    def forward(tokens: int) -> Any:
        return objective(objective.collate([objective.stand_in(tokens)], packed, device)).loss

    def attempt(tokens: int) -> None:
        accelerator.backward(forward(tokens))
        model.zero_grad()

    short = min(longest, _LOOK)
    kept = bytes_left_behind(lambda: forward(short), model) // short
    inputs = config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    layer, free = (
        kept // config.num_hidden_layers,
        free_memory(device, model, training_bytes(settings, device.type != "cuda"), ranks.local_count),
    )
    fit = choose_fit(kept, inputs + layer, free, longest, most_tokens(device), settings.activation_checkpointing)
    if device.type == "cuda" and not gathered_bytes(model):  # a rank without memory would keep the others waiting
        fit = replace(fit, tokens=try_out(attempt, fit.tokens, longest))
    fits = ranks.gather(fit)
    return Fit(min(each.tokens for each in fits), any(each.recompute for each in fits))
