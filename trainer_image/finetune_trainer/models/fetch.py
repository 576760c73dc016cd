"""Brings a model onto this machine, from wherever it lies, with all adapters that belong on it. Needs no torch, so that
it runs while torch is imported."""

from dataclasses import replace
from pathlib import Path

from finetune_api.run import AdapterLocation, ExitCode, ModelLocation
from finetune_trainer.errors import TrainerError, writing
from finetune_trainer.models.adapterfiles import KINDS, MERGEABLE, fetch_adapter, require_combinable
from finetune_trainer.models.hub import fetch_from_hub
from finetune_trainer.models.modelcheck import require_loadable
from finetune_trainer.models.modelfiles import AdapterFiles, ModelFiles, fetch_from_s3
from finetune_trainer.storage.manifest import Ancestor
from finetune_trainer.storage.store import Store


def fetch_model(location: ModelLocation, store: Store, directory: Path, weights: bool = True) -> ModelFiles:
    """The model's files, after everything was refused that must not be loaded; without its ``weights`` where they are
    not wanted.

    Raises:
        TrainerError: MODEL_INVALID, STORAGE_REFUSED, STORAGE_UNAVAILABLE or DISK_FULL.
    """
    from_hub = location.uri.startswith("hf://")
    with writing(f"the model {location.uri}", directory):
        files = fetch_from_hub(location, weights) if from_hub else fetch_from_s3(location, store, directory, weights)
        root = files.directory.parents[1] if from_hub else files.directory
        require_loadable(files.directory, root, location.uri, weights)
        if location.version and location.version != files.version:
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"The model {location.uri} is another one than the adapter of FineTuneJob "
                f"{(*location.stack, *location.adapters)[0].job} was trained on: its files were changed since. Put "
                "them back as they were, or run that job again.",
            )
        return _with_adapters(files, location, store, directory.parent / f"{directory.name}-adapters")


def _with_adapters(files: ModelFiles, location: ModelLocation, store: Store, directory: Path) -> ModelFiles:
    """Adds the adapters, and what their jobs were."""
    lineage = list(files.lineage)

    def fetch(adapter: AdapterLocation) -> AdapterFiles:
        place = directory / adapter.digest.removeprefix("sha256:")
        found, vouched = fetch_adapter(adapter, store, place)
        lineage.extend(one for one in vouched.lineage if one.digest not in _digests(lineage))
        return found

    stack = tuple(map(fetch, location.stack))
    adapters = tuple(map(fetch, location.adapters))
    for adapter in stack:
        if adapter.config["peft_type"] not in MERGEABLE:
            kind = KINDS[adapter.config["peft_type"]]
            raise TrainerError(
                ExitCode.MODEL_INVALID,
                f"{adapter.what} is of the kind {kind}, and that cannot become part of a model. Set "
                f"spec.method.adapter {kind} and spec.method.from continue, or name another job.",
            )
    if location.combination:
        require_combinable(adapters, location.combination)
    return replace(files, stack=stack, adapters=adapters, lineage=tuple(lineage))


def _digests(lineage: list[Ancestor]) -> set[str]:
    return {ancestor.digest for ancestor in lineage}
