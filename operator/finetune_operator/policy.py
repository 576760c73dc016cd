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
from finetune_api.profile import Allowed, FineTuneProfileSpec, GpuKind
from finetune_api.quantity import amount
from finetune_api.run import ModelLocation
from finetune_api.spec import FineTuneJobSpec, Resources
from finetune_api.status import ProfileUsed
from finetune_operator.failures import Failure, tell
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings
from finetune_operator.times import seconds_of

_AWS = "https://s3.amazonaws.com"
"""What allowed.s3Endpoints calls the server of jobs that name none."""


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
    _require(name, _refusals(job, name, spec))
    kind = _kind(job.spec.resources, spec)
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
    _require(given.used.name, _foreign_model(given, model))
    return model.model_copy(update={"licences": given.allowed.licences})


def _foreign_model(given: Grant, model: ModelLocation) -> Iterator[str]:
    path = f"spec.model ({model.origin})" if model.origin else "spec.model.uri"
    places, models = _places(given.allowed, given.job.namespace), given.allowed.models
    for adapter in (*model.stack, *model.adapters):
        if places is not None and not _below(adapter.uri, places):
            yield _sentence(path, adapter.uri, "S3 prefixes", places)
    in_s3 = model.uri.startswith("s3://")
    if in_s3 and (model.origin is not None or models is None):
        if places is not None and not _below(model.uri, places):
            yield _sentence(path, model.uri, "S3 prefixes", places)
    elif models is not None and not _below(model.uri, models):
        yield _sentence(path, model.uri, "models of", models)


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


def _kind(asked: Resources, profile: FineTuneProfileSpec) -> GpuKind | None:
    """The kind of GPU that a job gets; the only one, where there is no choice."""
    if asked.gpus_per_node == 0 or not profile.gpus:
        return None
    name = asked.gpu_type or profile.defaults.gpu_type
    only = profile.gpus[0] if len(profile.gpus) == 1 and name is None else None
    return next((kind for kind in profile.gpus if kind.name == name), only)


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


# refusals, each a sentence that names the field, the value found and what is allowed


def _sentence(path: str, found: object, what: str, allowed: object) -> str:
    shown = ", ".join(map(str, allowed)) if isinstance(allowed, tuple) else str(allowed)
    return f"{path}: found {found}; allowed: {what} {shown or 'none'}"


def _refusals(job: FineTuneJob, name: str, profile: FineTuneProfileSpec) -> Iterator[str]:
    if profile.namespaces is not None and job.namespace not in profile.namespaces:
        yield f"spec.profile: found {name}, which is not for namespace {job.namespace}"
        return  # what it allows to others is not for those to read
    yield from _beyond_limits(job.spec, profile)
    yield from _unknown_kind(job.spec, profile)
    yield from _elsewhere(job, profile.allowed)
    yield from _foreign_image(job.spec, profile)
    if (queue := job.spec.scheduling.queue) is not None and profile.queue not in (None, queue):
        yield _sentence("spec.scheduling.queue", queue, "only", profile.queue)
    wanted = job.spec.scheduling.priority_class
    classes = profile.allowed.priority_classes
    if wanted is not None and classes is not None and wanted not in classes:
        yield _sentence("spec.scheduling.priorityClass", wanted, "one of", classes)


def _beyond_limits(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> Iterator[str]:
    limits, asked = profile.limits, spec.resources
    gpus = asked.nodes * asked.gpus_per_node
    if limits.gpus is not None and gpus > limits.gpus:
        yield _sentence("spec.resources.gpusPerNode", f"{gpus} GPUs in all", "at most", limits.gpus)
    if limits.nodes is not None and asked.nodes > limits.nodes:
        yield _sentence("spec.resources.nodes", asked.nodes, "at most", limits.nodes)
    deadline, latest = spec.run_policy.deadline, limits.deadline
    if (seconds_of(deadline) or 0.0) > (seconds_of(latest) or float("inf")):
        yield _sentence("spec.runPolicy.deadline", deadline, "at most", latest)
    for name in ("cpu", "memory"):
        found, most = getattr(asked, name), getattr(limits, name)
        if found is not None and most is not None and amount(found) > amount(most):
            yield _sentence(f"spec.resources.{name}", found, "at most", most)


def _unknown_kind(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> Iterator[str]:
    asked = spec.resources
    if asked.gpus_per_node and (profile.gpus or asked.gpu_type) and _kind(asked, profile) is None:
        kinds = tuple(kind.name for kind in profile.gpus)
        yield _sentence("spec.resources.gpuType", asked.gpu_type or "nothing", "one of", kinds)


def _elsewhere(job: FineTuneJob, allowed: Allowed) -> Iterator[str]:
    """Data, models, results and servers that lie where the profile does not allow."""
    spec = job.spec
    places = _places(allowed, job.namespace)
    for path, uri in _uris(spec):
        if places is not None and not _below(uri, places):
            yield _sentence(path, uri, "S3 prefixes", places)
    server = (spec.storage.endpoint_url or _AWS).rstrip("/")
    if allowed.s3_endpoints is not None and server not in {url.rstrip("/") for url in allowed.s3_endpoints}:
        yield _sentence(
            "spec.storage.endpointUrl", spec.storage.endpoint_url or "nothing", "one of", allowed.s3_endpoints
        )


def _uris(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    """The S3 URIs of data and output, with their paths."""
    for name in ("train", "validation", "test", "general"):
        for i, source in enumerate(getattr(spec.data, name, None) or ()):
            yield f"spec.data.{name}[{i}].uri", source.uri
    yield "spec.output.uri", spec.output.uri


def _foreign_image(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> Iterator[str]:
    if spec.trainer is None:
        return
    allowed = profile.allowed.images
    if allowed is None:
        allowed = (profile.trainer.image,) if profile.trainer.image else ()
    if not any(_is_image(spec.trainer.image, one) for one in allowed):
        yield _sentence("spec.trainer.image", spec.trainer.image, "images", allowed)


def _is_image(image: str, allowed: str) -> bool:
    """Whether an image is the allowed one, that one with a tag or digest, or one below it (allowed ends in ``/``)."""
    rest = image.removeprefix(allowed)
    if not image.startswith(allowed):
        return False
    return allowed.endswith("/") or not rest or (rest[0] in ":@" and "/" not in rest and not _has_tag(allowed))


def _has_tag(image: str) -> bool:
    return "@" in image or ":" in image.rsplit("/", 1)[-1]


def _places(allowed: Allowed, namespace: str) -> tuple[str, ...] | None:
    if allowed.s3_prefixes is None:
        return None
    return tuple(prefix.replace("{namespace}", namespace) for prefix in allowed.s3_prefixes)


def _below(uri: str, places: tuple[str, ...]) -> bool:
    """Whether a URI is one of the places or lies below it; ``s3://team-ab`` is not below ``s3://team-a``."""
    return any(uri.rstrip("/") == place.rstrip("/") or uri.startswith(_open(place)) for place in places)


def _open(place: str) -> str:
    return place if place.endswith("/") else f"{place}/"
