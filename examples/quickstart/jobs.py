"""Both FineTuneJobs, one after the other, in a local mode of their own."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from examples.quickstart.screen import Screen, shown
from finetune_api import names
from finetune_local.client import ApiClient
from finetune_local.cluster import LocalCluster
from finetune_local.connection import Addresses
from finetune_local.run import documents, job, table
from finetune_local.run.progress import Display

Object = dict[str, Any]
T = TypeVar("T")


async def run_jobs(yamls: Path, build: Path, screen: Screen) -> Object:
    """Runs base.yaml and tuned.yaml of ``yamls``; their results go to ``build``. The second one's final resource.

    Raises:
        ControlPlaneFailed, InvalidDocument, RunFailed: as said there.
    """
    screen.step("Start local mode: Kubernetes API server, Job controller, node, S3 and operator")
    async with LocalCluster(build / "local") as cluster:
        screen.say(f"logs in {shown(cluster.directory)}")
        work = asyncio.create_task(_both(yamls, build, Addresses.of(cluster), screen))
        return await unless_it_fails(work, cluster.watch())


async def unless_it_fails(work: "asyncio.Task[T]", watch: Coroutine[Any, Any, None]) -> T:
    """What ``work`` returns; ``watch`` ends, by raising, only if local mode fails under it."""
    guard = asyncio.create_task(watch)
    try:
        await asyncio.wait({work, guard}, return_when=asyncio.FIRST_COMPLETED)
        if guard.done():
            guard.result()
        return await work
    finally:
        work.cancel()
        guard.cancel()


async def _both(yamls: Path, build: Path, addresses: Addresses, screen: Screen) -> Object:
    async with addresses.client() as client:
        screen.step("Pre-train: the first FineTuneJob trains all weights on the prose")
        base = await _one(yamls / "base.yaml", client, addresses, screen)
        await job.fetch(base, addresses, build / "base")
        screen.step("Tune: the second FineTuneJob trains an adapter for what the first one published")
        tuned = await _one(yamls / "tuned.yaml", client, addresses, screen)
        await job.fetch(tuned, addresses, build / "adapter")
        return tuned


async def _one(yaml: Path, client: ApiClient, addresses: Addresses, screen: Screen) -> Object:
    """One job to its end, with its YAML before and its row of ``kubectl get`` after.

    Raises:
        RunFailed: it did not succeed.
    """
    [document] = documents.read(yaml).jobs
    screen.say(f"{shown(yaml)}\n\n{await asyncio.to_thread(yaml.read_text, encoding='utf-8')}")
    display = Display(sys.stdout)
    done = await job.run(document, yaml, client, addresses, display)
    display.clear()
    if not job.succeeded(done):
        raise job.RunFailed(f"{await job.last_words(done, client)}{job.explanation(done)}")
    namespace = done["metadata"]["namespace"]
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    screen.say(f"\n{table.render(await client.get(path, accept=table.ACCEPT))}\n")
    return done
