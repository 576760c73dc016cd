"""``job://``: from the name of another FineTuneJob to what it published."""

import re

from finetune_api.conditions import Phase, Reason
from finetune_api.run import ModelLocation
from finetune_api.spec import ModelSource
from finetune_operator.failures import Failure, tell
from finetune_operator.observed import Raw
from finetune_operator.outcome import understood

_SOURCE = re.compile(r"job://([a-z0-9]([a-z0-9.-]*[a-z0-9])?)")


class ModelRefused(Exception):
    """The model cannot be used. ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def source_name(uri: object) -> str | None:
    """The name of the FineTuneJob that a model URI points at, if it points at one.

    Looked at before the spec is known to be valid, so a text that is no object's name counts as none.
    """
    found = _SOURCE.fullmatch(uri) if isinstance(uri, str) else None
    return found[1] if found else None


def resolve(model: ModelSource, namespace: str, own_name: str, source: Raw | None) -> ModelLocation:
    """Where the model of FineTuneJob ``own_name`` lies. ``source`` is the one that ``job://`` names, if it exists.

    Raises:
        ModelRefused: there is no such job, or it published no model (yet).
    """
    name = source_name(model.uri)
    if name is None:
        return ModelLocation(uri=model.uri, revision=model.revision)
    field = f"spec.model.uri: {model.uri}"
    if source is None:
        case = f"{field}: there is no FineTuneJob {name} in namespace {namespace}"
        raise ModelRefused(tell(Reason.MODEL_JOB_NOT_FOUND, case))
    if name == own_name:
        case = f"{field}: FineTuneJob {name} cannot start from its own result"
        raise ModelRefused(tell(Reason.MODEL_JOB_NOT_FOUND, case))
    status = understood(source.get("status") or {})
    phase = status.phase or Phase.PENDING
    if phase in (Phase.FAILED, Phase.CANCELLED):
        case = f"{field}: FineTuneJob {name} is {phase} ({status.message or 'it says nothing more'})"
        raise ModelRefused(tell(Reason.MODEL_JOB_FAILED, case))
    if phase is not Phase.SUCCEEDED:
        case = f"{field}: FineTuneJob {name} is {phase}, and has published nothing yet"
        raise ModelRefused(tell(Reason.MODEL_JOB_NOT_FINISHED, case))
    result = status.result
    if result is None or result.model_uri is None:
        found = f"the adapter {result.adapter_uri}" if result and result.adapter_uri else "no model"
        case = f"{field}: FineTuneJob {name} published {found}; starting from an adapter is not supported yet"
        raise ModelRefused(tell(Reason.MODEL_JOB_NOT_A_MODEL, case))
    return ModelLocation(uri=result.model_uri, origin=model.uri, digest=result.digest)
