"""One pod on this node, from its binding to its end."""

import asyncio
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_local.client import ApiClient, ApiError
from finetune_local.clock import parse, utc_now
from finetune_local.events import EventRecorder
from finetune_local.node import addresses, volumes
from finetune_local.node import status as st
from finetune_local.node.addresses import Reference
from finetune_local.node.container import invocation, termination_message
from finetune_local.node.environment import ConfigError, references
from finetune_local.node.mounts import PodDirectory
from finetune_local.node.process import ContainerProcess, Guardian, StartFailure
from finetune_local.node.unsupported import unsupported_field

log = logging.getLogger(__name__)

Object = dict[str, Any]

_TOKEN_SHARE = 0.8
"""Share of a token's life after which it is renewed."""


@dataclass(frozen=True)
class Kubelet:
    """What all pods of the node share."""

    client: ApiClient
    events: EventRecorder
    guardian: Guardian
    pods: Path
    """Directory under which each pod has its own."""
    logs: Path
    """Directory of the containers' logs: ``<pod uid>/<container>.log``."""
    programs: Mapping[str, str]
    """Names that stand for a file of this machine, such as ``python``."""
    images: frozenset[str] | None
    """The images that exist; None: all do."""
    retry_seconds: float
    """Wait before a missing Secret or image is looked for again."""


class PodWorker:
    """Runs a pod that is bound to this node, and writes its status."""

    def __init__(self, kubelet: Kubelet, pod: Object) -> None:
        self._kubelet = kubelet
        self._pod = pod
        self._path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        self._directory = PodDirectory(kubelet.pods / pod["metadata"]["uid"])
        self._logs = kubelet.logs / pod["metadata"]["uid"]
        self._containers: list[Object] = pod["spec"]["containers"]
        self._states: dict[str, st.State] = {c["name"]: st.CREATING for c in self._containers}
        self._stop = asyncio.Event()
        self._writing = asyncio.Lock()

    def update(self, pod: Object) -> None:
        """Takes over what the API server says of the pod; a deletion begins to end it."""
        self._pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._stop.set()

    async def run(self) -> None:
        """Until the containers ended and, of a deleted pod, until it may go from the API server."""
        self.update(self._pod)
        try:
            if "startTime" in (self._pod.get("status") or {}):
                await self._set(dict.fromkeys(self._states, st.lost(utc_now())))
            else:
                await self._live()
            await self._stop.wait()
            await self._remove()
        finally:
            shutil.rmtree(self._directory.root, ignore_errors=True)

    def forget_logs(self) -> None:
        """Deletes the logs, once the pod is gone."""
        shutil.rmtree(self._logs, ignore_errors=True)

    # Life ---------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        await self._set({})
        self._directory.root.mkdir(parents=True, mode=0o700)
        self._logs.mkdir(parents=True, exist_ok=True)
        if await self._mount():
            renewal = asyncio.create_task(self._renew_tokens())
            try:
                async with asyncio.TaskGroup() as group:
                    for container in self._containers:
                        group.create_task(self._run(container))
            finally:
                renewal.cancel()
        never_ran = {name: st.lost(utc_now()) for name, state in self._states.items() if "terminated" not in state}
        if never_ran:
            await self._set(never_ran)
        shutil.rmtree(self._directory.root, ignore_errors=True)

    async def _run(self, container: Object) -> None:
        name = container["name"]
        log_file = self._logs / f"{name}.log"
        log_file.touch()
        try:
            if not await self._pull(container):
                return
            process = await self._start(container, log_file)
        except StartFailure as e:
            await self._tell("Warning", "Failed", f"Error: {e}", name)
            await self._set({name: st.terminated(128, "StartError", utc_now(), message=str(e))})
            return
        if process is None:
            return
        started = utc_now()
        await self._tell("Normal", "Started", f"Started container {name}", name)
        await self._set({name: st.running(started)})
        code = await self._wait(process, name)
        await self._set({name: self._ended(container, code, process.out_of_memory, started)})

    async def _start(self, container: Object, log_file: Path) -> ContainerProcess | None:
        """The running container; None if the pod is deleted before its configuration is complete."""
        name = container["name"]
        while not self._stop.is_set():
            try:
                refused = unsupported_field(self._pod)
                if refused:
                    raise ConfigError(refused)
                found = await self._fetch([*references(container), *addresses.references(self._pod)])
                how = invocation(container, self._pod, found, self._directory)
            except ConfigError as e:
                await self._tell("Warning", "Failed", f"Error: {e}", name)
                await self._set({name: st.waiting("CreateContainerConfigError", str(e))})
                await self._pause()
                continue
            await self._tell("Normal", "Created", f"Created container: {name}", name)
            return await ContainerProcess.start(
                how.command,
                how.environment,
                how.directory,
                log_file,
                self._kubelet.guardian,
                self._kubelet.programs,
                how.memory_limit,
            )
        return None

    async def _wait(self, process: ContainerProcess, name: str) -> int:
        """The exit code. Once the pod is deleted: SIGTERM, the grace period, SIGKILL."""
        ending = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((ending, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                process.terminate()
                await self._tell("Normal", "Killing", f"Stopping container {name}", name)
                await asyncio.wait((ending,), timeout=self._pod["metadata"].get("deletionGracePeriodSeconds", 0))
                process.kill()
            return await ending
        finally:
            stopping.cancel()
            ending.cancel()
            process.kill()

    def _ended(self, container: Object, code: int, out_of_memory: bool, started: datetime) -> st.State:
        reason = "OOMKilled" if out_of_memory else "Error" if code else "Completed"
        log_file = self._logs / f"{container['name']}.log"
        message = termination_message(container, self._directory, log_file, failed=code != 0)
        return st.terminated(code, reason, utc_now(), started, message)

    async def _pull(self, container: Object) -> bool:
        """Whether the image is there; if not, waits until the pod is deleted."""
        image, name = container["image"], container["name"]
        images = self._kubelet.images
        if images is None or image in images:
            text = f'Container image "{image}" already present on machine'
            await self._tell("Normal", "Pulled", text, name)
            return True
        why = f'failed to pull and unpack image "{image}": not among the images of this node: {sorted(images)}'
        back_off = f'Back-off pulling image "{image}"'
        await self._tell("Normal", "Pulling", f'Pulling image "{image}"', name)
        await self._tell("Warning", "Failed", f'Failed to pull image "{image}": {why}', name)
        await self._set({name: st.waiting("ErrImagePull", why)})
        await self._pause()
        if not self._stop.is_set():
            await self._tell("Normal", "BackOff", back_off, name)
            await self._set({name: st.waiting("ImagePullBackOff", f"{back_off}: ErrImagePull: {why}")})
        await self._stop.wait()
        return False

    # Volumes ------------------------------------------------------------------------------------------------------

    async def _mount(self) -> bool:
        """Lays the volumes down. False if the pod is deleted before all are there."""
        while not self._stop.is_set():
            try:
                await self._lay()
                return True
            except (ConfigError, ApiError) as e:
                await self._tell("Warning", "FailedMount", f"MountVolume.SetUp failed: {e}")
                await self._pause()
        return False

    async def _lay(self) -> list[float]:
        """Writes all volumes; returns the lives of the tokens in them, in seconds."""
        lives = []
        for volume in self._pod["spec"].get("volumes") or ():
            found = await self._fetch(volumes.references(volume))
            granted = {}
            for audience, seconds in volumes.tokens(volume):
                granted[audience, seconds], life = await self._token(audience, seconds)
                lives.append(life)
            content = volumes.files(volume, self._pod, found, granted)
            volumes.write(self._directory.volume(volume["name"]), content)
        for container in self._containers:
            for mount in container.get("volumeMounts") or ():
                if "subPath" in mount:
                    (self._directory.volume(mount["name"]) / mount["subPath"]).mkdir(parents=True, exist_ok=True)
            self._directory.termination_log(container["name"]).parent.mkdir(parents=True, exist_ok=True)
        return lives

    async def _renew_tokens(self) -> None:
        pod_volumes = self._pod["spec"].get("volumes") or ()
        lives: list[float] = [seconds for volume in pod_volumes for _, seconds in volumes.tokens(volume)]
        while lives:
            await asyncio.sleep(_TOKEN_SHARE * min(lives))
            try:
                lives = await self._lay()
            except (ConfigError, ApiError) as e:
                log.warning("tokens of pod %s were not renewed: %s", self._pod["metadata"]["name"], e)

    async def _token(self, audience: str | None, seconds: int) -> tuple[str, float]:
        meta, spec = self._pod["metadata"], self._pod["spec"]
        account = spec.get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        asked = {"expirationSeconds": seconds, "boundObjectRef": bound} | (
            {"audiences": [audience]} if audience else {}
        )
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
        answer = (await self._kubelet.client.create(path, body))["status"]
        return answer["token"], (parse(answer["expirationTimestamp"]) - utc_now()).total_seconds()

    async def _fetch(self, wanted: Iterable[Reference]) -> dict[Reference, Object]:
        """Those that exist."""
        found = {}
        for kind, name in set(wanted):
            path = f"/api/v1/namespaces/{self._pod['metadata']['namespace']}/{kind.lower()}s/{name}"
            with suppress(ApiError):
                found[kind, name] = {"kind": kind, **await self._kubelet.client.get(path)}
        return found

    # Telling ------------------------------------------------------------------------------------------------------

    async def _tell(self, kind: str, reason: str, message: str, container: str = "") -> None:
        await self._kubelet.events.record(self._pod, kind, reason, message, container)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._kubelet.retry_seconds)

    async def _set(self, states: dict[str, st.State]) -> None:
        """Notes new states of containers and writes the pod's status; none means to write those known."""
        async with self._writing:
            if states and all(self._states[name] == state for name, state in states.items()):
                return
            self._states |= states
            while True:
                meta = self._pod["metadata"]
                status = st.pod_status(self._pod, self._states, utc_now())
                precondition = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
                try:
                    written = await self._kubelet.client.patch(
                        f"{self._path}/status", {"metadata": precondition, "status": status}
                    )
                    self.update(written)
                    return
                except ApiError as e:
                    if e.not_found or (e.conflict and not await self._refresh()):
                        return
                    if not e.conflict:
                        log.warning("status of pod %s: %s; trying again", meta["name"], e)
                        await asyncio.sleep(self._kubelet.retry_seconds)

    async def _refresh(self) -> bool:
        """Reads the pod anew. False if it is gone."""
        try:
            now = await self._kubelet.client.get(self._path)
        except ApiError as e:
            return not e.not_found
        if now["metadata"]["uid"] != self._pod["metadata"]["uid"]:
            return False
        self.update(now)
        return True

    async def _remove(self) -> None:
        """Lets the API server drop a deleted pod whose containers ended."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod["metadata"]["uid"]}}
        with suppress(ApiError):
            await self._kubelet.client.delete(self._path, options)
