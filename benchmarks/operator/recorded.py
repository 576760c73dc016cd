"""One FineTuneJob's objects, recorded as they go through a real life here, and copied for thousands of others.

The API server's checks of what is written, its defaults and its field managers cost far more than reading: objects
that only have to be there are made from a record, by putting other names and UIDs into its JSON.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from finetune_api import names
from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient
from finetune_local.jobs.controller import JobController

Object = dict[str, Any]
FINETUNEJOBS, JOBS, PODS = (names.GROUP, names.PLURAL), ("batch", "jobs"), ("", "pods")
NAME, NAMESPACE = "zzrecorded", "zzspace"
STAGES = ("Starting", "Running", "Succeeded")
_MANIFEST = {
    "apiVersion": names.API_VERSION,
    "kind": names.KIND,
    "metadata": {"name": NAME, "namespace": NAMESPACE},
    "spec": {
        "model": {"uri": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
        "data": {"train": [{"uri": f"s3://team-a/{NAME}/train.jsonl"}], "validationFraction": 0.1},
        "output": {"uri": "s3://team-a/adapters/"},
        "resources": {"gpusPerNode": 1},
        "preflight": "Never",
    },
}
_RESULT = {
    "contract": 1,
    "outcome": "Succeeded",
    "metrics": [{"name": "eval_loss", "value": 1.21, "baseline": 1.834}],
    "result": {
        "adapterURI": f"s3://team-a/adapters/{NAME}/",
        "digest": f"sha256:{'0' * 64}",
        "baseModel": "hf://Qwen/Qwen2.5-0.5B-Instruct",
    },
    "usage": {"trainedTokens": 12345},
}
_TIMES = {"startedAt": "2026-11-21T10:00:05Z"}
_RUNNING = {"phase": "Running", "state": {"running": _TIMES}}
_ENDED = {
    "phase": "Succeeded",
    "state": {
        "terminated": _TIMES
        | {
            "exitCode": 0,
            "reason": "Completed",
            "message": json.dumps(_RESULT),
            "finishedAt": "2026-11-21T10:01:05Z",
        }
    },
}


@dataclass(frozen=True)
class Identity:
    """The names and UIDs of one FineTuneJob, its Job and its pod."""

    name: str
    namespace: str
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    job_uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    pod_uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def child(self) -> str:
        """Name of the first attempt's Job."""
        return names.child_name(self.name, self.uid, 0)


class Record:
    """The objects at each stage, by resource."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, tuple[str, str]], str] = {}
        self._known: list[str] = []
        self.applied = ""

    def take(self, stage: str, objects: dict[tuple[str, str], Object]) -> None:
        """Keep the objects of a stage."""
        for resource, obj in objects.items():
            self._texts[stage, resource] = json.dumps(obj)

    def know(self, job: Object, child: Object, pod: Object) -> None:
        """What of the texts are names and UIDs: pod, Job, FineTuneJob; those that hold others come first."""
        metas = [obj["metadata"] for obj in (pod, child, job)]
        uids = [meta["uid"] for meta in metas]
        self._known = [*(meta["name"] for meta in metas), *uids, names.uid_hash(uids[-1]), NAMESPACE]

    def copy(self, stage: str, resource: tuple[str, str], of: Identity) -> Object:
        """An object of a stage for another FineTuneJob."""
        return _renamed(self._texts[stage, resource], self._known, of)

    def new(self, of: Identity) -> Object:
        """A FineTuneJob as it is just after it was applied."""
        return _renamed(self.applied, self._known, of)


def _renamed(text: str, known: list[str], of: Identity) -> Object:
    uids = (of.pod_uid, of.job_uid, of.uid)
    stands = [f"{of.child}-0-abcde", of.child, of.name, *uids, names.uid_hash(of.uid), of.namespace]
    for before, after in zip(known, stands, strict=True):
        text = text.replace(before, after)
    found: Object = json.loads(text)
    return found


async def until(true: Callable[[], Any], seconds: float = 60, what: str = "the next step of a job") -> Any:
    """Wait for something to become true; the answer is what it is then.

    Raises:
        TimeoutError: it took too long.
    """
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.02)
    return found


async def record(server: ApiServer, client: ApiClient) -> Record:
    """Apply a FineTuneJob, let a real Job controller and the running operator see it through, and keep all stages."""
    kept = Record()
    controller = asyncio.create_task(JobController(client).run())
    try:
        path = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
        kept.applied = json.dumps(await client.create(path, _MANIFEST))
        for stage, state in zip(STAGES, (None, _RUNNING, _ENDED), strict=True):
            pod = await _there(server, PODS)
            if state:
                await _play(client, pod, state)
            await until(lambda stage=stage: _phase(server) == stage)
            objects = {resource: await _there(server, resource) for resource in (FINETUNEJOBS, JOBS, PODS)}
            kept.take(stage, objects)
        kept.know(objects[FINETUNEJOBS], objects[JOBS], objects[PODS])
        await client.delete(f"{path}/{NAME}")
        await until(lambda: not (_one(server, PODS) or _one(server, JOBS)))
    finally:
        controller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await controller
    return kept


def _one(server: ApiServer, resource: tuple[str, str]) -> Object | None:
    return next(iter(server.store.list(resource)), None)


def _phase(server: ApiServer) -> str:
    return ((_one(server, FINETUNEJOBS) or {}).get("status") or {}).get("phase", "")


async def _there(server: ApiServer, resource: tuple[str, str]) -> Object:
    return await until(lambda: _one(server, resource))


async def _play(client: ApiClient, pod: Object, state: Object) -> None:
    meta = pod["metadata"]
    container = {"name": names.TRAINER_CONTAINER, "image": "trainer", "imageID": "", "restartCount": 0, "ready": True}
    status = {"phase": state["phase"], "containerStatuses": [container | {"state": state["state"]}]}
    await client.patch(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status", {"status": status})
