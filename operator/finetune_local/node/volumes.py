"""What lies in a pod's volumes: files from annotations, Secrets, ConfigMaps and ServiceAccount tokens."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_local.node.addresses import Reference
from finetune_local.node.environment import ConfigError, data_of, field, missing

Object = dict[str, Any]
Token = tuple[str | None, int]
"""``(audience, seconds)`` of a ServiceAccount token that is asked for; no audience means the API server's own."""


def _sources(volume: Object) -> Iterator[tuple[str, Object]]:
    """``(kind, source)`` of everything that is laid into a volume, in order."""
    for part in (volume.get("projected") or {}).get("sources") or ():
        yield from part.items()
    for kind in ("secret", "configMap", "downwardAPI"):
        if kind in volume:
            source = volume[kind]
            yield kind, {**source, "name": source["secretName"]} if kind == "secret" else source


def references(volume: Object) -> Iterator[Reference]:
    """The Secrets and ConfigMaps that the volume holds."""
    for kind, source in _sources(volume):
        if kind in ("secret", "configMap"):
            yield kind[0].upper() + kind[1:], source["name"]


def tokens(volume: Object) -> Iterator[Token]:
    """The ServiceAccount tokens that the volume holds."""
    for kind, source in _sources(volume):
        if kind == "serviceAccountToken":
            yield source.get("audience"), source.get("expirationSeconds", 3600)


def files(
    volume: Object, pod: Object, found: Mapping[Reference, Object], granted: Mapping[Token, str]
) -> dict[str, bytes]:
    """Relative path → content.

    Args:
        volume: the volume.
        pod: its pod, for the downward API.
        found: the objects of :func:`references` that exist.
        granted: a token for each of :func:`tokens`.

    Raises:
        ConfigError: a Secret, ConfigMap or key is missing and not optional.
    """
    result: dict[str, bytes] = {}
    for kind, source in _sources(volume):
        if kind == "downwardAPI":
            result.update({item["path"]: _field(item, pod) for item in source.get("items") or ()})
        elif kind == "serviceAccountToken":
            token = granted[source.get("audience"), source.get("expirationSeconds", 3600)]
            result[source["path"]] = token.encode()
        elif kind in ("secret", "configMap"):
            result.update(_content(kind[0].upper() + kind[1:], source, pod, found))
        else:
            raise ConfigError(f"volume {volume['name']}: {kind} is not supported in local mode")
    return result


def write(directory: Path, content: Mapping[str, bytes]) -> None:
    """Lays files down, each at once: a reader never sees half of one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise ConfigError(f"{name}: the path leads out of its volume")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(data)
        os.replace(fresh, path)


def _field(item: Object, pod: Object) -> bytes:
    if "fieldRef" not in item:
        raise ConfigError(f"downwardAPI {item['path']}: resourceFieldRef is not supported in local mode")
    return field(pod, item["fieldRef"]["fieldPath"]).encode()


def _content(kind: str, source: Object, pod: Object, found: Mapping[Reference, Object]) -> dict[str, bytes]:
    obj = found.get((kind, source["name"]))
    if obj is None:
        if source.get("optional"):
            return {}
        raise ConfigError(missing((kind, source["name"])))
    data = data_of(obj)
    if not source.get("items"):
        return data
    chosen = {}
    for item in source["items"]:
        if item["key"] in data:
            chosen[item["path"]] = data[item["key"]]
        elif not source.get("optional"):
            place = f"{pod['metadata']['namespace']}/{source['name']}"
            raise ConfigError(f"references non-existent {kind.lower()} key: {item['key']} in {place}")
    return chosen
