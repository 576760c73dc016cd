"""Parts of a model, whatever is wrapped around it."""

from typing import Any


def without_adapter(model: Any) -> Any:
    """The model with its head, of one that has an adapter or none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_and_head(causal: Any) -> tuple[Any, Any]:
    """The part of a causal language model that makes hidden states, and the one that makes logits of them."""
    return causal.base_model, causal.get_output_embeddings()
