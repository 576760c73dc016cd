"""The chart installed by Helm into the embedded API server, and the operator run with just what was installed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from finetune_local.apiserver import ApiServer
from finetune_local.client import ApiClient
from finetune_local.operator_process import free_port
from finetune_operator.settings import PREFIX

from .conftest import CHART, environment_of

NAMESPACE, RELEASE = "ft", "demo"
ACCOUNT = f"{RELEASE}-finetune-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
DEADLINE = 40
Object = dict[str, Any]


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[tuple[ApiServer, ApiClient]]:
    """A running API server with the namespace team-a, and an administrator's client."""
    server = ApiServer(logs_dir=folder)
    await server.start()
    try:
        async with ApiClient(server.url, server.admin_token, server.ca_pem) as admin:
            await admin.create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})
            yield server, admin
    finally:
        await server.stop()


@asynccontextmanager
async def helm_config(server: ApiServer) -> AsyncIterator[helm.Config]:
    """Helm as the administrator."""
    content = yaml.safe_dump(server.kubeconfig())
    with helm.Config(kubeconfig_content=content, namespace=NAMESPACE, qps=1000, burst_limit=1000) as config:
        yield config


async def install(config: helm.Config, values: Object) -> Object:
    return await asyncio.to_thread(config.install, CHART, RELEASE, values, create_namespace=True, timeout=30)


@asynccontextmanager
async def operator(server: ApiServer, admin: ApiClient, folder: Path) -> AsyncIterator[str]:
    """The operator's process as the Deployment describes it, on loopback; the URL of its reports endpoint.

    It gets a token of the chart's ServiceAccount and nothing else. At the end it must stop well when asked to.
    """
    deployment = await admin.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{ACCOUNT}")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    token = (await admin.create(path, request))["status"]["token"]
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(server.kubeconfig(token)))
    url = f"https://localhost:{(port := free_port())}/v1/reports"
    here = {"REPORTS_URL": url, "REPORTS_PORT": str(port), "REPORTS_BIND": "127.0.0.1"}
    here |= {"ADVERTISE_ADDRESS": f"127.0.0.1:{port}"}
    here |= {"HEALTH_BIND": "127.0.0.1", "HEALTH_PORT": "0", "PROGRESS_INTERVAL": "0"}
    here |= {"METRICS_BIND": "127.0.0.1", "METRICS_PORT": "0"}
    environment = environment_of(deployment, "127.0.0.1") | {f"{PREFIX}{name}": value for name, value in here.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "finetune_operator",
        env=environment | {"KUBECONFIG": str(kubeconfig)} | _of_this_python(),
    )
    try:
        yield url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


def _of_this_python() -> dict[str, str]:
    """What a child needs to import the same modules."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


async def until(client: ApiClient, path: str, holds: Callable[[Object], Any]) -> Object:
    """The first object of a collection for which something holds, now or within the deadline."""
    listed = await client.get(path)
    for found in listed["items"]:
        if holds(found):
            return found
    async with asyncio.timeout(DEADLINE):
        async for kind, found in client.watch(path, listed["metadata"]["resourceVersion"]):
            if kind in ("ADDED", "MODIFIED") and holds(found):
                return found
    raise AssertionError(f"the watch of {path} ended")
