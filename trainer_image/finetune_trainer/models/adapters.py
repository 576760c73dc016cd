"""The adapters there are, by ``spec.method.adapter``."""

from collections.abc import Callable

from finetune_api.run import RunConfig
from finetune_api.spec import Method
from finetune_trainer.models.adapter import Adapter
from finetune_trainer.models.chain import PublishedAdapter
from finetune_trainer.models.ia3 import Ia3Adapter
from finetune_trainer.models.lora import LoraAdapter, QloraAdapter
from finetune_trainer.models.modelfiles import ModelFiles
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
    """A new adapter as a method asks for; None in full tuning."""
    return ADAPTERS[method.adapter](method) if method.adapter != "none" else None


def first_adapter(config: RunConfig, files: ModelFiles) -> Adapter | None:
    """The adapter that a run goes on with, or begins; None in full tuning."""
    new = adapter_of(_with_tokens(config.method, files))
    return PublishedAdapter(new, files.adapters, config.model.combination) if new and files.adapters else new


def _with_tokens(method: Method, files: ModelFiles) -> Method:
    """With as many virtual tokens as the adapter has that is gone on with."""
    if method.adapter not in ("prompt", "prefix") or not files.adapters:
        return method
    section = {"virtualTokens": files.adapters[0].config.get("num_virtual_tokens")}
    return Method.model_validate({"adapter": method.adapter, method.adapter: section})
