"""A training in files: a snapshot and what was measured before it, as safetensors and JSON."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune_api.run import RunConfig, RunResult
from finetune_trainer.checkpoints.stored import Checkpoint
from finetune_trainer.evaluation.evaluate import Measured
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import Dataset
from finetune_trainer.progress import Progress
from finetune_trainer.publishing.versions import made_with
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.stopping import StopRequest
from finetune_trainer.training.snapshot import Snapshot
from finetune_trainer.tuning.measuring import Measurement
from finetune_trainer.tuning.tuning import Tuning

logger = logging.getLogger(__name__)

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_REFERENCES = "references.safetensors"
"""Only where there are some."""
_RANDOM, _COPY = "random-{rank}.safetensors", "copy-{kind}.safetensors"


@dataclass(frozen=True)
class SavedTraining:
    """All that another process needs to go on with a training."""

    snapshot: Snapshot
    base: Measurement | None
    """Of the untouched base, which then need not be measured once more."""
    made_with: Mapping[str, str] = field(default_factory=made_with)
    """For the record."""

    def write(self, directory: Path) -> None:
        """Into ``directory``, which appears only when it is whole. Raises OSError, safetensors' own errors."""
        part = self.unfinished(directory)
        part.mkdir(parents=True)
        snapshot = self.snapshot
        _save(snapshot.weights, part / _WEIGHTS)
        _save(snapshot.optimizer, part / _OPTIMIZER)
        for kind, copy in snapshot.copies.items():
            _save(copy, part / _COPY.format(kind=kind))
        if snapshot.references:
            _save(snapshot.references, part / _REFERENCES)
        for rank, states in enumerate(snapshot.random):
            _save(states, part / _RANDOM.format(rank=rank))
        base = {"metrics": dict(self.base.measured.metrics), "answers": self.base.answers} if self.base else None
        state = {"training": snapshot.state, "base": base, "madeWith": dict(self.made_with)}
        (part / _STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        part.rename(directory)

    @staticmethod
    def unfinished(directory: Path) -> Path:
        """Where files lie that are not all there yet."""
        return directory.with_suffix(".part")

    @classmethod
    def read(cls, directory: Path) -> Self:
        """From ``directory``. Tensors lie in the mapped files: they take no memory of their own."""
        state = json.loads((directory / _STATE).read_bytes())
        references = directory / _REFERENCES
        ranks = len(list(directory.glob(_RANDOM.format(rank="*"))))
        snapshot = Snapshot(
            state=state["training"],
            weights=load_file(directory / _WEIGHTS),
            optimizer=load_file(directory / _OPTIMIZER),
            random=tuple(load_file(directory / _RANDOM.format(rank=rank)) for rank in range(ranks)),
            copies={
                path.stem.removeprefix("copy-"): load_file(path) for path in directory.glob(_COPY.format(kind="*"))
            },
            references=load_file(references) if references.exists() else {},
        )
        return cls(snapshot, _measurement(state["base"]), state["madeWith"])

    def tell(self, source: str, steps: int) -> None:
        """Logs what is gone on with, and what here is other than where it was written."""
        logger.info("resumed at step %d of %d from %s", self.snapshot.step, steps, source)
        there, here = self.made_with, made_with()
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                logger.warning(
                    "%s is %s, and was %s before: the result is as good, but may differ in its last bits",
                    *(name, here.get(name), there.get(name)),
                )


def begin(
    config: RunConfig,
    files: ModelFiles,
    data: Dataset,
    progress: Progress,
    resumed: Checkpoint | None,
    ranks: Ranks = ALONE,
) -> tuple[Tuning, Measurement | None]:
    """A tuning at its beginning, or where a checkpoint left it; and what the untouched base was measured to be.

    Args:
        resumed: the checkpoint, which the first rank alone has.
    """
    saved = SavedTraining.read(resumed.directory) if resumed else None
    tuning = Tuning(config, files, data, progress, saved.snapshot if saved else None, ranks)
    if saved and resumed:
        saved.tell(resumed.uri, tuning.plan.total_steps)
    base = None if tuning.resumed else tuning.measure_base()
    return tuning, saved.base if saved else base


def follow(tuning: Tuning, stop: StopRequest, ranks: Ranks) -> RunResult:
    """The whole of a run for all ranks but the first, once it has begun: they hand over their share of what is saved
    and published, and stay until it is."""
    with stop.deferred():
        tuning.train(None, stop.asked)
    stop.obey()
    tuning.measure_tuned()
    stop.defer()
    tuning.save(None)
    ranks.leave()
    return RunResult(outcome="Succeeded")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _measurement(content: dict[str, Any] | None) -> Measurement | None:
    return Measurement(Measured(content["metrics"]), list(content["answers"])) if content else None
