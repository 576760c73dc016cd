"""Dropout of the architecture itself, where it has any."""

from torch import nn

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError


def set_dropout(model: nn.Module, asked: float | None, usual: float | None, name: str) -> None:
    """Gives all dropout of ``model``, which has no adapter yet, one probability while it is trained: layers of their
    own, and what attention takes as a number (``attention_dropout`` and the like).

    Args:
        asked: ``training.dropout``.
        usual: the probability where nothing is asked for; None: what config.json says.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where one is asked for and the model has no dropout.
    """
    probability = usual if asked is None else asked
    if probability is not None and not _set(model, probability) and asked is not None:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.training.dropout is {asked:g}, but {name} has no dropout. Leave it out; an adapter's "
            "own is spec.method.lora.dropout.",
        )


def _set(model: nn.Module, probability: float) -> bool:
    """Whether there was any."""
    found = False
    for module in model.modules():
        own = ["p"] if isinstance(module, nn.Dropout) else [name for name in vars(module) if "dropout" in name]
        for attribute in own:
            if type(getattr(module, attribute)) in (int, float):
                setattr(module, attribute, probability)
                found = True
    return found
