"""Whether a model can do a task, and what its head has learned already: told by config.json alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoModelForMaskedLM

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.adapterfiles import HEAD
from finetune_trainer.models.head import LANGUAGE_MODEL, Head
from finetune_trainer.models.model import read_config
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles
from finetune_trainer.preparation.labels import shown


def require_task(files: ModelFiles, head: Head, task: str) -> None:
    """Refuses a model whose architecture has no such head, or cannot do with it what is meant.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    config = read_config(files)
    if task == "text-generation" and config.is_encoder_decoder:
        why = "which has an encoder and a decoder. Set spec.task text2text-generation, or start from a decoder"
    elif not head.classes(config):
        what = head.what.removeprefix("a ")
        why = f"of which there is no {what} ({head.auto}). Correct spec.model, or spec.task"
    elif head == LANGUAGE_MODEL and _reads_ahead(config):
        why = (
            "which reads a text in both directions, and so would see the words that it shall learn to write. Start "
            "from a decoder, or correct spec.task"
        )
    else:
        return
    kind = one_line(config.model_type, 40)
    raise TrainerError(ExitCode.MODEL_INVALID, f"spec.task is {task}, but {files.name} is a {kind}, {why}.")


def _reads_ahead(config: Any) -> bool:
    """Whether it is an encoder: those that learn by masks have a language model as well, but look at all of a text
    unless their config.json says otherwise."""
    backwards = any(getattr(config, name, False) for name in ("is_decoder", "causal"))
    return type(config) in AutoModelForMaskedLM._model_mapping and not backwards


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
