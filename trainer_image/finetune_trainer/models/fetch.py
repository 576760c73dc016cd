"""Brings a model onto this machine, from wherever it lies. Needs no torch, so that it runs while torch is imported."""

from pathlib import Path

from finetune_api.run import ModelLocation
from finetune_trainer.errors import writing
from finetune_trainer.models.hub import fetch_from_hub
from finetune_trainer.models.modelcheck import require_loadable
from finetune_trainer.models.modelfiles import ModelFiles, fetch_from_s3
from finetune_trainer.storage.store import Store


def fetch_model(location: ModelLocation, store: Store, directory: Path) -> ModelFiles:
    """The model's files, after everything was refused that must not be loaded.

    Raises:
        TrainerError: MODEL_INVALID, STORAGE_REFUSED, STORAGE_UNAVAILABLE or DISK_FULL.
    """
    from_hub = location.uri.startswith("hf://")
    with writing(f"the model {location.uri}", directory):
        files = fetch_from_hub(location) if from_hub else fetch_from_s3(location, store, directory)
    require_loadable(files.directory, files.directory.parents[1] if from_hub else files.directory, location.uri)
    return files
