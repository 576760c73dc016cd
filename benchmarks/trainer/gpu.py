"""Speed and memory on a GPU: LoRA on a Llama of 8 billion weights in bf16, chats of up to 4k and 16k tokens.

The model has the shape of Llama 3 8B and random weights: speed and memory do not depend on what it says. Needs a CUDA
GPU with room for it, PyTorch with CUDA, and some 40 GB of disk. QLoRA is not measured, because the trainer refuses it
as yet.

Model FLOPs utilisation (MFU) is what the tuning has to compute over what the GPU could. A multiplication with an
addition is two operations, so a weight costs 2 a token forward, 2 for the gradient of its input, and 2 for its own
gradient: 4 for a frozen weight, 6 for one of the adapter (PaLM, arXiv:2204.02311, appendix B, has 6 since there every
weight is trained). Attention costs 12 x layers x hidden for every pair of tokens (ibid.), half of it under a causal
mask. Counted is only what the result needs: no padding, no logits of tokens that are not learned, no attention from
one chat to another, nothing computed twice. So 45 % here would be called more by the formula with 6.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.row import NotHere, Row, at_least, at_most
from benchmarks.trainer import ours
from benchmarks.trainer.process import measured
from benchmarks.trainer.workload import Setting, Workload, make

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bf16 operations a second by part of the GPU's name, as NVIDIA's data sheets have them; the first that fits."""
_8B = Setting(
    chats=192, held_out=4, median_tokens=1_000, longest=4_096, hidden=4_096, intermediate=14_336, layers=32, heads=32,
    key_value_heads=8, embeddings=128_256, dtype="bfloat16", batch_size=16, together=2, learning_rate=2e-4,
)  # fmt: skip
SETTINGS = {
    "packed 4k": _8B,
    "packed 16k": replace(_8B, chats=48, median_tokens=6_000, longest=16_384, batch_size=4, together=1),
}
"""By what the rows call them. 8 GB of weights in bf16 make 16 GB, which all settings share."""
TRL = ("TRL packed", "TRL packed, checkpointed")
PADDED = "Trainer padded"
OURS = "ours"
_RANK = 16
_LONGEST = 2**20
"""Tokens at which the search for the longest context ends."""


def rows() -> list[Row]:
    """The section."""
    import torch

    if not torch.cuda.is_available():
        raise NotHere("these rows need a CUDA GPU and a PyTorch built for it; there is none on this machine")
    name = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as scratch:
        model: Path | None = None
        found = []
        for what, setting in SETTINGS.items():
            workload = make(Path(scratch) / what, setting, model)
            model = workload.model
            found += rows_of(f"GPU {what}", name, workload, measure(workload, (*TRL, PADDED)))
        return found + _longest_rows(name, Path(scratch), model)


def measure(workload: Workload, peers: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """What ours and ``peers`` came to, once each; None for one whose memory ran out."""
    out = workload.directory / "out"
    with ours.s3() as server:
        ours.put(server, workload, model=False)
        runs = {OURS: partial(ours.train, server, workload, OURS, {}, out / OURS, from_disk=True)} | {
            name: partial(_peer, name, workload, out / name) for name in peers
        }
        return {name: _if_it_fits(run) for name, run in runs.items()}


def _peer(name: str, workload: Workload, out: Path) -> dict[str, Any]:
    return measured("-m", "benchmarks.trainer.peers", name, str(workload.directory), str(out))


def _if_it_fits(run: Any) -> dict[str, Any] | None:
    try:
        figures: dict[str, Any] = run()
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        return None
    return figures


def rows_of(what: str, gpu: str, workload: Workload, taken: Mapping[str, dict[str, Any] | None]) -> list[Row]:
    """First what was measured, then what the goals are about. ``gpu``: the GPU's name."""
    fitting = {name: figures for name, figures in taken.items() if figures}
    found = [row for name, figures in fitting.items() for row in _figures(what, gpu, name, figures)]
    found += [Row(f"{what}, {name}", 0, "tokens/s", note=f"{gpu}: memory ran out") for name in taken if not taken[name]]
    if (mine := taken[OURS]) is None:
        return [*found, Row(f"{what}, MFU of ours", 0, "%", at_least(45), f"{gpu}: memory ran out")]
    if peak := next((peak for part, peak in PEAKS.items() if part in gpu), None):
        share = 100 * operations(workload) / mine["wall"] / peak
        found.append(Row(f"{what}, MFU of ours", share, "%", at_least(45), f"{gpu}, {peak / 1e12:.0f} TFLOP/s dense"))
    if best := max((fitting[name] for name in TRL if name in fitting), key=_speed, default=None):
        found.append(Row(f"{what}, ours ÷ best of TRL", _speed(mine) / _speed(best), "×", at_least(1.15)))
        memory = mine["gpu_peak"] / best["gpu_peak"]
        found.append(Row(f"{what}, peak memory, ours ÷ the same TRL", memory, "×", at_most(0.8)))
    if padded := fitting.get(PADDED):
        found.append(Row(f"{what}, ours ÷ {PADDED}", _speed(mine) / _speed(padded), "×", at_least(2.0)))
    return found


def _figures(what: str, gpu: str, name: str, figures: dict[str, Any]) -> list[Row]:
    return [
        Row(f"{what}, {name}", _speed(figures), "tokens/s", note=gpu),
        Row(f"{what}, peak memory, {name}", figures["gpu_peak"] / 1024, "GiB"),
    ]


def _speed(figures: dict[str, Any]) -> float:
    """Useful tokens a second of wall clock."""
    return float(figures["useful"] / figures["wall"])


def operations(workload: Workload) -> float:
    """What one pass over the training set has to compute, by the formula of this module's docstring."""
    setting, examples = workload.setting, workload.encoded(workload.train)
    lengths = [len(example["input_ids"]) for example in examples]
    learned = sum(label != -100 for example in examples for label in example["labels"])
    frozen, adapter = _layer_weights(setting)
    linear = setting.layers * (4 * frozen + 6 * adapter) * sum(lengths)
    head = 4 * setting.hidden * (setting.embeddings or setting.vocabulary) * learned
    attention = 12 / 2 * setting.layers * setting.hidden * sum(length**2 for length in lengths)
    return linear + head + attention


def _layer_weights(setting: Setting) -> tuple[int, int]:
    """(weights of one layer's matrices, weights of its adapters)"""
    hidden, between = setting.hidden, setting.intermediate
    narrow = hidden // setting.heads * setting.key_value_heads
    shapes = [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden)]
    shapes += [(hidden, between), (hidden, between), (between, hidden)]
    return sum(i * o for i, o in shapes), _RANK * sum(i + o for i, o in shapes)


def _longest_rows(gpu: str, scratch: Path, model: Path | None) -> list[Row]:
    """The longest chat that can be trained on, in doublings, ours beside TRL's leanest."""
    contenders = (OURS, TRL[-1])
    found = dict.fromkeys(contenders, 0)
    length = 16_384
    while length <= _LONGEST and any(found[name] == length // 2 or length == 16_384 for name in contenders):
        setting = replace(_8B, chats=2, held_out=1, median_tokens=4 * length, longest=length, batch_size=1)
        taken = measure(make(scratch / f"longest-{length}", setting, model), [TRL[-1]])
        found |= {name: length for name in contenders if taken[name]}
        length *= 2
    return [Row(f"GPU longest context, {name}", tokens, "tokens", note=gpu) for name, tokens in found.items()]
