"""What stands on a model's body: the one thing that a task decides about a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import nn


@dataclass(frozen=True)
class Head:
    """How a model is loaded for a task."""

    auto: str
    """The class of transformers that finds the architecture: ``AutoModelForCausalLM``."""
    peft_task: str | None
    """The name of PEFT's ``TaskType``: ``CAUSAL_LM``. None: PEFT hands inputs and outputs through as they are; its
    class for questions does not, it drops ``token_type_ids`` (0.21)."""
    what: str
    """The model, in a sentence for users: "a language model"."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What config.json must say, whatever it says: ``num_labels``, ``id2label`` …"""
    new: bool = False
    """Whether its weights may be missing in the model's files; they are then drawn by the seed."""
    whole: bool = False
    """Whether all of it is trained, and published with an adapter, beside which only the body is frozen."""

    def modules(self, model: Any) -> list[str]:
        """The names of what stands on the body of ``model``. A pooler is part of it, wherever an architecture keeps it:
        a body that was trained without one has none."""
        body = model.base_model_prefix
        parts = {name: child for name, child in model.named_children() if any(True for _ in child.parameters())}
        if body not in parts:  # T5's class for questions is one itself
            stacks = transformers.PreTrainedModel | nn.Embedding
            return [name for name, part in parts.items() if not isinstance(part, stacks)]
        pooler = [f"{body}.pooler" for name, _ in parts[body].named_children() if name == "pooler"]
        return [*(name for name in parts if name != body), *pooler]

    @property
    def auto_class(self) -> Any:
        """The class itself."""
        return getattr(transformers, self.auto)

    def classes(self, config: Any) -> tuple[Any, ...]:
        """The classes of this kind for a configuration; none: its architecture has none."""
        try:
            found = self.auto_class._model_mapping[type(config)]
        except KeyError:
            return ()
        return tuple(found) if isinstance(found, tuple | list) else (found,)


SEQUENCE_TO_SEQUENCE = Head("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", "a model with encoder and decoder")
LANGUAGE_MODEL = Head("AutoModelForCausalLM", "CAUSAL_LM", "a language model")
