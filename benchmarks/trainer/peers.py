"""What a user would otherwise pick: TRL's SFTTrainer and transformers' Trainer, each in its sensible configurations.

    python -m benchmarks.trainer.peers 'TRL packed' <workload> <directory for the adapter>

The same for all: fp32 on the CPU and bf16 on a GPU, LoRA of rank 16 and alpha 32 on all linear layers, loss on the
assistant's turns, one pass, fused AdamW without decay at a rate that falls in a line to zero, gradients clipped to 1,
and 16 records, or as many tokens, an optimizer step. No checkpoints, no reports, no evaluation.

Choices made for a peer:

* ``gradient_checkpointing`` is off, though TRL has it on by default: the model fits, and without it a step costs a
  fifth less. The memory of "TRL packed" is measured without it too; "TRL packed, checkpointed" has it.
* Padded batches hold 8 records, two of them a step.
* TRL's packed rows hold as many tokens as the longest chat, one row a forward pass. With several, TRL joins them to a
  single row, on which attention without FlashAttention builds a dense mask of the square of its length: five rows a
  pass were 1.7 times slower on two cores, and rows of twice the length 1.2 times at a third more memory. On a GPU all
  peers take FlashAttention 2 where it is installed.
* TRL says that ``padding_free`` is for FlashAttention only, which no CPU has, but accepts it: 8 records a forward pass.

Rows of several chats are right only if attention keeps these apart: what each contender's forward pass makes of its
batch of most chats is compared with what it makes of every chat alone (``mask_error``).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import is_flash_attn_2_available

from benchmarks.trainer.meter import Meter
from benchmarks.trainer.process import tell
from benchmarks.trainer.workload import Workload, tokens


def common(workload: Workload, out: Path) -> dict[str, Any]:
    setting = workload.setting
    return {
        "output_dir": str(out),
        "num_train_epochs": 1,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "seed": setting.seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": setting.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def model(workload: Workload) -> Any:
    set_seed(workload.setting.seed)
    attention = "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"
    return AutoModelForCausalLM.from_pretrained(
        workload.model, dtype=workload.setting.dtype, attn_implementation=attention
    )


def lora() -> LoraConfig:
    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")


def _trl(workload: Workload, out: Path, **choices: Any) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    choices = {"max_length": workload.setting.longest, "assistant_only_loss": True} | common(workload, out) | choices
    return SFTTrainer(
        model=model(workload),
        args=SFTConfig(**choices),
        train_dataset=Dataset.from_list(workload.chats(workload.train)),
        processing_class=workload.tokenizer,
        peft_config=lora(),
    )


def _transformers(workload: Workload, out: Path, **choices: Any) -> Trainer:
    from datasets import Dataset

    return Trainer(
        model=get_peft_model(model(workload), lora()),
        args=TrainingArguments(**common(workload, out) | choices),
        train_dataset=Dataset.from_list(workload.encoded(workload.train)),
        processing_class=workload.tokenizer,
        data_collator=DataCollatorForSeq2Seq(workload.tokenizer),
    )


def padded(workload: Workload) -> dict[str, int]:
    together = min(workload.setting.together, workload.setting.batch_size)
    return {
        "per_device_train_batch_size": together,
        "gradient_accumulation_steps": workload.setting.batch_size // together,
    }


def _packed(workload: Workload) -> dict[str, Any]:
    """Rows of ``longest`` tokens, as many a step as hold the tokens of ``batch_size`` records."""
    setting = workload.setting
    step = setting.batch_size * tokens(workload.encoded(workload.train)) / setting.chats
    return {
        "packing": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": max(1, round(step / setting.longest)),
    }


PEERS: dict[str, Callable[[Workload, Path], Trainer]] = {
    "TRL padded": lambda load, out: _trl(load, out, **padded(load)),
    "TRL packed": lambda load, out: _trl(load, out, **_packed(load)),
    "TRL packed, checkpointed": lambda load, out: _trl(load, out, **_packed(load) | {"gradient_checkpointing": True}),
    "TRL padding-free": lambda load, out: _trl(load, out, **padded(load), padding_free=True, max_length=None),
    "Trainer padded": lambda load, out: _transformers(load, out, **padded(load)),
    "Trainer grouped by length": lambda load, out: _transformers(
        load, out, **padded(load), train_sampling_strategy="group_by_length"
    ),
}
"""By the names of the rows."""


class Clock(TrainerCallback):
    """Starts the meter before the first batch is fetched, and stops it after the last step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._meter.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._meter.stop()


class Counted:
    """A trainer's ``training_step`` that counts what goes through it, and keeps the batch of most chats."""

    def __init__(self, trainer: Trainer) -> None:
        self._step, trainer.training_step = trainer.training_step, self
        self.fullest: dict[str, Any] = {}
        self.positions = self.useful = self.learned = 0

    def __call__(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        if not self.fullest or _count(inputs) > _count(self.fullest):
            self.fullest = {name: value for name, value in inputs.items() if name != "labels"}
        self.positions += inputs["input_ids"].numel()
        self.useful += (
            int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        )
        self.learned += int((inputs["labels"] != -100).sum())
        return self._step(model, inputs, *arguments, **named)


def train_counted(trainer: Trainer, count: Callable[[dict[str, Any]], tuple[int, int]]) -> dict[str, int]:
    """Trains, and returns the ``positions`` and the ``useful`` tokens of all batches, which ``count`` tells of one."""
    counted: list[tuple[int, int]] = []
    step = trainer.training_step

    def counting(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> torch.Tensor:
        counted.append(count(inputs))
        return step(model, inputs, *given, **named)

    trainer.training_step = counting
    trainer.train()
    positions, useful = map(sum, zip(*counted, strict=True))
    return {"positions": positions, "useful": useful}


@torch.no_grad()
def mask_error(model: Any, inputs: dict[str, Any]) -> float:
    """Largest difference between ``inputs`` as trained on and every chat in them run alone, in what goes into the head:
    numbers of about 1. Rounding is far below 1e-3 of that in fp32."""
    model.eval()
    body = model.get_base_model().base_model
    together = body(**inputs, use_cache=False).last_hidden_state
    worst = 0.0
    for row, ids in enumerate(inputs["input_ids"]):
        for start, end in _chats(inputs, row):
            alone = body(input_ids=ids[None, start:end], use_cache=False).last_hidden_state[0]
            worst = max(worst, float((together[row, start:end] - alone).abs().max()))
    return worst


def _count(inputs: dict[str, Any]) -> int:
    return sum(len(_chats(inputs, row)) for row in range(len(inputs["input_ids"])))


def _chats(inputs: dict[str, Any], row: int) -> list[tuple[int, int]]:
    if "position_ids" not in inputs:
        return [(0, int(inputs["attention_mask"][row].sum()))]
    starts = (inputs["position_ids"][row] == 0).nonzero().flatten().tolist()
    return list(zip(starts, [*starts[1:], inputs["input_ids"].shape[1]], strict=True))


def main(name: str, directory: Path, out: Path) -> None:
    """Trains as the peer ``name`` does, says what it took, and saves the adapter."""
    began = time.process_time()
    meter = Meter()
    trainer = PEERS[name](Workload.load(directory), out)
    trainer.add_callback(Clock(meter))
    counted = Counted(trainer)
    trainer.train()
    figures = meter.figures() | {"prepared": meter.started_cpu - began}
    trainer.save_model(str(out))
    tell(
        **figures,
        steps=trainer.state.global_step,
        positions=counted.positions,
        useful=counted.useful,
        learned=counted.learned,
        mask_error=mask_error(trainer.model, counted.fullest),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
