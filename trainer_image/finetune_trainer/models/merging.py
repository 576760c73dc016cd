"""A base with an adapter merged into it: a model like any other, that needs no PEFT."""

from pathlib import Path
from typing import Any

import torch

from finetune_trainer.models.chain import stacked
from finetune_trainer.models.head import Head
from finetune_trainer.models.model import load_as_stored
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.quantized import computed_in, is_folded, unfolded


def folded_layers(model: Any) -> dict[str, Any]:
    """The layers of a base in 4 bits, by the names that they have without an adapter."""
    modules = without_adapter(model).named_modules()
    return {name.removesuffix(".base_layer"): module for name, module in modules if is_folded(module)}


@torch.no_grad()
def merged(files: ModelFiles, head: Head, adapter: Path, trained: Any) -> Any:
    """The base in the number format of its files, with the published adapter in ``adapter`` merged into it.

    Args:
        trained: the model beside which it was trained. Of layers in 4 bits the weights they stand for are taken, not
            those of the files: what was learned is learned for them. And a decoder's head finds the end of a text by
            the padding token that it was trained with.
    """
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

    model = stacked(load_as_stored(files, head), files, head)
    padding = without_adapter(trained).config.get_text_config().pad_token_id
    model.config.get_text_config().pad_token_id = padding
    for name, layer in folded_layers(trained).items():
        target: Any = model.get_submodule(name)
        target.weight.data = unfolded(layer.weight, computed_in(layer)[1], target.weight.dtype).cpu()
    adapted = PeftModel.from_pretrained(model, adapter)
    for name, module in list(adapted.named_modules()):  # PEFT itself does not for IA³ (0.21)
        if isinstance(module, ModulesToSaveWrapper):
            adapted.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return adapted.merge_and_unload()
