"""The adapters there are, by ``spec.method.adapter``."""

from collections.abc import Callable

from finetune_api.spec import Method
from finetune_trainer.models.adapter import Adapter
from finetune_trainer.models.ia3 import Ia3Adapter
from finetune_trainer.models.lora import LoraAdapter, QloraAdapter
from finetune_trainer.models.prompts import PrefixAdapter, PromptAdapter

ADAPTERS: dict[str, Callable[[Method], Adapter]] = {
    "lora": LoraAdapter,
    "qlora": QloraAdapter,
    "ia3": Ia3Adapter,
    "prompt": PromptAdapter,
    "prefix": PrefixAdapter,
}
"""``none`` is none."""


def adapter_of(method: Method) -> Adapter | None:
    """The adapter that a method asks for; None in full tuning."""
    return ADAPTERS[method.adapter](method) if method.adapter != "none" else None
