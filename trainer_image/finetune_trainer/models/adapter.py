"""Adapters: what is trained beside a model whose own weights stay as they are. By PEFT."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.targets import linear_modules

_NOT_NEEDED = ("bitsandbytes",)
"""PEFT imports these wherever they are installed, at the cost of a second, and only a base in 4 bits needs them."""
NAME = "default"
"""Of the adapter, in PEFT."""


class Adapter:
    """What is trained beside a frozen model."""

    what: str
    """It, in a sentence: "A LoRA adapter"."""
    kind: ClassVar[str]
    """Its tag on a model card."""
    mend: ClassVar[str]
    """Fields of the spec to correct where it cannot be put on a model."""
    rate: ClassVar[float] = 1.0
    """Highest learning rate where the user gives none, in a recipe's rate for adapters."""
    virtual_tokens: int = 0
    """Before each record, which take positions and memory. With any, records cannot be packed."""
    quantized: bool = False
    """Whether the base beside it is held in 4 bits."""
    shards: bool = True
    """Whether base and adapter may be shared out among processes, each of which has a part of every weight."""
    recomputes: bool = True
    """Whether layers beside it may be computed twice: transformers then leaves out what is handed to them (5.23)."""
    rank: int | None = None
    """Of its matrices as they are published, where it has a rank."""

    def settings(self) -> dict[str, object]:
        """Its settings by the names of ``spec.method``, for the report."""
        raise NotImplementedError

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        """PEFT's configuration of it, for ``model``.

        Raises:
            TrainerError: CONFIGURATION_INVALID, where it does not fit the model.
        """
        raise NotImplementedError

    def finish(self, adapted: Any) -> None:
        """What else there is to do once it is on a model."""

    @contextmanager
    def untouched(self, objective: Any) -> Iterator[None]:
        """Within, ``objective`` has the model that the result is compared with: most adapters begin as nothing."""
        if not self.virtual_tokens:
            yield
            return
        adapted, objective.model = objective.model, without_adapter(objective.model)
        try:
            yield
        finally:
            objective.model = adapted

    def published(self, config: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Its weights as they are published, of the ``state`` of the whole model; may change ``config`` for that."""
        return state


def put_on(model: PreTrainedModel, adapter: Adapter, head: Head, files: ModelFiles) -> PreTrainedModel:
    """The model with an adapter, whose weights alone are trained. They are fp32 whatever the base is.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where a target module matches nothing or cannot be adapted.
    """
    if not adapter.quantized:
        sys.modules.update({name: None for name in _NOT_NEEDED if name not in sys.modules})  # type: ignore[misc]
    from peft import get_peft_model

    config = adapter.config(model, head, files)
    if head.whole:
        config.modules_to_save = head.modules(model)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between these libraries, not for users
            adapted: Any = get_peft_model(model, config, adapter_name=NAME)
    except ValueError as error:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"The adapter cannot be put on {files.name}: {one_line(error, 300)}. Adaptable modules: "
            f"{', '.join(linear_modules(model))}. {adapter.mend}",
        ) from error
    adapter.finish(adapted)
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


def save_adapter(adapted: Any, adapter: Adapter, directory: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes an adapter in PEFT's format, for the untouched base.

    Args:
        state: the weights, where they are not those of ``adapted``.
    """
    weights = adapter.published(adapted.peft_config[NAME], adapted.state_dict() if state is None else state)
    adapted.save_pretrained(
        directory, save_embedding_layers=False, state_dict=weights, selected_adapters=[NAME]
    )  # else it asks the hub about embeddings
