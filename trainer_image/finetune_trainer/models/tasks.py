"""Whether a model can do a task, and what its head has learned already: told by config.json alone."""

from collections.abc import Sequence
from dataclasses import replace

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.adapterfiles import HEAD
from finetune_trainer.models.head import Head
from finetune_trainer.models.model import read_config
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles
from finetune_trainer.preparation.labels import shown


def require_task(files: ModelFiles, head: Head, task: str) -> None:
    """Refuses a model whose architecture has no such head.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    config = read_config(files)
    if not head.classes(config):
        raise TrainerError(
            ExitCode.MODEL_INVALID,
            f"spec.task is {task}, but {files.name} is a {one_line(config.model_type, 40)}, of which there is no "
            f"{head.what.removeprefix('a ')} ({head.auto}). Correct spec.model, or spec.task.",
        )


def has_head(files: ModelFiles, head: Head) -> bool:
    """Whether the model was saved with such a head."""
    config = read_config(files)
    names = {found.__name__ for found in head.classes(config)}
    return any(name in names for name in config.architectures or ())


def with_labels(head: Head, names: Sequence[str], problem: str | None, files: ModelFiles) -> tuple[Head, list[str]]:
    """The head for labels, and all labels that it has then, in the order of its outputs.

    A head that the model has already, or that an adapter brings which belongs on it, is kept if it has an output for
    each label, by its ``id2label``; one whose outputs have no names but LABEL_0, LABEL_1 … is if the labels are their
    numbers. Else it is a new one.

    Args:
        names: the labels of the data.
        problem: transformers' ``problem_type``.

    Raises:
        TrainerError: DATA_INVALID, where the data have labels that the model's own head has not.
    """
    ordered = list(names)
    brought = [adapter for adapter in (*files.stack, *files.adapters) if (adapter.directory / HEAD).exists()]
    if kept := bool(brought) or has_head(files, head):
        ordered = _of_adapter(names, problem, brought[-1]) if brought else _of_base(names, problem, files)
    settings: dict[str, object] = {
        "id2label": dict(enumerate(ordered)),
        "label2id": {name: number for number, name in enumerate(ordered)},
    }
    if problem:
        settings["problem_type"] = problem
    new = bool(brought) or not kept  # what an adapter brings is not among the base's weights
    return replace(head, settings=settings, new=new), ordered


def _of_base(names: Sequence[str], problem: str | None, files: ModelFiles) -> list[str]:
    return _kept(names, problem, files, "Start from a model without a head")


def _of_adapter(names: Sequence[str], problem: str | None, adapter: AdapterFiles) -> list[str]:
    files = ModelFiles(adapter.directory, f"{adapter.what[0].lower()}{adapter.what[1:]}")
    return _kept(names, problem, files, f"Start from what FineTuneJob {adapter.job} started from")


def _kept(names: Sequence[str], problem: str | None, files: ModelFiles, otherwise: str) -> list[str]:
    """The labels of a head that is there; ``otherwise``: what else to do than to keep it."""
    config = read_config(files)
    own = [str(config.id2label[number]) for number in range(config.num_labels)]
    unnamed = own == [f"LABEL_{number}" for number in range(len(own))]
    if unnamed and set(names) <= {str(number) for number in range(len(own))}:
        own = [str(number) for number in range(len(own))]
    if missing := set(names) - set(own):
        mend = "write the numbers of its outputs, from 0, as labels" if unnamed else "correct the labels"
        _refuse(
            f"the data have the labels {shown(missing)}, but {files.name} has a head already, whose labels are "
            f"{shown(own)}. {otherwise}, or {mend}"
        )
    if problem and config.problem_type not in (None, problem):
        _refuse(
            f"these data are {problem.replace('_', ' ')}, but {files.name} has a head for "
            f"{config.problem_type.replace('_', ' ')}. {otherwise}, or write the records for it"
        )
    return own


def _refuse(what: str) -> None:
    raise TrainerError(ExitCode.DATA_INVALID, f"{what[0].upper()}{what[1:]}.")
