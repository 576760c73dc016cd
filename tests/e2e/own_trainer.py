"""A team's own training program: transformers' Trainer as its documentation shows it, which knows nothing of us."""

import os

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(index, index + 8)
        return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    arguments = TrainingArguments(
        output_dir=os.path.join(os.environ["TMPDIR"], "out"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=Numbers()).train()
