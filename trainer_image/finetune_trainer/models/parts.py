"""Parts of a model, whatever is wrapped around it."""

from typing import Any

from torch import nn


def without_adapter(model: Any) -> Any:
    """The model with its head, of one that has an adapter or none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_and_head(causal: Any) -> tuple[Any, Any]:
    """The part of a causal language model that makes hidden states, and the one that makes logits of them."""
    return causal.base_model, causal.get_output_embeddings()


def silence_dropout(model: Any) -> None:
    """Switches off the dropout that the architecture has of its own, and leaves that of an adapter.

    For objectives that compare the model with what it was: noise in one of the two would be taken for a difference.
    """
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for setting in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, setting, None), float):
                setattr(module, setting, 0.0)
