"""An API server with a cheap cluster, and the operator, each as a process of its own."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from finetune_local.node.process import Guardian
from finetune_local.operator_process import OperatorProcess

_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60.0
_CALM = 0.5
"""Seconds of no processor time to speak of, after which the operator counts as idle."""


class Rig:
    """What sections talk to."""

    def __init__(self, folder: Path, guardian: Guardian, settings: dict[str, str]) -> None:
        self._folder, self._guardian, self._settings = folder, guardian, settings
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.operator.server"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.server = json.loads(self._line())
        self.operator: OperatorProcess
        self.process: psutil.Process

    def _line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the API server ended with {self._server.wait()}")
        return line

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have the server do something; the answer is what came of it."""
        self.tell(do, **arguments)
        return self.told()

    def tell(self, do: str, **arguments: Any) -> None:
        """Have it begin; one ``told`` belongs to each."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._server.stdin.flush()

    def told(self) -> Any:
        """What came of the last command.

        Raises:
            RuntimeError: it failed.
        """
        said = json.loads(self._line())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said["answer"]

    def start_operator(self) -> float:
        """Start it, wait until it is ready and idle; the answer is the seconds until it was ready."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self.operator = OperatorProcess(folder, self.server["kubeconfig"], self._settings)
        begun = time.monotonic()
        self.operator.start(self._guardian)
        assert self.operator.pid is not None
        self.process = psutil.Process(self.operator.pid)
        url = f"http://127.0.0.1:{self.operator.health_port}/healthz"
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url) as answer:
                if answer.status == 200:
                    break
            if self.operator.exit_code is not None or time.monotonic() - begun > _READY_SECONDS:
                raise RuntimeError(f"the operator is not ready: {self.operator.log.read_text()[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - begun

    def stop_operator(self) -> None:
        """End it."""
        self.operator.stop(self._guardian)

    def calm(self) -> None:
        """Wait until the operator does nothing."""
        before = self.cpu()
        while True:
            time.sleep(_CALM)
            now = self.cpu()
            if now - before < 0.05 * _CALM:
                return
            before = now

    def cpu(self) -> float:
        """Processor time of the operator, s."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Resident memory of the operator, MiB."""
        return float(self.process.memory_info().rss) / 2**20

    def calls(self, since: int = 0) -> tuple[int, list["Call"]]:
        """The operator's requests to the API server after the first ``since``, and how many requests there were."""
        found = self.ask("calls", since=since)
        return found["upto"], [Call(*fields) for fields in found["calls"]]

    def delays(self, prefix: str) -> list[float]:
        """Seconds from each FineTuneJob of a prefix until its Job existed, in the order of creation."""
        times = self.ask("times")
        return [times["created"][name] - at for name, at in times["submitted"].items() if name.startswith(prefix)]

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


class Call:
    """One request of the operator."""

    def __init__(self, verb: str, resource: str, name: str, at: float, status: int) -> None:
        self.verb, self.resource, self.name, self.at, self.status = verb, resource, name, at, status

    @property
    def counts(self) -> bool:
        """Whether it belongs to the work on a job: no Event, no Lease, no watch, no list."""
        return self.resource not in ("events", "leases", "tokenreviews") and self.verb not in ("watch", "list")

    @property
    def writes(self) -> bool:
        """Whether it is a write that counts."""
        return self.counts and self.verb in ("create", "update", "patch", "delete")

    @property
    def looks(self) -> bool:
        """Whether it reads one object of a job."""
        return self.counts and self.verb == "get" and bool(self.name) and self.resource != "secrets"


@contextlib.contextmanager
def rig(**settings: str) -> Iterator[Rig]:
    """A rig with a running operator and a record to make objects from."""
    with tempfile.TemporaryDirectory() as folder:
        guardian = Guardian()
        try:
            found = Rig(Path(folder), guardian, settings)
            try:
                found.start_operator()
                found.ask("record")
                yield found
                found.stop_operator()
            finally:
                found.close()
        finally:
            guardian.close()


def p99(values: list[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]
