"""Trainings that are run by one process and by several, to be compared. Run as a program this is one of several."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accelerate.state import AcceleratorState

from finetune_api.run import RunConfig
from finetune_trainer.errors import Stopped, TrainerError
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles
from finetune_trainer.preparation.data import DataFile, Dataset, SourceFile
from finetune_trainer.preparation.labelled import LabelledText
from finetune_trainer.preparation.preferences import Feedback, Pair
from finetune_trainer.preparation.record import Record
from finetune_trainer.progress import Progress
from finetune_trainer.recipes import likelihood
from finetune_trainer.report import Reporter
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import whole
from finetune_trainer.training.layout import Layout
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.snapshot import Snapshot
from finetune_trainer.tuning import placement
from finetune_trainer.tuning.tuning import Tuning

RECORDS = [Record(f"line {n}", prompt="say " * (n % 7 + 1), completion=" one" * (9 - n % 5)) for n in range(21)]
PAIRS = [
    Pair(record.source, record, replace(record, completion=" two" * (3 + n % 6))) for n, record in enumerate(RECORDS)
]
FEEDBACK = [Feedback(record.source, record, n % 3 > 0) for n, record in enumerate(RECORDS)]
TEXTS = [LabelledText(f"line {n}", text="anna " * (n % 7 + 1) + f"{n % 3}", labels=(str(n % 3),)) for n in range(21)]
TRAINED = 16
"""Of the records. With five a step the last step of an epoch has one: fewer than there are ranks."""
FULL = {"adapter": "none"}
PREFERENCES = {"objective": "dpo"}
CLASSIFIED: dict[str, Any] = {"model": "BERT", "task": "text-classification", "packed": False}


class Records(list[Any]):
    """As if they were read from two files, which are two sets."""

    @property
    def parts(self) -> list[tuple[DataFile, list[Any]]]:
        middle = len(self) // 2
        sets = {"a": self[:middle], "b": self[middle:]}
        return [
            (DataFile(Path(), SourceFile(f"s3://team-a/{name}.jsonl", "", len(part)), "prompt-completion", name), part)
            for name, part in sets.items()
        ]


@dataclass(frozen=True)
class Scenario:
    """One way to train."""

    strategy: str
    method: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    packed: bool = True
    model: str = "Llama"
    rewinds: bool = False
    task: str = "text-generation"
    below: tuple[str, ...] = ()
    """Adapters that are merged into the model first: their directories among the models."""
    onward: tuple[str, ...] = ()
    """The adapter to go on with, or several that become one."""


SCENARIOS = {
    "LoRA, whole, packed": Scenario("ddp"),
    "LoRA, whole, padded, record by record": Scenario("ddp", training={"microBatchSize": 1}, packed=False),
    "LoRA, sharded, packed, record by record": Scenario("fsdp2", training={"microBatchSize": 1}),
    "LoRA, sharded, packed, activations twice": Scenario("fsdp2", training={"activationCheckpointing": "always"}),
    "all weights, whole, packed, two records at a time": Scenario("ddp", FULL, {"microBatchSize": 2}),
    "all weights, sharded, packed": Scenario("fsdp2", FULL),
    "all weights, sharded, padded, activations twice": Scenario(
        "fsdp2", FULL, {"activationCheckpointing": "always", "microBatchSize": 2}, packed=False
    ),
    "all weights, sharded, head tied": Scenario("fsdp2", FULL, model="tied"),
    "LoRA, sharded, head tied": Scenario("fsdp2", model="tied"),
    "preferences, LoRA, whole, packed, two pairs at a time": Scenario("ddp", PREFERENCES, {"microBatchSize": 2}),
    "feedback, all weights, whole, packed": Scenario("ddp", {"objective": "kto"} | FULL),
    "feedback, LoRA, sharded, packed, three at a time": Scenario("fsdp2", {"objective": "kto"}, {"microBatchSize": 3}),
    "preferences, all weights, sharded, padded": Scenario("fsdp2", PREFERENCES | FULL, packed=False),
    "LoRA, sharded, an architecture that cannot be packed": Scenario("fsdp2", model="soft caps"),
    "labels, LoRA, whole, record by record": Scenario("ddp", training={"microBatchSize": 1}, **CLASSIFIED),
    "labels, LoRA, sharded": Scenario("fsdp2", **CLASSIFIED),
    "labels, all weights, sharded": Scenario("fsdp2", FULL, **CLASSIFIED),
}
MEASURED = {
    "training": {"emaDecay": 0.5, "l1": 1e-4, "optimizer": "sgd", "labelSmoothing": 0.1, "restoreBest": {}},
    "evaluation": {"everySteps": 1},
}
SCENARIOS |= {
    "LoRA, whole, averaged, the best one": Scenario("ddp", **MEASURED),
    "all weights, sharded, averaged, the best one": Scenario("fsdp2", FULL, **MEASURED),
    "LoRA, whole, an encoder and a decoder": Scenario("ddp", model="T5", task="text2text-generation"),
    "all weights, sharded, an encoder and a decoder": Scenario("fsdp2", FULL, model="T5", task="text2text-generation"),
}
SCENARIOS |= {
    "an adapter gone on with, sharded": Scenario("fsdp2", onward=("adapter-a",)),
    "a new adapter on a merged one, sharded": Scenario("fsdp2", below=("adapter-a",)),
    "two adapters as one, whole": Scenario("ddp", onward=("adapter-a", "adapter-b")),
    "two adapters as one, sharded": Scenario("fsdp2", onward=("adapter-a", "adapter-b")),
}
DROPOUT = {"lora": {"dropout": 0.2}}
INTERRUPTED = {
    "LoRA with dropout, whole": Scenario("ddp", DROPOUT),
    "LoRA with dropout, sharded": Scenario("fsdp2", DROPOUT),
    "all weights, sharded": Scenario("fsdp2", FULL),
    "all weights, sharded, averaged and measured": Scenario("fsdp2", FULL, **MEASURED),
    "preferences, all weights, whole": Scenario("ddp", PREFERENCES | FULL),
}
"""Trained in one go, and once more from a snapshot after two steps."""


@dataclass
class Memory:
    """A saver that keeps one snapshot, or one every so many steps."""

    every: int = 1_000
    kept: list[Snapshot] = field(default_factory=list)

    def before_training(self, training: Loop) -> None:
        """Nothing."""

    def after_step(self, training: Loop) -> None:
        if training.state.step % self.every == 0:
            self.kept.append(training.snapshot())

    def before_the_end(self, training: Loop) -> None:
        self.kept.append(training.snapshot())

    def newest(self) -> Snapshot | None:
        return self.kept[-1] if self.kept else None


@dataclass
class Several:
    """Trains by a scenario as one of ``ranks``."""

    ranks: Ranks
    models: Path
    """By their names."""
    directory: Path
    """For what is saved."""

    def begin(self, name: str, scenario: Scenario, resumed: Snapshot | None = None) -> Tuning:
        """A tuning of four steps."""
        AcceleratorState._reset_state(reset_partial_state=True)
        if not self.ranks.alone:
            self.ranks.shared = self.directory / f"shared by {name}{' again' if resumed else ''}"
            self.ranks.shared.mkdir(parents=True, exist_ok=True)
        rate = 1e-3 if "adapter" in scenario.method else 1e-2
        config = RunConfig.model_validate(
            {
                "job": {"namespace": "team-a", "name": "tune", "uid": "1"},
                "attempt": 0,
                "task": scenario.task,
                "model": {"uri": "s3://team-a/model/"} | self._combination(scenario),
                "storage": {},
                "data": {"train": [{"uri": "s3://team-a/train.jsonl"}], "validationFraction": 0.2},
                "method": scenario.method,
                "training": {"maxSteps": 4, "learningRate": rate, "batchSize": 5, "maxLength": 64} | scenario.training,
                "evaluation": {"samples": 1, "maxNewTokens": 4} | scenario.evaluation,
                "onDivergence": "Rewind" if scenario.rewinds else "Fail",
                "outputPrefix": "s3://team-a/out/",
            }
        )
        with ExitStack() as patches:
            if not self.ranks.alone:
                patches.enter_context(patch.object(placement, "choose_strategy", lambda *_: scenario.strategy))
            if not scenario.packed:
                patches.enter_context(patch.object(likelihood, "try_layout", lambda *_: Layout(False, True)))
            records: list[Any] = {"dpo": PAIRS, "kto": FEEDBACK}.get(config.method.objective, RECORDS)
            described: dict[str, Any] = {}
            if scenario.task == "text-classification":
                records, described = TEXTS, {"labels": ("0", "1", "2"), "formats": {"text-label"}}
            data: Any = Dataset(Records(records[:TRAINED]), Records(records[TRAINED:]), (), **described)  # type: ignore[arg-type]
            files = ModelFiles(
                self.models / scenario.model,
                "the-base",
                stack=tuple(map(self._adapter, scenario.below)),
                adapters=tuple(map(self._adapter, scenario.onward)),
            )
            return Tuning(config, files, data, Progress(Reporter(None)), resumed, self.ranks)

    def _combination(self, scenario: Scenario) -> dict[str, Any]:
        if len(scenario.onward) < 2:
            return {}
        adapters = [{"uri": f"s3://team-a/{name}/", "digest": "", "job": name} for name in scenario.onward]
        return {"adapters": adapters, "combination": {"method": "linear"}}

    def _adapter(self, name: str) -> AdapterFiles:
        directory = self.models / name
        config = json.loads((directory / "adapter_config.json").read_bytes())
        return AdapterFiles(directory, f"s3://team-a/{name}/", "", name, 0.5, config)

    def finish(self, name: str, begun: Tuning, base: Any = None) -> dict[str, Any]:
        """Trains, measures and saves into a directory of that name."""
        norms = _record_norms(begun.loop)
        history = begun.train(Memory() if self.ranks.first else None, lambda: False)
        tuned = begun.measure_tuned()
        begun.save(self.directory / name if self.ranks.first else None)
        return {
            "losses": [step.loss for step in history.steps],
            "norms": norms,
            "base": dict(base.measured.metrics) if base else None,
            "tuned": dict(tuned.measured.metrics),
            "answers": [*(base.answers if base else ()), *tuned.answers],
        }

    def whole(self, name: str, scenario: Scenario) -> dict[str, Any]:
        """Measures, trains, measures again; "read" is where the weights were when they had been read."""
        read: list[str] = []
        load = placement.load_model

        def recorded(*args: Any) -> Any:
            model = load(*args)
            read.append(model.device.type)
            return model

        with patch.object(placement, "load_model", recorded):
            begun = self.begin(name, scenario)
        return self.finish(name, begun, begun.measure_base()) | {"read": read[0]}

    def interrupted(self, name: str, scenario: Scenario) -> dict[str, Any]:
        """In one go, and from a snapshot that was taken on the way; "step" is where it was."""
        first = self.begin(name, scenario)
        saver = Memory(every=2)
        with patch.object(sys.modules[__name__], "Memory", lambda: saver):
            told = self.finish(name, first)
        second = self.begin(name, scenario, saver.kept[0] if self.ranks.first else None)
        step = second.loop.state.step
        return {"step": step, "once": told, "again": self.finish(f"{name} again", second)}

    def stopped_by_the_last(self) -> dict[str, Any]:
        """Only the last rank is asked to stop, during its second step."""
        begun = self.begin("stopped", Scenario("ddp"))
        last = self.ranks.rank == self.ranks.count - 1
        saver = Memory()
        try:
            begun.train(saver if self.ranks.first else None, lambda: last and begun.loop.state.step == 2)
        except Stopped:
            return {"step": begun.loop.state.step, "saved": [snapshot.step for snapshot in saver.kept]}
        return {"step": None}

    def diverged_on_the_last(self, rewinds: bool) -> dict[str, Any]:
        """Only the last rank's loss is no number any more, from its second step on; once, where there is a way back."""
        begun = self.begin(f"diverged, {rewinds}", Scenario("ddp", rewinds=rewinds))
        if self.ranks.rank == self.ranks.count - 1:
            _spoil(begun.loop, from_step=2, once=rewinds)
        try:
            history = begun.train(Memory(every=1) if self.ranks.first else None, lambda: False)
        except TrainerError as error:
            return {"code": error.code.name, "message": error.message}
        return {"steps": [step.step for step in history.steps], "rewinds": begun.loop.state.rewinds}


def _record_norms(loop: Loop) -> list[float]:
    norms: list[float] = []
    clip = loop.accelerator.clip_grad_norm_

    def recorded(*args: Any) -> Any:
        norm = clip(*args)
        norms.append(float(whole(norm)))
        return norm

    loop.accelerator.clip_grad_norm_ = recorded
    return norms


def _spoil(loop: Loop, from_step: int, once: bool) -> None:
    def spoil(_module: Any, _args: Any, out: Any) -> Any:
        if loop.state.step < from_step - 1:
            return out
        if once:
            hook.remove()
        return out * float("nan")

    hook = loop.bare.model.get_input_embeddings().register_forward_hook(spoil)


def main() -> None:
    """One of several: runs everything, and writes down what each rank has to tell."""
    ranks = Ranks.of_environment()
    several = Several(ranks, *map(Path, sys.argv[1:]))
    told: dict[str, Callable[[], dict[str, Any]]] = {
        **{name: lambda name=name: several.whole(name, SCENARIOS[name]) for name in SCENARIOS},
        **{name: lambda name=name: several.interrupted(name, INTERRUPTED[name]) for name in INTERRUPTED},
        "stopped": several.stopped_by_the_last,
        "diverged": lambda: several.diverged_on_the_last(rewinds=False),
        "rewound": lambda: several.diverged_on_the_last(rewinds=True),
    }
    gathered = {name: ranks.gather(run()) for name, run in told.items()}
    if ranks.first:
        (several.directory / "told.json").write_text(json.dumps(gathered))
    ranks.leave()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # as the trainer does
