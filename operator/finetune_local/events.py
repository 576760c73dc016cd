"""Events about objects, as controllers and kubelets record them: a repeated one is counted up."""

import time
from collections import OrderedDict
from typing import Any

from finetune_local.client import ApiClient, ApiError
from finetune_local.clock import timestamp, utc_now

Object = dict[str, Any]
_REMEMBERED = 512


class EventRecorder:
    """Writes Events in the name of one component.

    Args:
        client: where to.
        component: ``source.component``, such as ``job-controller``.
        host: ``source.host``, of a component that belongs to a node.
    """

    def __init__(self, client: ApiClient, component: str, host: str | None = None) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._known: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()

    async def record(self, about: Object, kind: str, reason: str, message: str, container: str = "") -> None:
        """Tells what happened to an object; a refusal of the API server is nothing to stop for.

        Args:
            about: the object.
            kind: ``Normal`` or ``Warning``.
            reason: CamelCase.
            message: what happened.
            container: name of the container it happened to.
        """
        key = (about["metadata"]["uid"], kind, reason, message, container)
        try:
            if key in self._known:
                await self._count_up(key, about)
            else:
                await self._create(key, about)
        except ApiError:
            self._known.pop(key, None)

    def _path(self, about: Object) -> str:
        return f"/api/v1/namespaces/{about['metadata'].get('namespace', 'default')}/events"

    async def _create(self, key: tuple[str, ...], about: Object) -> None:
        meta = about["metadata"]
        now = timestamp(utc_now())
        involved = {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        }
        _, kind, reason, message, container = key
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        name = f"{meta['name']}.{time.time_ns():x}"
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": meta.get("namespace", "default")},
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message,
            "source": source,
            "reportingComponent": self._component,
            "reportingInstance": self._host or "",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        await self._client.create(self._path(about), body)
        self._known[key] = (name, 1)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _count_up(self, key: tuple[str, ...], about: Object) -> None:
        name, count = self._known[key]
        self._known[key] = (name, count + 1)
        change = {"count": count + 1, "lastTimestamp": timestamp(utc_now())}
        await self._client.patch(f"{self._path(about)}/{name}", change)
