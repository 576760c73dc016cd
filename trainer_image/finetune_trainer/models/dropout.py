"""Dropout of the architecture itself, where it has any."""

from torch import nn

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError


def set_dropout(model: nn.Module, probability: float, name: str) -> None:
    """Gives all dropout of ``model``, which has no adapter yet, this probability while it is trained: layers of their
    own, and what attention takes as a number (``attention_dropout`` and the like).

    Raises:
        TrainerError: CONFIGURATION_INVALID, where it has none.
    """
    found = False
    for module in model.modules():
        own = ["p"] if isinstance(module, nn.Dropout) else [name for name in vars(module) if "dropout" in name]
        for attribute in own:
            if type(getattr(module, attribute)) in (int, float):
                setattr(module, attribute, probability)
                found = True
    if not found:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.training.dropout is {probability:g}, but {name} has no dropout. Leave it out; an adapter's "
            "own is spec.method.lora.dropout.",
        )
