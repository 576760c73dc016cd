"""The operator, as it runs on a cluster: a process with a kubeconfig, its own rights and settings by environment."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api import crd, names
from finetune_local.client import ApiClient
from finetune_local.node.process import Guardian
from finetune_operator.generate import rights
from finetune_operator.permissions import Scope
from finetune_operator.settings import PREFIX, REPORTS_PATH, Settings

Object = dict[str, Any]

NAMESPACE = "finetune-system"
ACCOUNT = "finetune-operator"
_TOKEN_SECONDS = 366 * 24 * 3600
_RBAC = "rbac.authorization.k8s.io"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def install(client: ApiClient) -> str:
    """Creates what the chart would: definition, namespace, account, roles, empty Secret. The answer is a token."""
    for definition in crd.definitions():
        await client.create(_CRDS, definition)
    await client.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(NAMESPACE)})
    core = f"/api/v1/namespaces/{NAMESPACE}"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(ACCOUNT)}
    await client.create(f"{core}/serviceaccounts", account)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(Settings().reports_secret)}
    await client.create(f"{core}/secrets", secret)
    wide = rights.rules(Scope.SERVED) + rights.rules(Scope.CLUSTER)
    await _grant(client, f"/apis/{_RBAC}/v1", "Cluster", wide)
    await _grant(client, f"/apis/{_RBAC}/v1/namespaces/{NAMESPACE}", "", rights.rules(Scope.OWN))
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_SECONDS},
    }
    answer = await client.create(f"{core}/serviceaccounts/{ACCOUNT}/token", asked)
    return str(answer["status"]["token"])


async def _grant(client: ApiClient, base: str, scope: str, rules: list[Object]) -> None:
    """A (Cluster)Role with these rules, bound to the operator's account."""
    role, binding = f"{scope}Role", f"{scope}RoleBinding"
    common = {"apiVersion": f"{_RBAC}/v1", "metadata": _meta(ACCOUNT)}
    await client.create(f"{base}/{role.lower()}s", {**common, "kind": role, "rules": rules})
    reference = {"apiGroup": _RBAC, "kind": role, "name": ACCOUNT}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    bound = {**common, "kind": binding, "roleRef": reference, "subjects": [subject]}
    await client.create(f"{base}/{binding.lower()}s", bound)


class OperatorProcess:
    """``python -m finetune_operator`` with its own kubeconfig.

    Args:
        directory: for the kubeconfig and the log.
        kubeconfig: with the operator's own token.
        settings: settings beyond those that local mode needs, by the name of the attribute.
    """

    def __init__(self, directory: Path, kubeconfig: Object, settings: Mapping[str, str]) -> None:
        self.log = directory / "operator.log"
        self._kubeconfig = directory / "operator.kubeconfig"
        write_private(self._kubeconfig, json.dumps(kubeconfig))
        self.health_port = free_port()
        self.metrics_port = free_port()
        reports_port = free_port()
        self.reports_url = f"https://127.0.0.1:{reports_port}{REPORTS_PATH}"
        chosen = {
            "namespace": NAMESPACE,
            "leader_election": "false",
            "progress_interval": "1",
            "retry_backoff": "1",
            "reports_url": self.reports_url,
            "reports_bind": "127.0.0.1",
            "reports_port": str(reports_port),
            "health_bind": "127.0.0.1",
            "health_port": str(self.health_port),
            "metrics_bind": "127.0.0.1",
            "metrics_port": str(self.metrics_port),
            **settings,
        }
        self._environment = {f"{PREFIX}{name.upper()}": value for name, value in chosen.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, guardian: Guardian) -> None:
        """Starts it; the guardian ends it if this process dies."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment = {**inherited, **self._environment, "KUBECONFIG": str(self._kubeconfig)}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guardian.watch(self._process.pid)

    @property
    def pid(self) -> int | None:
        """None before it was started."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, guardian: Guardian) -> None:
        """SIGTERM, and after a second SIGKILL: its state is in the API server, which is about to go as well."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        guardian.forget(self._process.pid)


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner may read."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _meta(name: str) -> Object:
    return {"name": name, "labels": {names.LABEL_MANAGED_BY: "finetune-local"}}
