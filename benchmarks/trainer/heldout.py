"""The one judge of all results: eval loss of a saved adapter on the held-out chats.

python -m benchmarks.trainer.heldout <workload> <adapter>…
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.trainer.process import measured, tell
from benchmarks.trainer.workload import Workload

BASE = "base"
"""The untouched model, among the names of :func:`losses`."""


def losses(workload: Workload, adapters: dict[str, Path]) -> dict[str, float]:
    """Eval loss by name, in nats a learned token, of every adapter and of the model without one."""
    told = measured("-m", __name__, str(workload.directory), *(str(path) for path in adapters.values()))
    return dict(zip([BASE, *adapters], told["losses"], strict=True))


@torch.no_grad()
def loss(model: Any, examples: list[dict[str, list[int]]]) -> float:
    """Mean over all learned tokens, in nats; one chat a forward pass, so that there is nothing to mask."""
    total, learned = 0.0, 0
    for example in examples:
        ids = torch.tensor([example["input_ids"]], device=model.device)
        labels = torch.tensor(example["labels"][1:], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]  # [T - 1, V]
        total += float(functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum"))
        learned += int((labels != -100).sum())
    return total / learned


def main(directory: Path, adapters: list[Path]) -> None:
    """Measures the base, then every adapter, each on a fresh copy of the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    workload = Workload.load(directory)
    examples = workload.encoded(workload.held_out)
    found = []
    for adapter in (None, *adapters):
        model: Any = AutoModelForCausalLM.from_pretrained(workload.model, dtype=workload.setting.dtype)
        tuned = model if adapter is None else PeftModel.from_pretrained(model, adapter)
        found.append(loss(tuned.to("cuda" if torch.cuda.is_available() else "cpu").eval(), examples))
    tell(losses=found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
