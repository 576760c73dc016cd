"""Tuning by preferences and by feedback on a CPU, beside TRL's DPOTrainer and KTOTrainer.

    python -m benchmarks.trainer.preference DPO <workload> <scratch>      one of TRL's

Records are pairs of answers made of the chats of :mod:`benchmarks.trainer.workload`: the last answer of a chat, and
that of another one; for KTO each of the two with its verdict. The same for all: model, adapter, batch, rate, losses,
one pass. Counted are the CPU-seconds of the training and of all that the reference takes: TRL's passes with the adapter
switched off, which it makes in every step, and ours before the first one.

Choices made for TRL: its own collators and losses with a padded batch of 8 records, two of them a step; no gradient
checkpointing, since the model fits. ``padding_free`` needs FlashAttention, which no CPU has.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.row import Row, at_least, at_most
from benchmarks.trainer import ours
from benchmarks.trainer.process import measured, tell
from benchmarks.trainer.workload import Chat, Setting, Workload, make
from tests import tiny

BETA = 0.1
SETTING = Setting(chats=32, held_out=2, learning_rate=1e-4)
OBJECTIVES = {"DPO": "dpo", "KTO": "kto"}


def rows() -> list[Row]:
    """The section."""
    return measure(SETTING)


def measure(setting: Setting) -> list[Row]:
    """Each objective by ours and by TRL."""
    found = []
    with tempfile.TemporaryDirectory() as scratch, ours.s3() as server:
        base = make(Path(scratch) / "base", setting)
        for name, objective in OBJECTIVES.items():
            workload = _workload(base, Path(scratch) / objective, objective)
            ours.put(server, workload)
            mine = ours.train(
                *(server, workload, objective, {}, Path(scratch) / f"{objective}-ours"),
                method={"objective": objective, objective: {"beta": BETA}},
            )
            theirs = measured(
                *("-m", "benchmarks.trainer.preference", name),
                *(str(workload.directory), str(Path(scratch) / f"{objective}-trl")),
            )
            found += _rows(name, len(workload.chats(workload.train)), mine, theirs)
    return found


def _rows(name: str, records: int, mine: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    speed, their_speed = records / mine["cpu"], records / theirs["cpu"]
    distance = abs(mine["loss"] - theirs["loss"])
    return [
        Row(f"{name} speed, ours", speed, "records/CPU-s"),
        Row(f"{name} speed, TRL", their_speed, "records/CPU-s"),
        Row(f"{name} speed, ours ÷ TRL", speed / their_speed, "×", at_least(1.5)),
        Row(f"{name} peak memory, ours ÷ TRL", mine["peak"] / theirs["peak"], "×"),
        Row(
            f"{name} mean training loss, distance of TRL from ours",
            distance,
            "",
            at_most(0.02),
        ),
    ]


def _workload(base: Workload, directory: Path, objective: str) -> Workload:
    """The chats of ``base`` as records of an objective."""
    directory.mkdir()
    records = len(base.chats(base.train)) * (2 if objective == "kto" else 1)
    made = replace(base, directory=directory, setting=replace(base.setting, chats=records))
    made.save_setting()
    made.model.symlink_to(base.model.resolve(), target_is_directory=True)
    for source, target in ((base.train, made.train), (base.held_out, made.held_out)):
        pairs = _pairs(base.chats(source))
        target.write_bytes(tiny.json_lines(*(pairs if objective == "dpo" else _feedback(pairs))))
    return made


def _pairs(chats: list[Chat]) -> list[dict[str, Any]]:
    last = [chat["messages"][-1] for chat in chats]
    return [
        {"prompt": chat["messages"][:-1], "chosen": [answer], "rejected": [other]}
        for chat, answer, other in zip(chats, last, [*last[1:], last[0]], strict=True)
    ]


def _feedback(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each answer of each pair with its verdict."""
    return [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for pair in pairs
        for name in ("chosen", "rejected")
    ]


def main(name: str, directory: Path, out: Path) -> None:
    """Trains as TRL does, and says what it took."""
    import trl
    from datasets import Dataset

    from benchmarks.trainer.meter import Meter
    from benchmarks.trainer.peers import Clock, common, lora, model, padded

    workload = Workload.load(directory)
    settings = {"max_length": workload.setting.longest, "beta": BETA} | common(workload, out) | padded(workload)
    meter = Meter()
    trainer = getattr(trl, f"{name}Trainer")(
        model=model(workload),
        args=getattr(trl, f"{name}Config")(**settings),
        train_dataset=Dataset.from_list(workload.chats(workload.train)),
        processing_class=workload.tokenizer,
        peft_config=lora(),
    )
    trainer.add_callback(Clock(meter))
    loss = trainer.train().training_loss
    tell(**meter.figures(), steps=trainer.state.global_step, loss=loss)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
