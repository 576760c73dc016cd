"""A control plane for tests: the embedded API server with the CRD, the Job controller, and a kubelet by script.

The operator reaches it as a user who may do what ``PERMISSIONS`` says and nothing else.
"""

import asyncio
import base64
import contextlib
import functools
import json
import os
import re
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api import crd, names
from finetune_local.apiserver import ApiServer, RequestRecord
from finetune_local.client import ApiClient, ApiError
from finetune_local.jobs.controller import JobController
from finetune_local.operator_process import free_port
from finetune_operator.connection import Connection
from finetune_operator.metrics import Metrics
from finetune_operator.observed import PodState
from finetune_operator.permissions import PERMISSIONS, Scope
from finetune_operator.runtime import Operator, utc_now
from finetune_operator.settings import PREFIX, Settings
from finetune_operator.times import format_time
from tests import builders as b

Raw = dict[str, Any]
Life = list[Raw] | dict[int, list[Raw]]
"""States that every pod of an attempt goes through; by index where its pods differ."""
OPERATOR = "operator-under-test"
DEADLINE = 45.0
_BINDS: dict[str, Any] = dict.fromkeys(("health_bind", "metrics_bind", "reports_bind"), "127.0.0.1")
_NOT_COUNTED = ("events", "leases", "tokenreviews")


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


async def until(true: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Wait for something to become true; the answer is what it is then."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := true()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or true}")
        await asyncio.sleep(0.01)
    return found


class Plane:
    """See the module. ``script`` says how the pods of a FineTuneJob live, by its name: one life for each attempt,
    the last for all further ones."""

    def __init__(self, server: ApiServer, client: ApiClient, folder: Path) -> None:
        self.server = server
        self.client = client
        self.folder = folder
        self.script: dict[str, list[Life]] = {}
        self.kubeconfig = folder / "kubeconfig"
        config = server.kubeconfig(server.token_for(OPERATOR))
        self.kubeconfig.write_text(json.dumps(config))
        self._played: set[str] = set()
        self._threads: list[_Thread] = []

    # the operator

    def settings(self, **more: Any) -> Settings:
        """Settings of an operator here, on free ports."""
        chosen = _BINDS | {"health_port": 0, "metrics_port": 0, "identity": "one", "retry_backoff": 0.05}
        return Settings(**(chosen | more))

    def environment(self, **settings: Any) -> dict[str, str]:
        """The same for a process."""
        chosen = _BINDS | {"health_port": free_port(), "metrics_port": free_port(), "retry_backoff": 0.05} | settings
        ours = {f"{PREFIX}{name.upper()}": str(value) for name, value in chosen.items()}
        return os.environ | ours

    @contextlib.asynccontextmanager
    async def operator(self, **settings: Any) -> AsyncIterator[Operator]:
        """The operator in a thread of this process, stopped at the end without a chance to finish what it does."""
        running = _Thread(self.settings(**settings))
        self._threads.append(running)
        running.start()
        try:
            yield (await until(lambda: running.operator or running.raised))
        finally:
            self._threads.remove(running)
            running.cancel()
            await asyncio.to_thread(running.join)
        if running.raised:
            raise running.raised

    def lives(self, operator: Operator) -> bool:
        """Whether an operator has not ended by itself."""
        return next(thread for thread in self._threads if thread.operator is operator).is_alive()

    @contextlib.contextmanager
    def paused(self, operator: Operator) -> Iterator[None]:
        """The operator does nothing at all in the meantime, like a process that was stopped."""
        go_on = threading.Event()
        next(thread for thread in self._threads if thread.operator is operator).block(go_on)
        try:
            yield
        finally:
            go_on.set()

    @contextlib.asynccontextmanager
    async def process(self, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """The operator as a process of its own, killed at the end."""
        log = (self.folder / "operator.log").open("ab")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "finetune_operator", env=self.environment(**settings), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            log.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # what it does

    def calls(self, since: int = 0) -> list[RequestRecord]:
        """The operator's requests, without watches and those about the Lease."""
        return [call for call in self.server.requests[since:] if call.user == OPERATOR and call.resource != "leases"]

    def writes(self, since: int = 0) -> list[str]:
        """The operator's writes that count, as ``<verb> <resource>``."""
        return [
            f"{call.verb} {call.resource}{'/' if call.subresource else ''}{call.subresource}"
            for call in self.server.requests[since:]
            if call.user == OPERATOR and call.writes and call.resource not in _NOT_COUNTED
        ]

    # objects

    def objects(self, group: str, plural: str) -> list[Raw]:
        """All objects of a resource, as they are stored."""
        return list(self.server.store.list((group, plural)))

    def finetunejob(self, name: str = "support-bot") -> Raw:
        """A FineTuneJob as it is stored; empty where it is not."""
        found = self.objects(names.GROUP, names.PLURAL)
        return next((raw for raw in found if raw["metadata"]["name"] == name), {})

    def status(self, name: str = "support-bot") -> Raw:
        """Its status."""
        return self.finetunejob(name).get("status") or {}

    def jobs(self) -> list[Raw]:
        """All Jobs."""
        return self.objects("batch", "jobs")

    def pods(self) -> list[Raw]:
        """All pods."""
        return self.objects("", "pods")

    def events(self, name: str = "support-bot") -> list[str]:
        """Reasons of the Events of a FineTuneJob, in the order in which they were made."""
        found = [event for event in self.objects("", "events") if event["involvedObject"]["name"] == name]
        return [e["reason"] for e in sorted(found, key=lambda e: int(e["metadata"]["resourceVersion"]))]

    async def apply(self, manifest: Raw | None = None, **more: Any) -> Raw:
        """Create a FineTuneJob."""
        manifest = manifest or b.manifest(**more)
        path = f"/apis/{names.API_VERSION}/namespaces/{manifest['metadata']['namespace']}/{names.PLURAL}"
        return await self.client.create(path, manifest)

    async def change(self, name: str = "support-bot", **fields: Any) -> None:
        """Change fields of a FineTuneJob's spec."""
        path = f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}/{name}"
        await self.client.patch(path, {"spec": fields})

    async def delete(self, name: str = "support-bot") -> None:
        """Delete a FineTuneJob."""
        await self.client.delete(f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}/{name}")

    async def delete_job(self, name: str) -> None:
        """Delete a Job by hand, and its pods with it."""
        path = f"/apis/batch/v1/namespaces/{b.NAMESPACE}/jobs/{name}"
        await self.client.delete(path, {"propagationPolicy": "Background"})

    async def phase(self, phase: str, name: str = "support-bot", seconds: float = DEADLINE) -> Raw:
        """Wait for a phase; the answer is the status."""
        try:
            await until(lambda: self.status(name).get("phase") == phase, f"{name} is {phase}", seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}; it is {json.dumps(self.status(name), indent=1)}") from None
        return self.status(name)

    # reports

    def authority(self) -> str:
        """The certificate authority of the reports endpoint, PEM."""
        secret = self.objects("", "secrets")[0]
        return base64.b64decode(secret["data"]["ca.crt"]).decode()

    async def token(self, pod: Raw, audience: str = names.MANAGER) -> str:
        """A token of a pod's ServiceAccount, bound to the pod."""
        meta = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        spec = {"audiences": [audience], "boundObjectRef": bound}
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/default/token"
        return str((await self.client.create(path, {"spec": spec}))["status"]["token"])

    async def report(self, port: int, token: str, body: Raw | bytes, trusted: str = "") -> tuple[int, str]:
        """POST a report as a trainer does, which trusts an authority (the Secret's, where none is given); the answer is
        the HTTP status and the message."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        trust = ssl.create_default_context(cadata=trusted or self.authority())
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
            session.post(
                f"https://127.0.0.1:{port}/v1/reports", data=data, headers={"Authorization": f"Bearer {token}"}
            ) as answer,
        ):
            return answer.status, (await answer.json())["message"]

    # the kubelet

    async def kubelet(self) -> None:
        """Play the script for every pod, and end those that are deleted; a pod without a script stays Pending."""
        while True:
            for pod in self.pods():
                if "deletionTimestamp" in pod["metadata"]:
                    if not PodState.of(pod).ended:
                        marks = (pod.get("status") or {}).get("conditions") or ()
                        await self.play(pod, b.ended_pod(143, conditions=tuple(marks)))
                elif pod["metadata"]["uid"] not in self._played:
                    await self._play(pod)
            await asyncio.sleep(0.01)

    async def _play(self, pod: Raw) -> None:
        lives = self.script.get(pod["metadata"]["annotations"].get(names.ANNOTATION_JOB, ""))
        if lives:
            self._played.add(pod["metadata"]["uid"])
            for state in _states(lives, PodState.of(pod)):
                await self.play(pod, state)

    async def play(self, pod: Raw, state: Raw) -> None:
        """Give a pod the status of a built one, as of now."""
        meta, now = pod["metadata"], format_time(utc_now())
        state = json.loads(re.sub(r'("(?:started|finished)At": )"[^"]*"', rf'\1"{now}"', json.dumps(state)))
        with contextlib.suppress(ApiError):  # it is gone
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
            await self.client.patch(path, {"status": state["status"]})


class _Thread(threading.Thread):
    """One operator with an event loop of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[None] | None = None
        self.operator: Operator | None = None
        self.raised: BaseException | None = None

    def run(self) -> None:
        with self._runner:
            try:
                self._runner.run(self._main())
            except asyncio.CancelledError:
                pass
            except BaseException as e:
                self.raised = e

    def block(self, until: threading.Event) -> None:
        """Stand still until something is set."""
        self._runner.get_loop().call_soon_threadsafe(until.wait, DEADLINE)

    def cancel(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._runner.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        metrics = Metrics()
        connection = await Connection.connect(self._settings, metrics.trace())
        self.operator = Operator(self._settings, connection, metrics)
        try:
            await self.operator.run()
        finally:
            await connection.close()


def _states(lives: list[Life], pod: PodState) -> list[Raw]:
    """What a pod goes through, by its attempt and index alone: a pod that was never seen shifts nothing."""
    life = lives[min(pod.attempt or 0, len(lives) - 1)]
    return life[pod.index or 0] if isinstance(life, dict) else life


SUCCEEDS = [b.running_pod(), b.ended_pod(0, b.result())]
RUNS = [b.running_pod()]


@contextlib.asynccontextmanager
async def plane(folder: Path, *, with_crd: bool = True) -> AsyncIterator[Plane]:
    """A control plane that is up."""
    server = ApiServer()
    await server.start()
    async with ApiClient(server.url, server.admin_token, server.ca_pem) as client:
        found = Plane(server, client, folder)
        await client.create("/api/v1/namespaces", {"metadata": {"name": b.NAMESPACE}})
        await client.create("/api/v1/namespaces/default/secrets", {"metadata": {"name": "finetune-operator-reports"}})
        for path, manifest in rbac():
            await client.create(path, manifest)
        if with_crd:
            await add_crd(client)
        controller = JobController(client, backoff_seconds=0.05)
        tasks = [asyncio.create_task(controller.run()), asyncio.create_task(found.kubelet())]
        try:
            with _environment("KUBECONFIG", str(found.kubeconfig)):
                yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await server.stop()


async def add_crd(client: ApiClient, *definitions: Raw) -> None:
    """Install the CustomResourceDefinitions."""
    for definition in definitions or crd.definitions():
        await client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)


def rbac() -> Iterable[tuple[str, Raw]]:
    """(path, manifest) of the roles that ``PERMISSIONS`` amounts to."""
    base, settings = "/apis/rbac.authorization.k8s.io/v1", Settings()
    wide = [p for p in PERMISSIONS if p.scope is not Scope.OWN]
    own = [p for p in PERMISSIONS if p.scope is Scope.OWN]
    for kind, path, permissions in (
        ("ClusterRole", f"{base}/clusterroles", wide),
        ("Role", f"{base}/namespaces/default/roles", own),
    ):
        rules = [
            {"apiGroups": [p.group], "resources": [p.full_resource], "verbs": list(p.verbs)}
            | ({"resourceNames": [getattr(settings, p.named_by)]} if p.named_by else {})
            for p in permissions
        ]
        yield path, {"metadata": {"name": OPERATOR}, "rules": rules}
        binding = {
            "metadata": {"name": OPERATOR},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": OPERATOR},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
        }
        yield path.replace("roles", "rolebindings"), binding


@contextlib.contextmanager
def _environment(name: str, value: str):
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
