"""A cluster around the operator that costs next to nothing: the Job controller and the nodes are a few dicts.

Runs in the API server's process and writes into its store, past HTTP, checks and field managers. What the operator
reads and writes goes through all of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

from benchmarks.operator.recorded import FINETUNEJOBS, JOBS, PODS, Identity, Object, Record
from finetune_api import names
from finetune_local.apiserver import ApiServer
from finetune_local.apiserver.store import Change, clone


class Kubemark:
    """Gives every Job of the operator a pod that runs, and ends it after ``lives`` seconds, or when told to (None)."""

    def __init__(self, server: ApiServer, kept: Record) -> None:
        self._server, self._kept = server, kept
        self.identities: dict[str, Identity] = {}
        self.submitted: dict[str, float] = {}
        """When a FineTuneJob came to be (monotonic), by name."""
        self.created: dict[str, float] = {}
        """When its Job came to be, by the name of the FineTuneJob."""
        self.changed: dict[str, float] = {}
        """When what the operator must see last happened to a FineTuneJob's pod, by name."""
        self.lives: float | None = None
        self.starts = True
        server.store.listen(self._heard)

    # what a user does

    def submit(self, name: str, namespace: str) -> None:
        """Apply a FineTuneJob."""
        of = self.identities[name] = Identity(name, namespace)
        self.submitted[name] = time.monotonic()
        self._server.store.put(FINETUNEJOBS, self._kept.new(of))

    def seed(self, name: str, namespace: str, stage: str) -> None:
        """A FineTuneJob, its Job and its pod, as they are at a stage."""
        of = self.identities[name] = Identity(name, namespace)
        for resource in (JOBS, PODS, FINETUNEJOBS):
            self._server.store.put(resource, self._kept.copy(stage, resource, of))

    def delete(self, name: str) -> None:
        """Delete a FineTuneJob with all that belongs to it."""
        of = self.identities.pop(name)
        self.submitted.pop(name, None)
        self.created.pop(name, None)
        self.changed.pop(name, None)
        for resource, child in ((FINETUNEJOBS, name), (PODS, f"{of.child}-0-abcde"), (JOBS, of.child)):
            if found := self._server.store.get(resource, of.namespace, child):
                self._server.store.remove(resource, found)

    # what a cluster does

    def _heard(self, resource: tuple[str, str], change: Change) -> None:
        meta = change.object["metadata"]
        if resource != JOBS or change.type != "ADDED":
            return
        name = (meta.get("annotations") or {}).get(names.ANNOTATION_JOB, "")
        of = self.identities.get(name)
        if of and meta["uid"] != of.job_uid:  # one that the operator created, not a seeded one
            self.created[name] = time.monotonic()
            self.identities[name] = Identity(name, of.namespace, of.uid, meta["uid"], of.pod_uid)
            if self.starts:
                asyncio.get_running_loop().call_soon(self.run, name)

    def run(self, name: str) -> None:
        """The pod runs."""
        if of := self.identities.get(name):
            self._become(name, of, "Running")
            if self.lives is not None:
                asyncio.get_running_loop().call_later(self.lives, self.finish, name)

    def finish(self, name: str) -> None:
        """The pod succeeds, and the Job is complete."""
        if of := self.identities.get(name):
            self._become(name, of, "Succeeded")

    def _become(self, name: str, of: Identity, stage: str) -> None:
        """Put the stage's pod, and the status of its Job."""
        job = self._server.store.get(JOBS, of.namespace, of.child)
        if job is None:
            return
        self.changed[name] = time.monotonic()
        self._server.store.put(PODS, self._kept.copy(stage, PODS, of))
        after: Object = clone(job)
        after["status"] = self._kept.copy(stage, JOBS, of).get("status", {})
        self._server.store.put(JOBS, after)


async def paced(items: Iterable[str], per_second: float) -> AsyncIterator[str]:
    """The items, each at its time; without a pace (0) all at once."""
    begun = time.monotonic()
    for number, item in enumerate(items):
        if per_second and (wait := begun + number / per_second - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        yield item
