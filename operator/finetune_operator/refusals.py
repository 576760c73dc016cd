"""What a FineTuneProfile does not allow: each a sentence that names the field, the value found and what is allowed."""

from collections.abc import Iterator

from finetune_api.job import FineTuneJob
from finetune_api.profile import Allowed, FineTuneProfileSpec, GpuKind
from finetune_api.quantity import amount
from finetune_api.run import ModelLocation
from finetune_api.spec import FineTuneJobSpec, Resources
from finetune_operator.times import seconds_of

_AWS = "https://s3.amazonaws.com"
"""What allowed.s3Endpoints calls the server of jobs that name none."""


def refusals(job: FineTuneJob, name: str, profile: FineTuneProfileSpec) -> Iterator[str]:
    """Of a FineTuneJob by the FineTuneProfile called ``name``."""
    if profile.namespaces is not None and job.namespace not in profile.namespaces:
        yield f"spec.profile: found {name}, which is not for namespace {job.namespace}"
        return  # what it allows to others is not for those to read
    yield from _beyond_limits(job.spec, profile)
    yield from _unknownkind_of(job.spec, profile)
    yield from _elsewhere(job, profile.allowed)
    yield from _foreign_image(job.spec, profile)
    if (queue := job.spec.scheduling.queue) is not None and profile.queue not in (None, queue):
        yield _sentence("spec.scheduling.queue", queue, "only", profile.queue)
    wanted = job.spec.scheduling.priority_class
    classes = profile.allowed.priority_classes
    if wanted is not None and classes is not None and wanted not in classes:
        yield _sentence("spec.scheduling.priorityClass", wanted, "one of", classes)


def foreign_models(allowed: Allowed, namespace: str, model: ModelLocation) -> Iterator[str]:
    """Of a model, and of all that it was built on."""
    path = f"spec.model ({model.origin})" if model.origin else "spec.model.uri"
    places, models = _places(allowed, namespace), allowed.models
    for adapter in (*model.stack, *model.adapters):
        if places is not None and not _below(adapter.uri, places):
            yield _sentence(path, adapter.uri, "S3 prefixes", places)
    in_s3 = model.uri.startswith("s3://")
    if in_s3 and (model.origin is not None or models is None):
        if places is not None and not _below(model.uri, places):
            yield _sentence(path, model.uri, "S3 prefixes", places)
    elif models is not None and not _below(model.uri, models):
        yield _sentence(path, model.uri, "models of", models)


def kind_of(asked: Resources, profile: FineTuneProfileSpec) -> GpuKind | None:
    """The kind of GPU that a job gets; the only one, where there is no choice."""
    if asked.gpus_per_node == 0 or not profile.gpus:
        return None
    name = asked.gpu_type or profile.defaults.gpu_type
    only = profile.gpus[0] if len(profile.gpus) == 1 and name is None else None
    return next((kind for kind in profile.gpus if kind.name == name), only)


def _sentence(path: str, found: object, what: str, allowed: object) -> str:
    shown = ", ".join(map(str, allowed)) if isinstance(allowed, tuple) else str(allowed)
    return f"{path}: found {found}; allowed: {what} {shown or 'none'}"


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


def _unknownkind_of(spec: FineTuneJobSpec, profile: FineTuneProfileSpec) -> Iterator[str]:
    asked = spec.resources
    if asked.gpus_per_node and (profile.gpus or asked.gpu_type) and kind_of(asked, profile) is None:
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
