"""Adapters: what is trained beside a model whose own weights stay as they are. By PEFT."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.run import ExitCode
from finetune_api.spec import Lora, Method
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles

_NOT_NEEDED = ("bitsandbytes",)
"""PEFT imports these wherever they are installed, at the cost of a second, and no task here uses them."""


class Adapter(Protocol):
    """What is trained beside a frozen model."""

    rank: int | None
    """Of its matrices, where it has a rank."""

    def settings(self) -> dict[str, object]:
        """Its settings by the names of ``spec.method``, for the report."""

    def config(self, model: PreTrainedModel, head: Head) -> Any:
        """PEFT's configuration of it, for ``model``.

        Raises:
            TrainerError: CONFIGURATION_INVALID, where it does not fit the model.
        """


class LoraAdapter:
    """``adapter: lora``."""

    def __init__(self, method: Method) -> None:
        self._lora = method.lora or Lora()
        self.rank: int | None = self._lora.rank

    def settings(self) -> dict[str, object]:
        return {f"lora.{name}": value for name, value in self._lora.to_dict().items()}

    def config(self, model: PreTrainedModel, head: Head) -> Any:
        from peft import LoraConfig

        targets = self._lora.target_modules
        if targets:
            _require_targets(model, targets)
        return LoraConfig(
            task_type=head.peft_task,
            r=self._lora.rank,
            lora_alpha=self._lora.alpha,
            lora_dropout=self._lora.dropout,
            target_modules=list(targets) if targets else "all-linear",
        )


ADAPTERS: dict[str, Callable[[Method], Adapter]] = {"lora": LoraAdapter}
"""By ``spec.method.adapter``; ``none`` is none."""


def adapter_of(method: Method) -> Adapter | None:
    """The adapter that a method asks for; None in full tuning."""
    return ADAPTERS[method.adapter](method) if method.adapter != "none" else None


def put_on(model: PreTrainedModel, adapter: Adapter, head: Head, files: ModelFiles) -> PreTrainedModel:
    """The model with an adapter, whose weights alone are trained. They are fp32 whatever the base is.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where a target module matches nothing or cannot be adapted.
    """
    sys.modules.update({name: None for name in _NOT_NEEDED if name not in sys.modules})  # type: ignore[misc]
    from peft import get_peft_model

    config = adapter.config(model, head)
    if head.whole:
        config.modules_to_save = head.modules(model)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between these libraries, not for users
            adapted: Any = get_peft_model(model, config)
    except ValueError as error:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"The adapter cannot be put on {files.name}: {one_line(error, 300)}. Adaptable modules: "
            f"{', '.join(linear_modules(model))}. Correct spec.method.lora.targetModules.",
        ) from error
    if head.whole:
        config.modules_to_save = sorted(set(config.modules_to_save))  # PEFT has added names of its own
        _hold_in_fp32(adapted)
    config.base_model_name_or_path, config.revision = files.name, files.revision
    return adapted  # type: ignore[no-any-return]


def _hold_in_fp32(adapted: nn.Module) -> None:
    """Has what stands on the body trained in fp32 and computed with in it, as the adapter is, whatever the body has."""
    from peft.utils import ModulesToSaveWrapper

    for wrapper in adapted.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for trained in wrapper.modules_to_save.values():
                if any(parameter.dtype != torch.float32 for parameter in trained.parameters()):
                    trained.float().register_forward_pre_hook(_as_fp32)


def _as_fp32(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in given)


def _require_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_modules()]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if unknown:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.method.lora.targetModules names {', '.join(unknown)}, which the model does not have. It has: "
            f"{', '.join(linear_modules(model))}.",
        )


def linear_modules(model: nn.Module) -> list[str]:
    """The last names of the linear layers, such as ``q_proj``."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return sorted({name.rpartition(".")[2] for name in linear})
