"""A training between two steps: everything that the steps to come depend on, as tensors and JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.progress import StepDone
from finetune_trainer.scaling.ranks import ALONE, Ranks
from finetune_trainer.scaling.sharding import overwrite, whole
from finetune_trainer.training.copies import Copies
from finetune_trainer.training.divergence import LossWatch
from finetune_trainer.training.history import History
from finetune_trainer.training.judging import Standing
from finetune_trainer.training.memory import Fit


@dataclass
class TrainingState:
    """What a training knows of itself beside its weights, its optimizer and its random state."""

    fit: Fit
    """What goes through the model at a time; part of the state, because sums depend on their order."""
    step: int = 0
    """Optimizer steps taken; the position in the batch plan."""
    rate_factor: float = 1.0
    """Of the learning rate; halved whenever a training that diverged goes back."""
    rewinds: int = 0
    resumed_at: list[int] = field(default_factory=list)
    """The step that each further process went on from."""
    watch: LossWatch = field(default_factory=LossWatch)
    standing: Standing = field(default_factory=Standing)
    history: History = field(default_factory=History)

    def advance(self, done: StepDone) -> None:
        """One more step was taken."""
        self.step = done.step
        self.history.add(done)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "fit": asdict(self.fit),
            "step": self.step,
            "rateFactor": self.rate_factor,
            "rewinds": self.rewinds,
            "resumedAt": self.resumed_at,
            "losses": self.watch.losses,
            "standing": self.standing.to_dict(),
            "history": self.history.to_dict(),
        }

    @classmethod
    def of_dict(cls, content: dict[str, Any]) -> "TrainingState":
        """From ``to_dict``'s JSON."""
        return cls(
            fit=Fit(**content["fit"]),
            step=content["step"],
            rate_factor=content["rateFactor"],
            rewinds=content["rewinds"],
            resumed_at=list(content["resumedAt"]),
            watch=LossWatch(content["losses"]),
            standing=Standing.of_dict(content["standing"]),
            history=History.of_dict(content["history"]),
        )


@dataclass(frozen=True)
class Snapshot:
    """Everything that the steps to come depend on."""

    state: dict[str, Any]
    """TrainingState as JSON, and, as ``numbers``, what the optimizer keeps that is no tensor."""
    weights: dict[str, Tensor]
    """The trained parameters by name."""
    optimizer: dict[str, Tensor]
    """``<parameter>/<exp_avg, exp_avg_sq, step …>``, as the optimizer names them."""
    random: tuple[dict[str, Tensor], ...]
    """State of the random generators of each rank: ``cpu`` and, on a GPU, ``cuda``; uint8."""
    copies: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    """Further sets of the trained parameters, by the names that Copies gives them; those that there are."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model made of the examples before its first step, fp32: by the name of the set [examples, numbers]."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.state["step"])


def take(
    trained: Mapping[str, nn.Parameter],
    optimizer: Any,
    copies: Copies,
    state: TrainingState,
    device: torch.device,
    lent: bool = False,
    ranks: Ranks = ALONE,
) -> Snapshot:
    """Onto the CPU. All ranks call it; the tensors are the first one's alone.

    Args:
        lent: for whoever is done with it before the next step. What is on the CPU already is then not copied, which
            would take as much memory again as weights and moments have.
    """

    def on_cpu(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        gathered = ((name, whole(tensor.detach())) for name, tensor in tensors)
        return _apart({name: tensor.to("cpu", copy=not lent) for name, tensor in gathered if ranks.first})

    kept = {
        f"{name}/{key}": value
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    moments = ((path, value) for path, value in kept.items() if isinstance(value, Tensor))
    numbers = {path: value for path, value in kept.items() if isinstance(value, int | float)}
    further = {kind: on_cpu(tensors) for kind, tensors in copies.sets().items()}
    return Snapshot(
        state.to_dict() | {"numbers": numbers},
        on_cpu(trained.items()),
        on_cpu(moments),
        tuple(ranks.gather(random_state(device))),
        {kind: tensors for kind, tensors in further.items() if tensors},
    )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With memory of its own for each: some optimizers have one table for all parameters."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def put_back(
    snapshot: Snapshot,
    trained: Mapping[str, nn.Parameter],
    optimizer: Any,
    copies: Copies,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Writes a snapshot's weights, moments, copies and random state where they were taken from; returns its state. All
    ranks call it; the tensors are taken from the first one's."""
    for name, parameter in trained.items():
        overwrite(parameter, snapshot.weights.get(name), ranks)
    optimizer.state.clear()
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for path, shape, dtype in ranks.told([(path, of.shape, of.dtype) for path, of in snapshot.optimizer.items()]):
        name, _, key = path.rpartition("/")
        parameter = trained[name]
        device_of = parameter.device if fused or shape else "cpu"  # a step's number is counted where it is used
        like = parameter if shape == parameter.shape else torch.empty(shape, device=device_of)
        optimizer.state.setdefault(parameter, {})[key] = moment = torch.empty_like(like, dtype=dtype)
        overwrite(moment, snapshot.optimizer.get(path), ranks)
    for path, number in snapshot.state["numbers"].items():
        name, _, key = path.rpartition("/")
        optimizer.state.setdefault(trained[name], {})[key] = number
    copies.put_back(snapshot.copies, ranks)
    set_random_state(snapshot.random[ranks.rank], device)
    return TrainingState.of_dict(snapshot.state)


def share(snapshot: Snapshot | None, ranks: Ranks) -> Snapshot | None:
    """The first rank's snapshot on all of them: what :func:`put_back` wants there, which is not its tensors."""
    outline = ranks.told(replace(snapshot, weights={}, optimizer={}, copies={}) if snapshot else None)
    return snapshot if ranks.first else outline


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that dropout and new weights draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """As they were."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
