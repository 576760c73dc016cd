"""What stands on a model's body: the one thing that a task decides about a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers


@dataclass(frozen=True)
class Head:
    """How a model is loaded for a task."""

    auto: str
    """The class of transformers that finds the architecture: ``AutoModelForCausalLM``."""
    peft_task: str
    """The name of PEFT's ``TaskType``: ``CAUSAL_LM``. With it PEFT finds the head, and publishes it with an adapter."""
    what: str
    """The model, in a sentence for users: "a language model"."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What config.json must say, whatever it says: ``num_labels``, ``id2label`` …"""
    new: bool = False
    """Whether its weights may be missing in the model's files; they are then drawn by the seed."""

    @property
    def auto_class(self) -> Any:
        """The class itself."""
        return getattr(transformers, self.auto)


LANGUAGE_MODEL = Head("AutoModelForCausalLM", "CAUSAL_LM", "a language model")
