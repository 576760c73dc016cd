"""``adapter: lora`` and ``qlora``: matrices of low rank beside linear layers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_api.spec import Lora, Method
from finetune_trainer.models.adapter import NAME, Adapter
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.targets import require_modules

INITIAL = "initial"
"""PEFT's name for what a decomposed weight was at the start, which is taken away from it."""


class LoraAdapter(Adapter):
    """``adapter: lora``.

    PiSSA and OLoRA train s·B·A of a weight W, and freeze the rest, W - s·B₀·A₀. Here W stays as it is, and -s·B₀·A₀ is
    a second, frozen adapter: the base is the untouched one at any time, its weights are not rounded once more, and both
    adapters together, [B, -B₀]·[A; A₀], are an ordinary one of twice the rank for the base that everybody has.
    """

    kind = "lora"
    mend = "Correct spec.method.lora.targetModules."

    def __init__(self, method: Method) -> None:
        self._lora = method.lora or Lora()
        self._decomposed = self._lora.initialization != "default"
        self.shards = not self._decomposed  # its weights would have to be whole to be taken apart
        self.rank: int | None = self._lora.rank * (2 if self._decomposed else 1)
        self.what = f"A {'DoRA' if self._lora.dora else 'LoRA'} adapter"

    def settings(self) -> dict[str, object]:
        return {f"lora.{name}": value for name, value in self._lora.to_dict().items()}

    def config(self, model: PreTrainedModel, head: Head, files: ModelFiles) -> Any:
        targets = self._lora.target_modules
        if targets:
            require_modules(model, targets, "spec.method.lora.targetModules")
        return self._config(head.peft_task, list(targets) if targets else "all-linear", self._lora.dropout)

    def _config(self, task: Any, targets: Any, dropout: float) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            task_type=task,
            r=self._lora.rank,
            lora_alpha=self._lora.alpha,
            lora_dropout=dropout,
            use_rslora=self._lora.rank_stabilized,
            use_dora=self._lora.dora,
            target_modules=targets,
        )

    def finish(self, adapted: Any) -> None:
        if not self._decomposed:
            return
        from peft import PeftModel

        names = [name for name, layer in without_adapter(adapted).named_modules() if _has_lora(layer)]
        initial = self._config(None, names, dropout=0.0)
        PeftModel.add_adapter(adapted, INITIAL, initial)  # its subclasses would add a task's head to it
        adapted.base_model.set_adapter([NAME, INITIAL])
        for layer in filter(_has_lora, adapted.modules()):
            self._decompose(layer)
        for name, parameter in adapted.named_parameters():
            if f".{INITIAL}." in name:
                parameter.requires_grad_(False)

    def _decompose(self, layer: Any) -> None:
        """Gives both adapters of ``layer`` what PEFT makes of its weight, and the weight back."""
        layer.scaling[INITIAL] = -layer.scaling[NAME]
        base = layer.get_base_layer()
        weight = base.weight.data
        if weight.device.type == "meta":
            return
        if self._lora.initialization == "pissa":
            layer.pissa_init(NAME, "pissa")
        else:  # which changes it in place, and does not know of those that lie the other way round
            base.weight.data = (weight.T if layer.fan_in_fan_out else weight).clone()
            layer.olora_init(NAME)
        base.weight.data = weight
        for part in (layer.lora_A, layer.lora_B):
            part[INITIAL].weight.data = part[NAME].weight.data.clone()

    def published(self, config: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self._decomposed:
            return state
        config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * (2**0.5 if config.use_rslora else 2)
        return {name: _joined(name, tensor, state) for name, tensor in state.items() if f".{INITIAL}." not in name}


def _joined(name: str, tensor: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """[A; A₀] of an A, [B, -B₀] of a B, and whatever else as it is."""
    match = re.fullmatch(rf"(.*\.lora_([AB]))\.{NAME}\.weight", name)
    if not match:
        return tensor
    first = state[f"{match[1]}.{INITIAL}.weight"]
    return torch.cat([tensor, first]) if match[2] == "A" else torch.cat([tensor, -first], dim=1)


def _has_lora(layer: nn.Module) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(layer, LoraLayer)


class QloraAdapter(LoraAdapter):
    """``adapter: qlora``."""

    quantized = True

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.shards = False  # what 4 bits mean does not travel with a share of them
        self.what = f"{self.what}, trained beside its base in 4 bits,"
