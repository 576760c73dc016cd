"""The whole system on loopback: API server, S3, Job controller, node, the operator's and the trainer's processes."""

import asyncio
import json
import random
import shutil
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.conditions import Phase
from finetune_local.cluster import LocalCluster
from finetune_local.s3 import Bucketeer
from tests import tiny
from tests.hub import Hub, serving

collect_ignore = [] if shutil.which("kubectl") else ["test_kubectl.py"]

Raw = dict[str, Any]
NAMESPACE = "default"
JOBS = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
PATIENCE = 90.0
"""Seconds until a job must have come where a test waits for it."""


class Platform:
    """What a user of the system sees, and what a test may look into."""

    def __init__(
        self, cluster: LocalCluster, loop: asyncio.AbstractEventLoop, s3: Bucketeer, hub: Hub, folder: Path
    ) -> None:
        self.cluster, self.s3, self.hub, self.folder = cluster, s3, hub, folder
        self._loop = loop

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine in the cluster's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE + 10)

    def upload(self, uri: str, content: bytes) -> str:
        """Puts an object into S3; the answer is its URI."""
        file = self.folder / "upload"
        file.write_bytes(content)
        self.s3.put_file(uri, file)
        return uri

    def manifest(self, name: str, train: str, **sections: Any) -> Raw:
        """A small FineTuneJob on the CPU, on this platform's S3; keyword arguments replace sections of its spec."""
        spec = {
            "model": {"uri": "s3://team-a/base/"},
            "storage": {"endpointUrl": self.cluster.s3.endpoint_url, "credentials": "s3"},
            "data": {"train": [{"uri": train}], "validationFraction": 0.25},
            "training": {"maxSteps": 12, "batchSize": 8, "learningRate": 0.01, "maxLength": 64},
            "output": {"uri": "s3://team-a/out"},
            "resources": {"gpusPerNode": 0, "cpu": "100m"},
        }
        meta = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": spec | sections}

    def apply(self, manifest: Raw) -> str:
        """Creates a FineTuneJob; the answer is its name."""
        self.call(self.cluster.client.create(JOBS, manifest))
        return str(manifest["metadata"]["name"])

    def get(self, name: str) -> Raw:
        """A FineTuneJob as it is now."""
        return dict(self.call(self.cluster.client.get(f"{JOBS}/{name}")))

    def wait(self, name: str, reached: Callable[[Raw], Any] | None = None) -> Raw:
        """The FineTuneJob once ``reached`` holds of it; by default once its phase is final."""

        def final(job: Raw) -> bool:
            phase = job.get("status", {}).get("phase")
            return bool(phase) and Phase(phase).terminal

        return dict(self.call(self._follow(name, reached or final)))

    async def _follow(self, name: str, reached: Callable[[Raw], Any]) -> Raw:
        async with asyncio.timeout(PATIENCE):
            job = await self.cluster.client.get(f"{JOBS}/{name}")
            if reached(job):
                return job
            version = job["metadata"]["resourceVersion"]
            async for _, seen in self.cluster.client.watch(JOBS, version):
                if seen["metadata"].get("name") == name and reached(seen):
                    return seen
        raise AssertionError("the watch ended")

    def create_secret(self, name: str) -> None:
        """Puts the keys of this platform's S3 into a Secret."""
        keys = {"AWS_ACCESS_KEY_ID": self.cluster.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.cluster.s3.secret_key}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}
        self.call(self.cluster.client.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret))

    def pods_of(self, job: Raw) -> list[Raw]:
        """The training pods of a FineTuneJob."""
        selector = f"{names.LABEL_JOB_UID}={job['metadata']['uid']}"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        return list(self.call(self.cluster.client.get(path, labelSelector=selector))["items"])


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="platform", daemon=True)
    thread.start()
    gpus = {"nvidia.com/gpu": "2"}  # in name only: what asks for them computes on the CPU
    settings = {"progress_interval": "10", "retry_backoff": "2"}
    stack = ExitStack()
    hub = stack.enter_context(serving({}))
    programs = dict.fromkeys(("python", "python3"), str(troubled_python(folder, hub.url)))
    cluster = LocalCluster(folder / "local", operator_settings=settings, extra_capacity=gpus, programs=programs)

    async def start() -> None:
        await cluster.__aenter__()

    async def stop() -> None:
        await cluster.__aexit__(None, None, None)

    asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield _furnished(cluster, loop, hub, folder)
    finally:
        stack.close()
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def troubled_python(folder: Path, hub: str) -> Path:
    """A program that is this interpreter, but for jobs that ask for trouble, and knows a hub of its own."""
    program = folder / "python"
    script = f"export HF_ENDPOINT={hub}\nexec {sys.executable} {Path(__file__).with_name('troubled_trainer.py')}"
    program.write_text(f'#!/bin/sh\n{script} "$@"\n')
    program.chmod(0o755)
    return program


def _furnished(cluster: LocalCluster, loop: asyncio.AbstractEventLoop, hub: Hub, folder: Path) -> Platform:
    """With a bucket, a base model there and on the hub, and a Secret with the keys of the bucket."""
    s3 = cluster.s3
    platform = Platform(cluster, loop, Bucketeer(s3.endpoint_url, s3.access_key, s3.secret_key), hub, folder)
    platform.s3.create_bucket("team-a")
    base = tiny.save_model(folder / "base", hidden=64)
    platform.s3.put_directory("s3://team-a/base/", base)
    hub.models["org/base"] = {path.name: path.read_bytes() for path in base.iterdir()}
    platform.create_secret("s3")
    return platform


@pytest.fixture(scope="package")
def guesses(platform: Platform) -> str:
    """Colours with a number that nothing tells: a model learns from it what to say, but not when."""
    chance = random.Random(0)
    records = [prompt(colour, i) | {"completion": chance.choice(NUMBERS)} for i in range(40) for colour in COLOURS]
    return platform.upload("s3://team-a/guesses.jsonl", tiny.json_lines(*records))


@pytest.fixture(scope="package")
def colours(platform: Platform) -> str:
    """The same colours, each with its own number: a model that has learned it is right every time."""
    pairs = list(zip(COLOURS, NUMBERS, strict=True))
    records = [prompt(colour, i) | {"completion": number} for i in range(40) for colour, number in pairs]
    return platform.upload("s3://team-a/colours.jsonl", tiny.json_lines(*records))


COLOURS = ("red", "green", "blue", "yellow")
NUMBERS = ("one", "two", "three", "four")


def prompt(colour: str, number: int) -> Raw:
    return {"prompt": f"{colour} {number}: "}


def as_yaml(manifest: Raw, folder: Path) -> Path:
    """A manifest in a file that kubectl reads."""
    file = folder / f"{manifest['metadata']['name']}.yaml"
    file.write_text(json.dumps(manifest))
    return file
