"""The whole of local mode in one object: API server, object store, Job controller, node, operator."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from finetune_local import operator_process
from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient
from finetune_local.jobs.controller import JobController
from finetune_local.node.agent import NodeAgent
from finetune_local.node.process import Guardian
from finetune_local.operator_process import OperatorProcess
from finetune_local.s3 import S3Server

_READY_SECONDS = 30.0


class ControlPlaneFailed(Exception):
    """A part of local mode ended by itself; ``str()`` names it and where to read why."""


class LocalCluster:
    """Local mode, as an async context manager: inside, everything works; afterwards, no process is left.

    Args:
        directory: for kubeconfigs, logs and the pods' files.
        operator: whether the operator runs too.
        operator_settings: its settings, by attribute of :class:`finetune_operator.settings.Settings`.
        extra_capacity: of the node, such as ``{"nvidia.com/gpu": "1"}``.
        programs: see :class:`finetune_local.node.agent.NodeAgent`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        operator: bool = True,
        operator_settings: Mapping[str, str] | None = None,
        extra_capacity: Mapping[str, str] | None = None,
        programs: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.logs = self.directory / "logs"
        self.kubeconfig = self.directory / "kubeconfig"
        self.s3 = S3Server()
        self._with_operator = operator
        self._operator_settings = operator_settings or {}
        self._extra_capacity = extra_capacity
        self._programs = programs
        self._stack = AsyncExitStack()
        self._operator: OperatorProcess | None = None
        self._work: list[asyncio.Task[None]] = []

    @property
    def operator_log(self) -> Path | None:
        """The operator's log, where it runs."""
        return self._operator.log if self._operator else None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        """Processes start first, so that they come up while the rest does."""
        self.directory.mkdir(parents=True, exist_ok=True)
        pods = self.directory / "pods"
        for leftover in (pods, self.logs):
            shutil.rmtree(leftover, ignore_errors=True)
        self.s3.start()
        self._stack.callback(self.s3.stop)
        guardian = Guardian()
        self._stack.push_async_callback(asyncio.to_thread, guardian.close)
        self.api_server = ApiServer(logs_dir=self.logs)
        await self.api_server.start()
        self._stack.push_async_callback(self.api_server.stop)
        operator_process.write_private(self.kubeconfig, json.dumps(self.api_server.kubeconfig(), indent=2))
        server = self.api_server
        self.client = ApiClient(server.url, server.admin_token, server.ca_pem)
        await self._stack.enter_async_context(self.client)
        token = await operator_process.install(self.client)
        if self._with_operator:
            config = server.kubeconfig(token=token, namespace=operator_process.NAMESPACE)
            self._operator = OperatorProcess(self.directory, config, self._operator_settings)
            self._operator.start(guardian)
            self._stack.push_async_callback(asyncio.to_thread, self._operator.stop, guardian)
        agent = NodeAgent(self.client, pods, self.logs, extra_capacity=self._extra_capacity, programs=self._programs)
        self._work = [asyncio.create_task(part.run()) for part in (JobController(self.client), agent)]
        self._stack.push_async_callback(self._stop_work)
        await asyncio.to_thread(lambda: self.s3.endpoint_url)
        if self._operator is not None:
            await self._operator_ready(self._operator)

    async def watch(self) -> None:
        """Waits until a part ends that should not.

        Raises:
            ControlPlaneFailed: that it did.
        """
        while True:
            done, _ = await asyncio.wait(self._work, timeout=0.5)
            for task in done:
                raise ControlPlaneFailed(f"local mode failed: {task.exception()!r}") from task.exception()
            if self._operator is not None:
                _raise_if_ended(self._operator)

    async def _operator_ready(self, operator: OperatorProcess) -> None:
        url = f"http://127.0.0.1:{operator.health_port}/healthz"
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        told = "no answer"
        async with aiohttp.ClientSession() as session:
            while asyncio.get_running_loop().time() < deadline:
                _raise_if_ended(operator)
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                        told = (await answer.text()).strip()
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)
        raise ControlPlaneFailed(f"the operator did not become ready ({told}); read {operator.log}")

    async def _stop_work(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)


def _raise_if_ended(operator: OperatorProcess) -> None:
    if operator.exit_code is not None:
        text = operator.log.read_text(errors="replace").strip()
        last = text.splitlines()[-1] if text else "it said nothing"
        told = f"the operator ended with exit code {operator.exit_code}: {last} (read {operator.log})"
        raise ControlPlaneFailed(told)
