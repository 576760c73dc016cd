"""What a FineTuneProfile lets a FineTuneJob have: a pure decision, on the profile as it is when an attempt begins.

Without a profile the operator's settings decide. What was granted goes into the Job; nothing of it is looked up again
while the Job lives.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from finetune_api import names
from finetune_api.conditions import Reason
from finetune_api.job import FineTuneJob, in_words
from finetune_api.profile import Allowed, FineTuneProfileSpec
from finetune_api.quantity import amount
from finetune_api.run import ModelLocation
from finetune_api.spec import FineTuneJobSpec, Resources
from finetune_api.status import ProfileUsed
from finetune_operator.failures import Failure, tell
from finetune_operator.observed import Raw
from finetune_operator.refusals import foreign_models, kind_of, refusals
from finetune_operator.settings import Settings
from finetune_operator.times import seconds_of


class Refused(Exception):
    """The job cannot have what it asks for. ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Grant:
    """What one attempt runs with."""

    job: FineTuneJob
    """With the profile's defaults and bounds in its spec."""
    image: str
    image_pull_policy: str
    pull_secrets: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_selector: Mapping[str, str] = field(default_factory=dict)
    """Further labels of the nodes that have the kind of GPU."""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the pod."""
    used: ProfileUsed | None = None
    """What the Job remembers of the profile."""
    allowed: Allowed = field(default_factory=Allowed)


def profile_name(raw: Raw) -> str:
    """The name of the profile that a FineTuneJob has, if there is one of that name."""
    name = (raw.get("spec") or {}).get("profile")
    return name if isinstance(name, str) else names.DEFAULT_PROFILE


def grant(job: FineTuneJob, profile: Raw | None, settings: Settings) -> Grant:
    """What a job gets of the FineTuneProfile called :func:`profile_name`, or of the settings where there is none.

    Raises:
        Refused: the profile does not exist, cannot be read, or does not allow what the job asks for.
    """
    if profile is None:
        return _without(job, settings)
    name = profile["metadata"]["name"]
    spec = _read(name, profile.get("spec"))
    _require(name, refusals(job, name, spec))
    kind = kind_of(job.spec.resources, spec)
    used = ProfileUsed(
        name=name,
        digest=digest(profile),
        max_retries=spec.limits.max_retries,
        deadline=_deadline(job.spec, spec),
        stall_timeout=None if job.spec.run_policy.stall_timeout else spec.defaults.stall_timeout,
    )
    if kind is not None:
        used = used.model_copy(
            update={
                "gpu_type": kind.name,
                "price_per_hour": kind.price_per_hour,
                "currency": spec.currency if kind.price_per_hour is not None else None,
            }
        )
    found = _of_settings(job, settings)
    return replace(
        found,
        job=job.model_copy(update={"spec": _completed(job.spec, spec)}),
        image=job.spec.trainer.image if job.spec.trainer else spec.trainer.image or found.image,
        image_pull_policy=spec.trainer.pull_policy or found.image_pull_policy,
        pull_secrets=spec.trainer.pull_secrets,
        node_selector=spec.node_selector or {},
        gpu_selector=kind.node_selector if kind else {},
        tolerations=tuple(toleration.to_dict() for toleration in spec.tolerations),
        environment={variable.name: variable.value for variable in spec.environment},
        used=used,
        allowed=spec.allowed,
    )


def vetted(given: Grant, model: ModelLocation) -> ModelLocation:
    """A model with the licences that it may have, which the trainer looks at.

    Raises:
        Refused: it, or something that it was built on, lies where the profile does not allow.
    """
    if given.used is None:
        return model
    _require(given.used.name, foreign_models(given.allowed, given.job.namespace, model))
    return model.model_copy(update={"licences": given.allowed.licences})


def digest(profile: Raw) -> str:
    """``sha256:…`` of a profile's spec as the API server holds it, as compact JSON with sorted keys."""
    text = json.dumps(profile.get("spec"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _require(name: str, sentences: Iterator[str]) -> None:
    found = list(sentences)
    if found:
        case = f"FineTuneProfile {name} does not allow this FineTuneJob. {'; '.join(found[:5])}"
        raise Refused(tell(Reason.NOT_ALLOWED, case))


def _of_settings(job: FineTuneJob, settings: Settings) -> Grant:
    return Grant(job, settings.trainer_image, settings.image_pull_policy)


def _without(job: FineTuneJob, settings: Settings) -> Grant:
    if job.spec.profile is not None:
        case = f"spec.profile: found {job.spec.profile}, and there is no FineTuneProfile of this name"
        raise Refused(tell(Reason.PROFILE_NOT_FOUND, case))
    for path, value in (
        ("resources.gpuType", job.spec.resources.gpu_type),
        ("trainer.image", job.spec.trainer.image if job.spec.trainer else None),
    ):
        if value is not None:
            case = (
                f"spec.{path}: found {value}, which a FineTuneProfile has to allow, and none applies: spec.profile "
                f"names none, and there is none called {names.DEFAULT_PROFILE}"
            )
            raise Refused(tell(Reason.NOT_ALLOWED, case))
    return _of_settings(job, settings)


def _read(name: str, raw: object) -> FineTuneProfileSpec:
    try:
        return FineTuneProfileSpec.model_validate(raw)
    except ValidationError as e:
        raise Refused(tell(Reason.PROFILE_INVALID, f"FineTuneProfile {name}: {in_words(e)}")) from None


def _completed(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> FineTuneJobSpec:
    """The spec with what the profile gives to those who ask for nothing."""
    asked, defaults, limits = spec.resources, profile.defaults, profile.limits
    scheduling = spec.scheduling
    if scheduling.priority_class is None:
        scheduling = scheduling.model_copy(update={"priority_class": defaults.priority_class})
    if profile.queue is not None:
        scheduling = scheduling.model_copy(update={"queue": profile.queue})
    memory = next((m for m in (asked.memory, defaults.memory, limits.memory) if m is not None), None)
    resources = asked.model_copy(update={"cpu": _cpu(asked, profile), "memory": memory})
    changed = {"resources": resources, "scheduling": scheduling}
    return spec.model_copy(update=changed)


def _deadline(asked: FineTuneJobSpec, profile: FineTuneProfileSpec) -> str | None:
    """The deadline of a job that gives none: the default, within the limit."""
    given = [limit for limit in (profile.defaults.deadline, profile.limits.deadline) if seconds_of(limit) is not None]
    return None if asked.run_policy.deadline else min(given, key=lambda limit: seconds_of(limit) or 0.0, default=None)


def _cpu(asked: Resources, profile: FineTuneProfileSpec) -> int | str | None:
    if asked.cpu is not None or profile.defaults.cpu is not None:
        return asked.cpu if asked.cpu is not None else profile.defaults.cpu
    limit = profile.limits.cpu
    return limit if limit is not None and amount(limit) < max(1, asked.gpus_per_node) else None
