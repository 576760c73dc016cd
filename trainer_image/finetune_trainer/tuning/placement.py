"""What is trained, and where: the model with its adapter on its device, or the shares of all ranks on theirs."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.adapter import Adapter, put_on
from finetune_trainer.models.adapters import first_adapter
from finetune_trainer.models.chain import stacked
from finetune_trainer.models.dropout import set_dropout
from finetune_trainer.models.freezing import freeze
from finetune_trainer.models.head import Head
from finetune_trainer.models.linear import speed_up
from finetune_trainer.models.model import (
    Precision,
    choose_precision,
    count_weights,
    load_model,
    require_length,
    require_matching_vocabulary,
)
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.quantized import FOLDED_BYTES
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import (
    Strategy,
    accelerator,
    choose_strategy,
    loading_once,
    replicate,
    shard,
)
from finetune_trainer.training.layout import PADDED, Layout
from finetune_trainer.training.memory import device_memory, training_bytes
from finetune_trainer.training.noise import add_noise
from finetune_trainer.training.objective import Objective
from finetune_trainer.training.optimizers import works_on_shares
from finetune_trainer.tuning.materials import Materials


@dataclass(frozen=True)
class Subject:
    """A model's files and what becomes of them: all that is known before there is memory for the weights."""

    files: ModelFiles
    head: Head
    adapter: Adapter | None
    """None in full tuning."""
    precision: Precision

    @classmethod
    def of(cls, config: RunConfig, files: ModelFiles, head: Head) -> "Subject":
        """As a run asks for it."""
        return cls(files, head, first_adapter(config, files), choose_precision(config.training.precision))

    @property
    def virtual_tokens(self) -> int:
        """Before each record."""
        return self.adapter.virtual_tokens if self.adapter else 0

    @property
    def autocast(self) -> str:
        """Accelerate's mixed precision: for weights that are trained in fp32 and computed with in bf16. Beside an
        adapter the frozen weights are bf16 themselves."""
        return "bf16" if self.precision == "bf16" and self.adapter is None else "no"

    @property
    def rounded_to(self) -> torch.dtype | None:
        """The number format that weights trained in fp32 are published in, where it is another one."""
        return torch.bfloat16 if self.autocast == "bf16" else None


@dataclass(frozen=True)
class Placed:
    """The subject, ready to be trained."""

    subject: Subject
    sharded: bool
    """Each rank has a share of each weight."""
    accelerator: Accelerator
    objective: Objective
    prepared: Any
    """The objective as the loop calls it: with DDP around it where ranks train copies."""
    layout: Layout

    @property
    def model(self) -> Any:
        """With its adapter, if it has one."""
        return self.objective.model

    @property
    def device(self) -> torch.device:
        """This rank's."""
        return self.accelerator.device  # type: ignore[no-any-return]


def place(config: RunConfig, subject: Subject, materials: Materials, ranks: Ranks) -> Placed:
    """Loads the model, puts its adapter on, and brings it to where it is trained. All ranks begin with equal weights.

    Raises:
        TrainerError: the model does not fit its files, its data, its adapter or the machine.
    """
    strategy = strategy_for(config, subject, ranks)
    sharded = strategy == "fsdp2"
    set_seed(config.training.seed)
    accelerate = accelerator(strategy, subject.autocast)
    recipe, adapter = materials.recipe, subject.adapter
    with loading_once(ranks) if sharded else nullcontext() as device_map:
        model = _load(config, subject, materials, device_map)
    packs = adapter is None or not adapter.virtual_tokens
    layout = PADDED
    if packs and not sharded:
        layout = recipe.objective(model.to(accelerate.device)).choose_layout()
    model = with_trained(config, subject, model)
    if subject.autocast == "no":  # where weights are cast, that is autocast's to do
        speed_up(model)
    objective = recipe.objective(model)
    objective.smoothing = config.training.label_smoothing or 0.0
    if sharded:
        shard(objective, accelerate, subject.autocast)
        if packs:
            layout = objective.lend(lambda _: objective.choose_layout())
    objective.use(layout)
    if alpha := config.training.neftune_alpha:
        add_noise(objective, alpha)
    prepared = objective if sharded else replicate(objective, accelerate)
    if not ranks.first:
        set_seed(config.training.seed + ranks.rank)  # all began with equal weights; dropout is each one's own
    return Placed(subject, sharded, accelerate, objective, prepared, layout)


def strategy_for(config: RunConfig, subject: Subject, ranks: Ranks) -> Strategy:
    """How the model lies on the devices, by what it takes there.

    Raises:
        TrainerError: CONFIGURATION_INVALID, where it must be shared out and adapter or optimizer do not allow that.
    """
    if ranks.alone:
        return "ddp"
    adapter, settings = subject.adapter, config.training
    frozen, trained = count_weights(subject.files, subject.head, adapter, config.method.freeze)
    width = 2.0 if subject.precision == "bf16" and adapter else 4.0
    if adapter and adapter.quantized:
        width = FOLDED_BYTES
    memory = device_memory(ranks.local_count)
    each = training_bytes(settings, not torch.cuda.is_available())
    strategy = choose_strategy(int(width * frozen), trained, each, memory, ranks.count)
    if strategy == "fsdp2" and adapter and not adapter.shards:
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"{adapter.what.rstrip(',')} needs whole weights, but {subject.files.name} is so large that each GPU "
            "can only have a share of them. Choose GPUs with more memory, or spec.method.adapter lora without an "
            "initialization.",
        )
    if strategy == "fsdp2" and not works_on_shares(settings):
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.training.optimizer {settings.optimizer} needs whole weights, but {subject.files.name} is so large "
            "that each GPU can only have a share of them. Choose adamw, sgd or rmsprop, or an adapter.",
        )
    return strategy


def _load(config: RunConfig, subject: Subject, materials: Materials, device_map: dict[str, str] | None) -> Any:
    """The base with the adapters that are merged into it."""
    files, adapter = subject.files, subject.adapter
    quantized = bool(adapter and adapter.quantized)
    model = load_model(files, subject.head, adapter is not None, subject.precision, device_map, quantized)
    suit(config, subject, materials, model)
    return stacked(model, files, subject.head)


def suit(config: RunConfig, subject: Subject, materials: Materials, model: Any) -> None:
    """Holds a base against the data, and gives it its dropout.

    Raises:
        TrainerError: it cannot take the tokens or their number, or has no such dropout.
    """
    name = subject.files.name
    require_matching_vocabulary(model, materials.tokenizer, name)
    require_length(model, materials.longest_row, name, subject.virtual_tokens)
    set_dropout(model, config.training.dropout, materials.recipe.dropout, name)


def with_trained(config: RunConfig, subject: Subject, model: Any) -> Any:
    """The model with what is trained: its adapter, or in full tuning what is not frozen.

    Raises:
        TrainerError: it cannot have them.
    """
    if subject.adapter:
        return put_on(model, subject.adapter, subject.head, subject.files)
    if config.method.freeze:
        freeze(model, config.method.freeze)
    return model
