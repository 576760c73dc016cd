"""``method.freeze``: the parts of a model that full tuning leaves as they are."""

from collections.abc import Iterator

from torch import nn

from finetune_api.run import ExitCode
from finetune_api.spec import Freeze
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.targets import named, require_modules


def freeze(model: nn.Module, parts: Freeze) -> None:
    """Lets no gradient come to ``parts`` of ``model``.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where there are no such parts, or nothing else is left.
    """
    if parts.modules:
        require_modules(model, parts.modules, "spec.method.freeze.modules")
    for module in _modules(model, parts):
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            "spec.method.freeze leaves nothing of the model to train. Freeze less of it.",
        )


def _modules(model: nn.Module, parts: Freeze) -> Iterator[nn.Module]:
    stacks = list(_stacks(model))
    if parts.embeddings:
        inside = {part for stack in stacks for part in stack.modules()}
        yield from (part for part in model.modules() if isinstance(part, nn.Embedding) and part not in inside)
    for stack in stacks if parts.layers else ():
        if parts.layers and parts.layers > len(stack):
            raise TrainerError(
                ExitCode.CONFIGURATION_INVALID,
                f"spec.method.freeze.layers is {parts.layers}, but the model has {len(stack)} layers. Freeze at most "
                "those.",
            )
        yield from stack[: parts.layers]
    for name in parts.modules or ():
        yield from named(model, name)


def _stacks(model: nn.Module) -> Iterator[nn.ModuleList]:
    """The stacks of layers: lists of modules that are in no other list."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _stacks(child)
