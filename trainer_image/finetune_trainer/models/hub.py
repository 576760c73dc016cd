"""Models from the Hugging Face hub. What a repository holds is looked at before anything of it is downloaded."""

import os
from pathlib import Path
from typing import NoReturn

from finetune_api.run import ENV_HF_TOKEN, ExitCode, ModelLocation
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.licence import licence_of_data, require_licence
from finetune_trainer.models.modelfiles import WEIGHTS, ModelFiles, is_needed, require_usable_names

_UNREACHABLE = ("TransportError", "ConnectionError", "TimeoutError")
"""Names of classes: the hub's HTTP library is httpx, and was requests."""


def fetch_from_hub(location: ModelLocation, weights: bool = True) -> ModelFiles:
    """Downloads the model's files into the hub's cache; its ``weights`` only where they are wanted.

    Raises:
        TrainerError: MODEL_INVALID for a model that does not exist, is gated or is not usable; STORAGE_UNAVAILABLE
            where the hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    name = location.uri.removeprefix("hf://").strip("/")
    token = os.environ.get(ENV_HF_TOKEN) or False
    try:
        info = HfApi().model_info(name, revision=location.revision, token=token, timeout=10)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        card = info.card_data.to_dict() if info.card_data else None  # type: ignore[no-untyped-call]
        require_licence(location, licence_of_data(card))
        require_usable_names(names, location.uri)
        wanted = [file for file in names if is_needed(file) and (weights or not file.endswith(WEIGHTS))]
        directory = snapshot_download(name, revision=info.sha, allow_patterns=wanted, token=token)
    except TrainerError:
        raise
    except Exception as error:
        _explain(error, name, location)
    return ModelFiles(Path(directory), name=name, revision=info.sha, version=str(info.sha))


def _explain(error: Exception, name: str, location: ModelLocation) -> NoReturn:
    """The hub's errors as sentences; what is not the hub's goes on as it is."""
    from huggingface_hub import errors

    revision = f" in revision {location.revision}" if location.revision else ""
    credentials = "a Secret with a token that has access, named in spec.model.credentials"
    status = getattr(getattr(error, "response", None), "status_code", None)
    missing = isinstance(error, errors.RepositoryNotFoundError)
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and not missing):
        what = f"The hub refuses access to {name} (gated or private). Accept its licence there and give {credentials}"
    elif isinstance(error, errors.RevisionNotFoundError):
        what = f"The model {name} has no revision {location.revision} on the hub. Correct spec.model.revision"
    elif missing or status == 404:
        what = f"The model {name} was not found on the hub{revision}. Correct spec.model.uri, or, if it is private, "
        what += f"give {credentials}"
    elif isinstance(error, errors.HFValidationError):
        what = f"{location.uri} is not a model's name on the hub ({one_line(error, 200)}). Write hf://organisation/name"
    elif isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError) or _unreachable(error):
        raise TrainerError(
            ExitCode.STORAGE_UNAVAILABLE,
            f"The model {name} cannot be downloaded: the hub could not be reached or kept failing "
            f"({one_line(error, 200)}). Check the network from the training pod, or copy the model to S3.",
        ) from error
    else:
        raise error
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}.") from error


def _unreachable(error: Exception) -> bool:
    return any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__)
