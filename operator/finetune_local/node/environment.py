"""A container's command and environment, from its spec and the objects that it refers to."""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_local.node.addresses import NODE_ADDRESS, Reference, address_of

Object = dict[str, Any]

_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")


class ConfigError(Exception):
    """The container cannot be configured; ``str()`` is the kubelet's message."""


def references(container: Object) -> Iterator[Reference]:
    """The Secrets and ConfigMaps that the environment is taken from."""
    for source in container.get("envFrom") or ():
        for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if key in source:
                yield kind, source[key]["name"]
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if key in source:
                yield kind, source[key]["name"]


def environment(container: Object, pod: Object, found: Mapping[Reference, Object]) -> dict[str, str]:
    """The declared environment.

    Args:
        container: the container.
        pod: its pod, for ``fieldRef``.
        found: the objects of :func:`references` that exist.

    Raises:
        ConfigError: a Secret, ConfigMap or key is missing and not optional.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_all_of(source, found))
    for variable in container.get("env") or ():
        value = _value(variable, pod, found, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' ``$(NAME)``: unknown names stay as they are, ``$$`` is one dollar."""

    def replacement(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return _VARIABLE.sub(replacement, text)


def field(pod: Object, path: str) -> str:
    """The value of a ``fieldRef``.

    Raises:
        ConfigError: a field that the downward API does not have.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if found := _SUBSCRIPT.fullmatch(path):
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = sorted((meta.get(path.partition(".")[2]) or {}).items())
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in entries)
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": NODE_ADDRESS,
        "status.podIP": address_of(pod),
    }
    if path not in known:
        raise ConfigError(f"fieldPath {path} is not supported in local mode")
    return str(known[path])


def data_of(obj: Object) -> dict[str, bytes]:
    """The content of a Secret or ConfigMap."""
    encoded = "data" if obj["kind"] == "Secret" else "binaryData"
    plain = {} if obj["kind"] == "Secret" else {key: text.encode() for key, text in (obj.get("data") or {}).items()}
    return plain | {key: base64.b64decode(text) for key, text in (obj.get(encoded) or {}).items()}


def missing(reference: Reference) -> str:
    """The kubelet's words for a Secret or ConfigMap that does not exist."""
    return f'{reference[0].lower()} "{reference[1]}" not found'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _all_of(source: Object, found: Mapping[Reference, Object]) -> dict[str, str]:
    kind, selector = ("Secret", source["secretRef"]) if "secretRef" in source else ("ConfigMap", source["configMapRef"])
    obj = found.get((kind, selector["name"]))
    if obj is None:
        if selector.get("optional"):
            return {}
        raise ConfigError(missing((kind, selector["name"])))
    prefix = source.get("prefix", "")
    return {prefix + key: value.decode(errors="replace") for key, value in data_of(obj).items()}


def _value(variable: Object, pod: Object, found: Mapping[Reference, Object], so_far: Mapping[str, str]) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return expand(variable.get("value", ""), so_far)
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if key in source:
            return _key(kind, source[key], pod, found)
    raise ConfigError(f"env {variable['name']}: valueFrom.{next(iter(source))} is not supported in local mode")


def _key(kind: str, selector: Object, pod: Object, found: Mapping[Reference, Object]) -> str | None:
    obj = found.get((kind, selector["name"]))
    content = data_of(obj).get(selector["key"]) if obj is not None else None
    if content is not None:
        return content.decode(errors="replace")
    if selector.get("optional"):
        return None
    if obj is None:
        raise ConfigError(missing((kind, selector["name"])))
    raise ConfigError(
        f"couldn't find key {selector['key']} in {kind} {pod['metadata']['namespace']}/{selector['name']}"
    )
