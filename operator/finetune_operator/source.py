"""``job://``: from the names of other FineTuneJobs to what they published."""

import re
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from finetune_api.conditions import Phase, Reason
from finetune_api.run import AdapterLocation, Combination, ModelLocation
from finetune_api.spec import Combine, FineTuneJobSpec, Method
from finetune_api.status import BuiltOn, Result
from finetune_operator.failures import Failure, tell
from finetune_operator.observed import Raw
from finetune_operator.outcome import understood

_SOURCE = re.compile(r"job://([a-z0-9]([a-z0-9.-]*[a-z0-9])?)")
_LONGEST_STACK = 8
"""Adapters that one model may be made of. Each is fetched, checked and merged by every job that starts from it."""
_KINDS = {"qlora": "lora"}
"""Adapters that are published as one of another name."""


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


def source_names(model: object) -> list[str]:
    """The names of all FineTuneJobs that a ``spec.model`` points at; nothing of it needs to be valid."""
    return sorted({name for uri in _uris(model) if (name := source_name(uri))})


def _uris(model: object) -> Iterator[object]:
    if isinstance(model, dict):
        yield model.get("uri")
        combine = model.get("combine")
        adapters = combine.get("adapters") if isinstance(combine, dict) else None
        for adapter in adapters if isinstance(adapters, list) else ():
            yield adapter.get("uri") if isinstance(adapter, dict) else None


def resolve(spec: FineTuneJobSpec, namespace: str, own_name: str, sources: Mapping[str, Raw]) -> ModelLocation:
    """Where the model of FineTuneJob ``own_name`` lies, with all adapters that belong on it.

    Args:
        sources: the FineTuneJobs that ``job://`` names, by name, as far as they exist.

    Raises:
        ModelRefused: there is no such job, or what it published (yet) does not serve.
    """
    try:
        return _resolve(spec, _Lookup(namespace, own_name, sources))
    except ValidationError as e:
        fault = e.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        origin = spec.model.uri or "spec.model.combine"
        case = f"spec.model ({origin}): what it published lies at a place that is none: {fault}"
        raise ModelRefused(tell(Reason.MODEL_JOB_NOT_A_MODEL, case)) from None


def _resolve(spec: FineTuneJobSpec, look: "_Lookup") -> ModelLocation:
    sources = look.sources
    if spec.model.combine is not None:
        return _combined(spec.model.combine, spec.method, look)
    uri = spec.model.uri or ""
    name = source_name(uri)
    if name is None:
        return ModelLocation(uri=uri, revision=spec.model.revision)
    field = f"spec.model.uri: {uri}"
    result = look.result(name, field)
    if result.model_uri is not None:
        if spec.method.from_ is not None or spec.training.max_steps == 0:
            what = f"method.from {spec.method.from_}" if spec.method.from_ else "training.maxSteps 0"
            case = f"{field}: FineTuneJob {name} published a whole model, and {what} is for adapters"
            raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
        return ModelLocation(uri=result.model_uri, origin=uri, digest=result.digest)
    built_on, adapter = look.adapter(name, field)
    if _continues(spec.method, _kind(sources[name]), field):
        return _whole(spec.method, _location(built_on, uri, adapters=(adapter,)), field)
    if spec.training.max_steps == 0:
        case = f"{field}: training.maxSteps 0 publishes the adapter of FineTuneJob {name} as it is, and cannot merge it"
        raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
    if len(built_on.adapters) >= _LONGEST_STACK:
        case = (
            f"{field}: the model is made of {len(built_on.adapters) + 1} adapters that lie on one another, and "
            f"{_LONGEST_STACK} are the most. Publish a whole model in between, with method.adapter none"
        )
        raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
    return _whole(spec.method, _location(built_on, uri, stack=(adapter,)), field)


def _whole(method: Method, location: ModelLocation, field: str) -> ModelLocation:
    """Refuses to merge adapters into weights of 4 bits, which would round away what they learned."""
    if method.adapter == "qlora" and location.stack:
        case = f"{field} is made of a base and {len(location.stack)} adapters merged into it, and method.adapter qlora "
        case += "holds it in 4 bits. Set method.adapter lora, or publish a whole model first, with method.adapter none"
        raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
    return location


def _continues(method: Method, kind: str, field: str) -> bool:
    """Whether the adapter is trained on; else it is merged."""
    wanted = _KINDS.get(method.adapter, method.adapter)
    if method.from_ is None:
        return wanted == kind and getattr(method, wanted, None) is None
    if method.from_ == "continue" and wanted != kind:
        case = (
            f"{field}: method.from continue goes on with an adapter of the kind {kind}, and method.adapter is "
            f"{method.adapter}. Set method.adapter {kind}, or method.from merge"
        )
        raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
    return method.from_ == "continue"


def _combined(combine: Combine, method: Method, look: "_Lookup") -> ModelLocation:
    """All adapters on the base that they share."""
    found, share = [], 1 / len(combine.adapters)
    for number, source in enumerate(combine.adapters):
        name, field = source_name(source.uri) or "", f"spec.model.combine.adapters[{number}]: {source.uri}"
        built_on, adapter = look.adapter(name, field)
        if (kind := _kind(look.sources[name])) != "lora":
            case = f"{field}: FineTuneJob {name} published an adapter of the kind {kind}, and only lora can be combined"
            raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
        weight = share if source.weight is None else source.weight
        found.append((built_on, adapter.model_copy(update={"weight": weight})))
    (first, one), *others = found
    for built_on, adapter in others:
        if _bytes(built_on) != _bytes(first):
            case = (
                f"spec.model.combine.adapters: that of FineTuneJob {one.job} belongs on {_told(first)}, that of "
                f"FineTuneJob {adapter.job} on {_told(built_on)}"
            )
            raise ModelRefused(tell(Reason.MODEL_JOBS_DIFFER, case))
    origin = " + ".join(source.uri for source in combine.adapters)
    how = (
        Combination(method=combine.method)
        if combine.density is None
        else Combination(method=combine.method, density=combine.density)
    )
    location = _location(first, origin, adapters=tuple(adapter for _, adapter in found), combination=how)
    return _whole(method, location, "spec.model.combine")


def _bytes(built_on: BuiltOn) -> BuiltOn:
    """What of it decides whether another one is the same; not where it lies, where its bytes are known."""
    return built_on.model_copy(update={"uri": ""}) if built_on.digest or built_on.version else built_on


def _told(built_on: BuiltOn) -> str:
    exactly = built_on.revision or built_on.digest or built_on.version
    with_adapters = "".join(f" with the adapter of {adapter.job}" for adapter in built_on.adapters)
    return f"{built_on.uri}{f' ({exactly[:19]})' if exactly else ''}{with_adapters}"


def _location(
    built_on: BuiltOn,
    origin: str,
    stack: tuple[AdapterLocation, ...] = (),
    adapters: tuple[AdapterLocation, ...] = (),
    combination: Combination | None = None,
) -> ModelLocation:
    below = tuple(AdapterLocation(uri=a.uri, digest=a.digest, job=a.job) for a in built_on.adapters)
    return ModelLocation(
        uri=built_on.uri,
        revision=built_on.revision,
        origin=origin,
        digest=built_on.digest,
        version=built_on.version,
        stack=below + stack,
        adapters=adapters,
        combination=combination,
    )


def _kind(source: Raw) -> str:
    """The kind of adapter that a FineTuneJob asked for, by the name it is published as."""
    method = (source.get("spec") or {}).get("method") or {}
    kind = str(method.get("adapter") or Method().adapter)
    return _KINDS.get(kind, kind)


class _Lookup:
    """The other FineTuneJobs, and their refusals."""

    def __init__(self, namespace: str, own_name: str, sources: Mapping[str, Raw]) -> None:
        self._namespace, self._own_name, self.sources = namespace, own_name, sources

    def result(self, name: str, field: str) -> Result:
        """What a FineTuneJob published: a model or an adapter."""
        source = self.sources.get(name)
        if source is None:
            case = f"{field}: there is no FineTuneJob {name} in namespace {self._namespace}"
            raise ModelRefused(tell(Reason.MODEL_JOB_NOT_FOUND, case))
        if name == self._own_name:
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
        if result is None or (result.model_uri is None and result.adapter_uri is None):
            case = f"{field}: FineTuneJob {name} published no model and no adapter"
            raise ModelRefused(tell(Reason.MODEL_JOB_NOT_A_MODEL, case))
        return result

    def adapter(self, name: str, field: str) -> tuple[BuiltOn, AdapterLocation]:
        """The adapter that a FineTuneJob published, and what it belongs on."""
        result = self.result(name, field)
        if result.adapter_uri is None:
            case = f"{field}: FineTuneJob {name} published a whole model, and only adapters can be combined"
            raise ModelRefused(tell(Reason.MODEL_JOB_UNSUITABLE, case))
        if result.built_on is None or result.digest is None:
            case = (
                f"{field}: FineTuneJob {name} published the adapter {result.adapter_uri}, and its status does not say "
                "what that belongs on: an older version made it, or its URIs are too long for a termination message"
            )
            raise ModelRefused(tell(Reason.MODEL_JOB_NOT_A_MODEL, case))
        return result.built_on, AdapterLocation(uri=result.adapter_uri, digest=result.digest, job=name)
