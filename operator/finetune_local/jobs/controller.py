"""Carries out what :func:`finetune_local.jobs.sync.sync` decides, over the Kubernetes API."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from finetune_local.client import ApiClient, ApiError, Cache, key_of
from finetune_local.clock import parse, utc_now
from finetune_local.events import EventRecorder
from finetune_local.jobs import conditions
from finetune_local.jobs import pods as p
from finetune_local.jobs.backoff import Backoff
from finetune_local.jobs.sync import Plan, sync
from finetune_local.jobs.unsupported import unsupported_field
from finetune_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]

BACKOFF_SECONDS = 0.5
"""Wait before the first replacement of a failed pod. A cluster takes 10."""


class JobController:
    """Makes, counts and deletes the pods of ``batch/v1`` Jobs.

    Pods that Jobs without a controller leave behind lose their finalizer, so that they can be deleted.

    Args:
        client: an administrator's client of the API server.
        backoff_seconds: wait before the first replacement of a failed pod; doubles with each.
    """

    def __init__(self, client: ApiClient, backoff_seconds: float = BACKOFF_SECONDS) -> None:
        self._client = client
        self._backoff_seconds = backoff_seconds
        self._events = EventRecorder(client, "job-controller")
        self._jobs = Cache(client, "/apis/batch/v1/jobs", self._job_changed)
        self._pods = Cache(client, "/api/v1/pods", self._pod_changed)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._backoffs: defaultdict[Key, Backoff] = defaultdict(Backoff)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._jobs.run())
            group.create_task(self._pods.run())
            await self._jobs.synced.wait()
            await self._pods.synced.wait()
            for pod in self._pods:
                self._pod_changed(pod)
            self._queue.resume()
            await self._queue.work(self._sync, _failed)

    def _job_changed(self, job: Object) -> None:
        self._queue.add(key_of(job))

    def _pod_changed(self, pod: Object) -> None:
        if (owner := p.owner(pod)) is not None:
            self._queue.add((pod["metadata"]["namespace"], owner["name"]))

    async def _sync(self, key: Key) -> float | None:
        job = self._jobs.get(key)
        await self._free_orphans(key, job)
        if job is None:
            self._backoffs.pop(key, None)
            return None
        if (refused := unsupported_field(job)) is not None:
            await self._events.record(job, "Warning", "Unsupported", refused)
            return None
        if (ended := conditions.finished(job)) is not None:
            return await self._expire(job, ended)
        return await self._step(key, job)

    async def _step(self, key: Key, job: Object) -> float | None:
        plan = self._plan(key, job)
        refused = await self._create(job, plan.create)
        if refused:
            plan = self._plan(key, job, may_create=False)
        for pod in plan.discard:
            await self._release(pod)
        await self._delete(job, [*plan.discard, *plan.delete])
        await self._write(job, plan)
        self._backoffs[key] = plan.backoff
        for event in plan.events:
            await self._events.record(job, event.type, event.reason, event.message)
        if refused:
            raise refused
        return plan.requeue_after

    def _plan(self, key: Key, job: Object, may_create: bool = True) -> Plan:
        pods = self._pods_of(job)
        return sync(job, pods, self._backoffs[key], utc_now(), self._backoff_seconds, may_create)

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self._pods if (owner := p.owner(pod)) is not None and owner["uid"] == uid]

    async def _create(self, job: Object, manifests: Iterable[Object]) -> ApiError | None:
        for manifest in manifests:
            path = f"/api/v1/namespaces/{job['metadata']['namespace']}/pods"
            try:
                pod = await self._client.create(path, manifest)
            except ApiError as e:
                await self._events.record(job, "Warning", "FailedCreate", f"Error creating: {e.message}")
                return e
            self._pods.note(pod)
            await self._events.record(job, "Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
        return None

    async def _delete(self, job: Object, pods: Iterable[Object]) -> None:
        for pod in pods:
            try:
                await self._client.delete(_path(pod), {"preconditions": {"uid": pod["metadata"]["uid"]}})
            except ApiError as e:
                if not (e.not_found or e.conflict):
                    raise
            await self._events.record(job, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

    async def _write(self, job: Object, plan: Plan) -> None:
        if plan.status is not None:
            job = await self._write_status(job, plan.status)
        for pod in plan.release:
            await self._release(pod)
        if plan.settled is not None:
            await self._write_status(job, plan.settled)

    async def _write_status(self, job: Object, status: Object) -> Object:
        meta = job["metadata"]
        path = f"/apis/batch/v1/namespaces/{meta['namespace']}/jobs/{meta['name']}/status"
        written = await self._client.replace(path, {**job, "status": status})
        self._jobs.note(written)
        return written

    async def _release(self, pod: Object) -> None:
        """Takes the finalizer off a pod, whatever else changed on it meanwhile."""
        try:
            while p.is_held(pod):
                meta = pod["metadata"]
                rest = [name for name in meta["finalizers"] if name != p.FINALIZER]
                change = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": rest}
                try:
                    pod = await self._client.patch(_path(pod), {"metadata": change})
                    self._pods.note(pod)
                except ApiError as e:
                    if not e.conflict:
                        raise
                    pod = await self._same(pod)
        except ApiError as e:
            if not e.not_found:
                raise

    async def _same(self, pod: Object) -> Object:
        """The pod as it is now.

        Raises:
            ApiError: not found, also where another pod has its name by now.
        """
        now = await self._client.get(_path(pod))
        if now["metadata"]["uid"] != pod["metadata"]["uid"]:
            raise ApiError(404, "NotFound", f"pod {pod['metadata']['name']} is gone")
        return now

    async def _free_orphans(self, key: Key, job: Object | None) -> None:
        uid = job["metadata"]["uid"] if job else None
        for pod in self._pods:
            owner = p.owner(pod)
            if owner is None or (pod["metadata"]["namespace"], owner["name"]) != key:
                continue
            if owner["uid"] != uid and p.is_held(pod):
                await self._release(pod)

    async def _expire(self, job: Object, ended: Object) -> float | None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or "deletionTimestamp" in job["metadata"]:
            return None
        left = ttl - (utc_now() - parse(ended["lastTransitionTime"])).total_seconds()
        if left > 0:
            return float(left)
        meta = job["metadata"]
        options = {"propagationPolicy": "Background", "preconditions": {"uid": meta["uid"]}}
        await self._client.delete(f"/apis/batch/v1/namespaces/{meta['namespace']}/jobs/{meta['name']}", options)
        return None


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _failed(key: Key, error: Exception) -> None:
    expected = isinstance(error, ApiError) and (error.conflict or error.status == 403)
    log.log(logging.DEBUG if expected else logging.WARNING, "Job %s/%s: %s", *key, error)
