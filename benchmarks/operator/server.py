"""The API server and the kubemark as a process, told what to do by a line of JSON and answering with one.

    {"do": "submit", "prefix": "a", "count": 1000, "namespace": "tenant-a", "per_second": 0}

A command is a method of :class:`Commands`; its answer says what came of it.
"""

import asyncio
import base64
import gc
import json
import sys
import time
from typing import Any

from benchmarks.operator.kubemark import Kubemark, paced
from benchmarks.operator.recorded import FINETUNEJOBS, JOBS, NAMESPACE, Identity, record, until
from finetune_api import names
from finetune_local import operator_process
from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient
from finetune_operator.settings import Settings

_HISTORY = 200_000
_TENANTS = (NAMESPACE, "tenant-a", "tenant-b")


class Commands:
    """What can be asked for."""

    def __init__(self, server: ApiServer, client: ApiClient, operators: str) -> None:
        self._server, self._client, self._operators = server, client, operators
        self._mark: Kubemark | None = None

    @property
    def mark(self) -> Kubemark:
        """Once there is a record."""
        assert self._mark is not None
        return self._mark

    async def record(self) -> None:
        """See :func:`benchmarks.operator.recorded.record`; the operator must run."""
        self._mark = Kubemark(self._server, await record(self._server, self._client))

    async def submit(self, prefix: str, count: int, namespace: str, per_second: float = 0) -> float:
        """Apply FineTuneJobs; the answer is when the first one was (monotonic)."""
        begun = time.monotonic()
        async for name in paced(_named(prefix, count), per_second):
            self.mark.submit(name, namespace)
        return begun

    async def seed(self, prefix: str, count: int, namespace: str, stage: str) -> None:
        """FineTuneJobs in the middle of their lives, or at the end."""
        for number, name in enumerate(_named(prefix, count)):
            self.mark.seed(name, namespace, stage)
            if number % 50 == 0:
                await asyncio.sleep(0)

    async def finish(self, prefix: str, count: int, per_second: float) -> None:
        """Pods of that many jobs succeed."""
        async for name in paced(_named(prefix, count), per_second):
            self.mark.finish(name)

    async def lives(self, seconds: float | None, starts: bool = True) -> None:
        """How long pods run from now on, and whether they begin at all."""
        self.mark.lives, self.mark.starts = seconds, starts

    async def delete(self, prefix: str, count: int) -> None:
        """Delete FineTuneJobs."""
        for name in _named(prefix, count):
            self.mark.delete(name)

    async def wait(self, prefix: str, count: int, phase: str, seconds: float) -> float:
        """Until that many FineTuneJobs are in a phase; the answer is when (monotonic)."""
        wanted = set(_named(prefix, count))

        def there() -> bool:
            found = self._server.store.list(FINETUNEJOBS)
            phases = {raw["metadata"]["name"]: (raw.get("status") or {}).get("phase") for raw in found}
            return all(phases.get(name) == phase for name in wanted)

        await until(there, seconds, f"{count} FineTuneJobs {prefix}… are {phase}")
        return time.monotonic()

    async def wait_for_jobs(self, count: int, seconds: float) -> float:
        """Until that many Jobs exist; the answer is when (monotonic)."""
        await until(lambda: len(self._server.store.list(JOBS)) >= count, seconds, f"{count} Jobs")
        return time.monotonic()

    async def tokens(self, prefix: str, count: int) -> list[str]:
        """Tokens with which the pods of FineTuneJobs report."""
        return [await self._token(self.mark.identities[name]) for name in _named(prefix, count)]

    async def _token(self, of: Identity) -> str:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": f"{of.child}-0-abcde", "uid": of.pod_uid}
        path = f"/api/v1/namespaces/{of.namespace}/serviceaccounts/default/token"
        asked = {"spec": {"audiences": [names.MANAGER], "boundObjectRef": bound}}
        return str((await self._client.create(path, asked))["status"]["token"])

    async def authority(self) -> str:
        """The certificate authority of the reports endpoint, PEM."""
        path = f"/api/v1/namespaces/{operator_process.NAMESPACE}/secrets/{Settings().reports_secret}"
        return base64.b64decode((await self._client.get(path))["data"]["ca.crt"]).decode()

    async def example(self) -> dict[str, Any]:
        """A Job as the operator creates it, but nobody's: the same size, without an owner."""
        found = self._server.store.list(JOBS)[0]
        meta = {key: found["metadata"][key] for key in ("namespace", "labels", "annotations")}
        meta["labels"] = {"app": "floor"}
        spec = {key: value for key, value in found["spec"].items() if key not in ("selector", "suspend")}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": _without_uid(spec)}

    async def calls(self, since: int = 0) -> dict[str, Any]:
        """The operator's requests after the first ``since``: verb, resource/subresource, name, time, status."""
        found = self._server.requests
        fields = [
            [c.verb, f"{c.resource}/{c.subresource}".rstrip("/"), c.name, c.started, c.status]
            for c in found[since:]
            if c.user == self._operators
        ]
        return {"upto": len(found), "calls": fields}

    async def times(self) -> dict[str, dict[str, float]]:
        """When what happened to which FineTuneJob, monotonic."""
        return {"submitted": self.mark.submitted, "created": self.mark.created, "changed": self.mark.changed}

    async def cpu(self) -> float:
        """Processor time of this process, s."""
        return time.process_time()


def _without_uid(spec: dict[str, Any]) -> dict[str, Any]:
    """Without the labels that the API server gave to the template."""
    template = spec["template"]
    labels = {
        k: v for k, v in template["metadata"]["labels"].items() if "controller-uid" not in k and "job-name" not in k
    }
    return {**spec, "template": {**template, "metadata": {**template["metadata"], "labels": labels}}}


def _named(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:05}" for number in range(count)]


async def main() -> None:
    """Serve until standard input ends.

    Without Python's collector, which would stop the server for a second now and then to look through 15,000 objects.
    """
    gc.disable()
    server = ApiServer(history=_HISTORY)
    await server.start()
    async with ApiClient(server.url, server.admin_token, server.ca_pem) as client:
        token = await operator_process.install(client)
        for name in _TENANTS:
            await client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        config = server.kubeconfig(token=token, namespace=operator_process.NAMESPACE)
        user = f"system:serviceaccount:{operator_process.NAMESPACE}:{operator_process.ACCOUNT}"
        commands = Commands(server, client, user)
        _say({"kubeconfig": config, "url": server.url, "token": server.admin_token, "ca": server.ca_pem})
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            try:
                _say({"answer": await getattr(commands, asked.pop("do"))(**asked)})
            except Exception as e:
                _say({"error": f"{type(e).__name__}: {e}"})
    await server.stop()


def _say(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
