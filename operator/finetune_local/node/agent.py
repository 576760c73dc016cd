"""The node agent: registers the node, places pods on it and runs them."""

import asyncio
import logging
import platform
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetune_local.client import ApiClient, ApiError, Cache
from finetune_local.clock import timestamp, utc_now
from finetune_local.events import EventRecorder
from finetune_local.node import scheduling
from finetune_local.node.pod import Kubelet, PodWorker
from finetune_local.node.process import Guardian

log = logging.getLogger(__name__)

Object = dict[str, Any]

NODE_NAME = "local"
_NODES = "/api/v1/nodes"


class NodeAgent:
    """The one node of local mode.

    Args:
        client: an administrator's client of the API server.
        directory: where pods' files lie while they run; nothing of it is kept.
        logs: containers' logs, ``<pod uid>/<container>.log``.
        extra_capacity: resources beyond this machine's CPUs and memory, or in place of them (``{"cpu": "1"}``).
        programs: what a command's name stands for; by default ``python`` and ``python3`` are this interpreter.
        images: the images that exist; None: all do.
        retry_seconds: wait before a missing Secret is looked for again.
    """

    def __init__(
        self,
        client: ApiClient,
        directory: Path,
        logs: Path,
        *,
        extra_capacity: Mapping[str, str] | None = None,
        programs: Mapping[str, str] | None = None,
        images: Collection[str] | None = None,
        retry_seconds: float = 1.0,
    ) -> None:
        self._client = client
        self._directory = directory
        self._logs = logs
        self._capacity = {**scheduling.machine_capacity(), **(extra_capacity or {})}
        self._programs = programs or {"python": sys.executable, "python3": sys.executable}
        self._images = None if images is None else frozenset(images)
        self._retry_seconds = retry_seconds
        self._events = EventRecorder(client, "kubelet", NODE_NAME)
        self._scheduler_events = EventRecorder(client, "default-scheduler")
        self._pods = Cache(client, "/api/v1/pods", self._changed)
        self._look = asyncio.Event()
        self._workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = {}
        self._node: Object = {}

    async def run(self) -> None:
        """Works until cancelled; then every process it started is gone."""
        guardian = Guardian()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._logs.mkdir(parents=True, exist_ok=True)
            self._node = await self._register()
            kubelet = Kubelet(
                self._client,
                self._events,
                guardian,
                self._directory,
                self._logs,
                self._programs,
                self._images,
                self._retry_seconds,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pods.run())
                while True:
                    await self._look.wait()
                    self._look.clear()
                    self._attend(kubelet, group)
                    await self._schedule()
        finally:
            await asyncio.to_thread(guardian.close)

    def _changed(self, _: Object) -> None:
        self._look.set()

    async def _register(self) -> Object:
        node = node_manifest(self._capacity)
        try:
            node = await self._client.create(_NODES, node)
        except ApiError as e:
            if not e.conflict:
                raise
        path = f"{_NODES}/{NODE_NAME}/status"
        return await self._client.patch(path, {"status": node_manifest(self._capacity)["status"]})

    # Running ------------------------------------------------------------------------------------------------------

    def _attend(self, kubelet: Kubelet, group: asyncio.TaskGroup) -> None:
        """Starts workers for new pods of this node, tells the others the news, stops those of pods that are gone."""
        here = {pod["metadata"]["uid"]: pod for pod in self._pods if pod["spec"].get("nodeName") == NODE_NAME}
        for uid, pod in here.items():
            if uid in self._workers:
                self._workers[uid][0].update(pod)
            elif not _over(pod) or "deletionTimestamp" in pod["metadata"]:
                worker = PodWorker(kubelet, pod)
                self._workers[uid] = worker, group.create_task(_guarded(worker, pod))
        for uid in self._workers.keys() - here.keys():
            worker, task = self._workers.pop(uid)
            task.cancel()
            worker.forget_logs()

    # Scheduling ---------------------------------------------------------------------------------------------------

    async def _schedule(self) -> None:
        """Binds every waiting pod that fits, oldest first."""
        waiting = [pod for pod in self._pods if _waits_for_a_node(pod)]
        waiting.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"])))
        running = [pod for pod in self._pods if pod["spec"].get("nodeName") == NODE_NAME and not _over(pod)]
        for pod in waiting:
            why_not = scheduling.obstacle(pod, self._node, running)
            try:
                if why_not is None:
                    await self._bind(pod)
                    running.append(pod)
                else:
                    await self._refuse(pod, why_not)
            except ApiError as e:
                if not (e.not_found or e.conflict):
                    log.warning("scheduling of pod %s: %s; trying again", pod["metadata"]["name"], e)
                    asyncio.get_running_loop().call_later(self._retry_seconds, self._look.set)

    async def _bind(self, pod: Object) -> None:
        meta = pod["metadata"]
        change = {"metadata": {"uid": meta["uid"]}, "spec": {"nodeName": NODE_NAME}}
        bound = await self._client.patch(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", change)
        self._pods.note(bound)
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {NODE_NAME}"
        await self._scheduler_events.record(pod, "Normal", "Scheduled", text)

    async def _refuse(self, pod: Object, why: str) -> None:
        meta, status = pod["metadata"], pod.get("status") or {}
        old = {condition["type"]: condition for condition in status.get("conditions") or ()}
        if old.get("PodScheduled", {}).get("message") == why:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": why,
            "lastProbeTime": None,
            "lastTransitionTime": timestamp(utc_now()),
            "observedGeneration": meta.get("generation", 1),
        }
        conditions = [*(c for kind, c in old.items() if kind != "PodScheduled"), condition]
        change = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": {"conditions": conditions}}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        self._pods.note(await self._client.patch(path, change))
        await self._scheduler_events.record(pod, "Warning", "FailedScheduling", why)


def node_manifest(capacity: Mapping[str, str]) -> Object:
    """The Node object, ready."""
    now = timestamp(utc_now())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    system = platform.system().lower()
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "the node agent of local mode runs pods as processes",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    labels = {"kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": system, "kubernetes.io/arch": machine}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_NAME, "labels": labels},
        "status": {
            "capacity": dict(capacity),
            "allocatable": dict(capacity),
            "conditions": [ready],
            "nodeInfo": {"kubeletVersion": "local", "operatingSystem": system, "architecture": machine},
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE_NAME}],
        },
    }


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _waits_for_a_node(pod: Object) -> bool:
    spec = pod["spec"]
    ours = spec.get("schedulerName", "default-scheduler") == "default-scheduler"
    held = spec.get("nodeName") or spec.get("schedulingGates") or "deletionTimestamp" in pod["metadata"]
    return ours and not held and not _over(pod)


async def _guarded(worker: PodWorker, pod: Object) -> None:
    """A fault with one pod is told and leaves the others alone."""
    try:
        await worker.run()
    except Exception:
        log.exception("pod %s/%s", pod["metadata"]["namespace"], pod["metadata"]["name"])
