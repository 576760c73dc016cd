"""Speed and memory of the training loop on a CPU, beside the peers, on chats of mixed lengths.

Speed is useful tokens, padding not counted, a CPU-second of the loop: from just before the first batch to the end of
the last step. Memory is the most that the process held at any time: libraries, model, evaluation of the base where
there is one (ours), training. Every contender that a goal speaks of runs REPETITIONS times, in turn with the others,
and a figure is the median; the rest run once.
"""

import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.row import Goal, Row, at_least, at_most
from benchmarks.trainer import heldout, ours
from benchmarks.trainer.process import measured
from benchmarks.trainer.workload import Setting, Workload, make
from finetune_api.spec import Training

REPETITIONS = 3
PEERS = (
    "TRL padded",
    "TRL packed",
    "TRL packed, checkpointed",
    "TRL padding-free",
    "Trainer padded",
    "Trainer grouped by length",
)
"""As :data:`benchmarks.trainer.peers.PEERS` names them, which is not imported here: it brings the peers in."""
OURS, CHECKPOINTED, BF16 = "ours", "ours, checkpointed", "ours, bf16"
_ONCE = ("TRL padded", "TRL packed, checkpointed", "TRL padding-free")
_SPEED = {"TRL packed": 2.2, "Trainer padded": 2.5, "Trainer grouped by length": 1.25}
_WRONG_MASK = 1e-3
"""A mask_error above this is more than rounding: chats of one row are not kept apart."""


@dataclass(frozen=True)
class Contender:
    """What one way to train came to: medians over its runs."""

    figures: Mapping[str, float]
    loss: float
    """Of the adapter, on the held-out chats."""

    @property
    def speed(self) -> float:
        """Useful tokens a CPU-second."""
        return self.figures["useful"] / self.figures["cpu"]

    @property
    def peak(self) -> float:
        """MiB."""
        return self.figures["peak"]

    @property
    def note(self) -> str:
        """What must be known about these figures."""
        error = self.figures.get("mask_error", 0.0)
        if error <= _WRONG_MASK:
            return ""
        return f"from a wrong mask: chats of one row see each other, which moves hidden states by up to {error:.2g}"


def rows() -> list[Row]:
    """The section."""
    settings: dict[str, dict[str, Any]] = {OURS: {}}
    if "activation_checkpointing" in Training.model_fields:
        settings[CHECKPOINTED] = {"activationCheckpointing": "always"}
    if has_bf16():
        settings[BF16] = {"precision": "bf16"}
    return rows_of(measure(Setting(), settings, PEERS, REPETITIONS))


def measure(
    setting: Setting, settings: Mapping[str, dict[str, Any]], peers: tuple[str, ...], repetitions: int
) -> dict[str, Contender]:
    """Runs ours once for each of ``settings`` (name → section ``training`` of the run file) and each of ``peers``."""
    with tempfile.TemporaryDirectory() as scratch, ours.s3() as server:
        workload = make(Path(scratch) / "workload", setting)
        ours.put(server, workload)
        runs: dict[str, Callable[[str, Path], dict[str, Any]]] = {
            name: lambda run, out, training=training: ours.train(server, workload, run, training, out)
            for name, training in settings.items()
        } | {name: partial(_peer, name, workload) for name in peers}
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        for number in range(repetitions):
            for name, run in runs.items():
                if number and name in _ONCE:
                    continue
                taken = run(_slug(number, name), Path(scratch) / _slug(number, name))
                figures[name].append(taken)
                print(f"    {number + 1}/{repetitions} {name}: {_short(taken)}", file=sys.stderr, flush=True)
        losses = heldout.losses(workload, {name: Path(scratch) / _slug(0, name) for name in runs})
    _require_equal_work(figures)
    return {name: Contender(_medians(taken), losses[name]) for name, taken in figures.items()}


def _peer(name: str, workload: Workload, _run: str, out: Path) -> dict[str, Any]:
    return measured("-m", "benchmarks.trainer.peers", name, str(workload.directory), str(out))


def _slug(number: int, name: str) -> str:
    return f"{number}-{re.sub('[^a-z0-9]+', '-', name.lower())}"


def _short(figures: Mapping[str, float]) -> str:
    return f"{figures['useful'] / figures['cpu']:.0f} tokens/CPU-s, {figures['peak']:.0f} MiB, {figures['wall']:.0f} s"


def _medians(taken: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(figures[name] for figures in taken) for name in taken[0]}


def _require_equal_work(figures: Mapping[str, list[dict[str, Any]]]) -> None:
    """A contender that trained on other tokens than the rest is not comparable."""
    useful = {name: {run["useful"] for run in runs} for name, runs in figures.items()}
    if len(set.union(*useful.values())) != 1:
        raise RuntimeError(f"the contenders did not train on the same number of tokens: {useful}")


def rows_of(contenders: Mapping[str, Contender]) -> list[Row]:
    """First what was measured, then what the goals are about."""
    mine = contenders[OURS]
    peers = {name: one for name, one in contenders.items() if name in PEERS}
    found = [row for name, one in contenders.items() for row in _figures(name, one)]
    found += [_faster(mine, name, one, at_least(_SPEED[name])) for name, one in peers.items() if name in _SPEED]
    if packed := peers.get("TRL packed"):
        found.append(_leaner(OURS, mine, packed, at_most(0.7)))
        if checkpointed := contenders.get(CHECKPOINTED):
            found.append(_leaner(CHECKPOINTED, checkpointed, packed, at_most(0.5)))
    if bf16 := contenders.get(BF16):
        found.append(Row("CPU speed, bf16 ÷ fp32, both ours", bf16.speed / mine.speed, "×", at_least(1.3)))
        found.append(_as_good(mine, BF16, bf16))
    if checkpointed := contenders.get(CHECKPOINTED):
        found.append(_as_good(mine, CHECKPOINTED, checkpointed))
    return found + [_as_good(mine, name, one) for name, one in peers.items()]


def _figures(name: str, one: Contender) -> list[Row]:
    grown = one.figures["peak_training"] - one.figures["resident_before"]
    return [
        Row(f"CPU speed, {name}", one.speed, "tokens/CPU-s", note=one.note),
        Row(f"CPU peak memory, {name}", one.peak, "MiB", note=f"{grown:,.0f} MiB of it came with the training loop"),
        Row(f"CPU eval loss, {name}", one.loss, "nats"),
    ]


def _faster(mine: Contender, name: str, peer: Contender, goal: Goal) -> Row:
    return Row(f"CPU speed, ours ÷ {name}", mine.speed / peer.speed, "×", goal, peer.note)


def _leaner(name: str, mine: Contender, peer: Contender, goal: Goal) -> Row:
    return Row(f"CPU peak memory, {name} ÷ TRL packed", mine.peak / peer.peak, "×", goal, peer.note)


def _as_good(mine: Contender, name: str, other: Contender) -> Row:
    distance = abs(mine.loss - other.loss)
    better = "ours" if mine.loss < other.loss else name
    note = other.note or f"{better} is the lower one"
    return Row(f"CPU eval loss, distance of {name} from ours", distance, "nats", at_most(0.01), note)


def has_bf16() -> bool:
    """Whether this CPU multiplies bf16 numbers."""
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags
