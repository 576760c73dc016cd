"""What objectives on answers are held against: TRL's trainers, and log likelihoods by nothing but transformers."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_trainer.models.attention import one_by_one
from tests import tiny


def moved(directory) -> Any:
    """The model of ``directory``, a little away from what it was."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def log_likelihood(model, prompt: str, answer: str) -> float:
    """By nothing but transformers and the tokenizer."""
    tokenizer = tiny.tokenizer()
    given = len(tokenizer(prompt).input_ids)
    ids = torch.tensor([[*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad(), one_by_one(model):
        logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(logits.gather(1, ids[0, 1:, None])[given - 1 :].sum())


@dataclass
class Trl:
    """TRL's trainer, asked for its loss alone."""

    kind: str
    config: str

    def loss(self, directory, model, pairs, reference=None, **settings) -> float:
        trl = pytest.importorskip("trl")
        datasets = pytest.importorskip("datasets")
        tokenizer = tiny.tokenizer()
        tokenizer.pad_token = "<|endoftext|>"
        arguments = getattr(trl, self.config)(
            output_dir=str(directory), use_cpu=True, report_to="none", max_length=64, bf16=False, **settings
        )
        trainer = getattr(trl, self.kind)(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(list(pairs)),
            processing_class=tokenizer,
            **({"ref_model": reference} if reference is not None else {}),
        )
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(len(pairs))])
        return trainer.compute_loss(trainer.model, batch).item()
