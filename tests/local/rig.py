"""A node without an operator: API server, Job controller and node agent in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient, ApiError
from finetune_local.jobs.controller import JobController
from finetune_local.node.agent import NodeAgent

Object = dict[str, Any]

PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
EVENTS = "/api/v1/namespaces/default/events"


@dataclass
class Rig:
    """What a test holds in hand."""

    client: ApiClient
    server: ApiServer
    directory: Path

    async def until(self, path: str, holds: Callable[[Object], Any], seconds: float = 20.0) -> Object:
        """The object at a path once something holds of it; watched, not polled.

        Raises:
            TimeoutError: it never did; the message shows the object as it was last.
        """
        collection, _, name = path.rpartition("/")
        last: Object = {}
        try:
            async with asyncio.timeout(seconds):
                last = await self.client.get(path)
                while not holds(last):
                    selector = f"metadata.name={name}"
                    version = last["metadata"]["resourceVersion"]
                    async for _, last in self.client.watch(collection, version, fieldSelector=selector):
                        if last["kind"] != "Status" and holds(last):
                            break
        except TimeoutError:
            raise TimeoutError(f"it never held of {last}") from None
        return last

    async def until_gone(self, path: str, seconds: float = 20.0) -> None:
        """Returns once the object at a path is deleted."""
        collection, _, name = path.rpartition("/")
        async with asyncio.timeout(seconds):
            try:
                version = (await self.client.get(path))["metadata"]["resourceVersion"]
            except ApiError:
                return
            async for kind, _ in self.client.watch(collection, version, fieldSelector=f"metadata.name={name}"):
                if kind == "DELETED":
                    return

    async def pod(self, *command: str, name: str = "p", **spec: Any) -> str:
        """Creates a pod of one container; keyword arguments go to the container, but for these of the pod. Its path."""
        of_pod = {"volumes", "terminationGracePeriodSeconds", "nodeSelector", "restartPolicy", "initContainers"}
        container = {"name": "main", "image": "any:1", "command": list(command)}
        container |= {key: value for key, value in spec.items() if key not in of_pod}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": {"note": "hello"}, "labels": {"app": "x"}},
            "spec": {"restartPolicy": "Never", "containers": [container]}
            | {key: value for key, value in spec.items() if key in of_pod},
        }
        await self.client.create(PODS, body)
        return f"{PODS}/{name}"

    async def finished(self, path: str) -> Object:
        """How the first container of a pod ended: ``state.terminated``."""
        pod = await self.until(path, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"))
        return pod["status"]["containerStatuses"][0]["state"]["terminated"]

    async def reasons(self, name: str) -> list[str]:
        """The reasons of all Events about an object."""
        events = await self.client.get(EVENTS, fieldSelector=f"involvedObject.name={name}")
        return [event["reason"] for event in events["items"]]

    def log(self, pod: Object, container: str = "main") -> str:
        """A container's log."""
        return (self.directory / "logs" / pod["metadata"]["uid"] / f"{container}.log").read_text()


@contextlib.asynccontextmanager
async def running(directory: Path, **node: Any) -> AsyncIterator[Rig]:
    """A cluster of one node; keyword arguments go to the NodeAgent."""
    server = ApiServer(logs_dir=directory / "logs")
    await server.start()
    node = {"retry_seconds": 0.05, **node}
    async with ApiClient(server.url, server.admin_token, server.ca_pem) as client:
        agent = NodeAgent(client, directory / "pods", directory / "logs", **node)
        parts = [asyncio.create_task(part.run()) for part in (JobController(client, backoff_seconds=0.05), agent)]
        try:
            yield Rig(client, server, directory)
        finally:
            for part in parts:
                part.cancel()
            outcomes = await asyncio.gather(*parts, return_exceptions=True)
            await server.stop()
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


async def eventually(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    """Returns once something outside of the API server holds.

    Raises:
        TimeoutError: it never did.
    """
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)
