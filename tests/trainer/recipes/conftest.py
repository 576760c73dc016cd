"""The tiny model, as it is and as it might be after some steps."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainer.recipes.trls import moved


@pytest.fixture
def model(model_directory):
    """As it is, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()


@pytest.fixture
def other(model_directory):
    """A little away from that."""
    return moved(model_directory)
