"""Modules of a model by the names that users give them, and what is said where there are none."""

from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError


def linear_modules(model: nn.Module) -> list[str]:
    """The last names of the linear layers, such as ``q_proj``."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return sorted({name.rpartition(".")[2] for name in linear})


def named(model: nn.Module, ending: str) -> Iterator[nn.Module]:
    """The modules whose name is ``ending`` or ends with it after a dot, which is how PEFT reads target modules."""
    return (module for name, module in model.named_modules() if f".{name}".endswith(f".{ending}"))


def require_modules(model: nn.Module, names: tuple[str, ...], field: str) -> None:
    """Refuses names that no module has.

    Args:
        field: of the spec, that holds them.

    Raises:
        TrainerError: CONFIGURATION_INVALID.
    """
    unknown = [name for name in names if not any(named(model, name))]
    if unknown:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{field} names {', '.join(unknown)}, which the model does not have. It has: "
            f"{', '.join(linear_modules(model))}.",
        )
