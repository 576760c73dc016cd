"""Starts the trainer once for each GPU of this pod, and ends as they end.

torchrun does the same, but keeps the exit codes to itself, and starts again what failed. Here exit code and termination
message are those of the process that failed first, the Job decides on another try, and SIGTERM goes to all. The pods of
several nodes find one another by NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT. Needs no torch.
"""

import ipaddress
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from finetune_api import run
from finetune_api.conditions import Reason
from finetune_api.run import GRACE_SECONDS, ExitCode, RunError, RunResult
from finetune_trainer.config import Surroundings
from finetune_trainer.ending import classify, write_message
from finetune_trainer.scaling.machine import cpu_limit
from finetune_trainer.scaling.ranks import ENV_LISTENING, ENV_SHARED

_LOOK_SECONDS = 0.05
_FAREWELL_SECONDS = 5.0
"""For what is left to do once everything is decided, and for whoever knows better why another process has failed."""


@dataclass(frozen=True)
class Nodes:
    """The pods of a training, and which of them this is."""

    count: int = 1
    number: int = 0

    @classmethod
    def of_environment(cls) -> "Nodes":
        """By NNODES and NODE_RANK; without them this is the only one."""
        return cls(int(os.environ.get("NNODES") or 1), int(os.environ.get("NODE_RANK") or 0))


@dataclass
class Member:
    """A process of a gang."""

    rank: int
    process: "subprocess.Popen[bytes]"
    log: Path
    """Its own termination message."""
    ended_at: float = math.inf
    """When it ended by itself."""

    @property
    def code(self) -> int:
        """Its exit code, 0 while it runs; 128 + n after signal n, but SIGTERM is what preempts a trainer that has not
        come to listen to it yet."""
        code = self.process.returncode or 0
        return code if code >= 0 else int(ExitCode.PREEMPTED) if code == -signal.SIGTERM else 128 - code


class Gang:
    """The processes of this node."""

    def __init__(self, members: Sequence[Member] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.members = members
        self._clock = clock
        self._unsent = 0
        """SIGTERMs that came and were not passed on yet."""

    def terminate(self, _signal: int, _frame: FrameType | None) -> None:
        """SIGTERM came. It goes to all of them, and so does the second one."""
        self._unsent += 1

    def wait(self) -> Member:
        """Until all have ended, by themselves or because one has failed; returns the one that speaks for all."""
        while running := [member for member in self.members if self._runs(member)]:
            if self._unsent:
                self._unsent -= 1
                for member in running:
                    member.process.terminate()
            if self._clock() > min(m.ended_at + patience(m.rank, m.code) for m in self.members):
                for member in running:
                    member.process.kill()
                    member.process.wait()
                break
            time.sleep(_LOOK_SECONDS)
        return min(self.members, key=_order)

    def _runs(self, member: Member) -> bool:
        if member.process.poll() is None:
            return True
        member.ended_at = min(member.ended_at, self._clock())
        return False


def patience(rank: int, code: int) -> float:
    """Seconds that others may go on after the process ``rank`` has ended with ``code``."""
    if rank == 0 and code in (ExitCode.SUCCEEDED, ExitCode.PREEMPTED):
        return _FAREWELL_SECONDS  # it is the last to have something to do
    if code == ExitCode.SUCCEEDED:
        return math.inf
    if code == ExitCode.PREEMPTED:
        return GRACE_SECONDS
    return _FAREWELL_SECONDS if code == ExitCode.PEERS_LOST else 0.0


def _order(member: Member) -> tuple[int, float, int]:
    """The first in this order speaks for all. What rank 0 has done is done. Then comes the first fault; then, where all
    were asked to stop, rank 0, which knows what is saved; then somebody who has only lost the others."""
    if math.isinf(member.ended_at):  # it was killed for another's fault
        return 4, math.inf, member.rank
    if member.code == ExitCode.SUCCEEDED:
        return (0 if member.rank == 0 else 4), member.ended_at, member.rank
    if member.code == ExitCode.PREEMPTED:
        return 2, 0.0, member.rank
    return (3 if member.code == ExitCode.PEERS_LOST else 1), member.ended_at, member.rank


def wanted(processes: int) -> bool:
    """Whether this process is to start others: there shall be several, and nobody has started them yet."""
    return "RANK" not in os.environ and processes * Nodes.of_environment().count > 1


def launch(run_file: Path, processes: int, surroundings: Surroundings) -> int:
    """Runs the run file in as many processes; returns the exit code of the contract, or 128 + n after signal n."""
    command = [sys.executable, "-m", "finetune_trainer", "--run", str(run_file)]
    gang = Gang()
    signal.signal(signal.SIGTERM, gang.terminate)
    try:
        with tempfile.TemporaryDirectory(dir=surroundings.scratch, ignore_cleanup_errors=True) as shared:
            gang.members = start(command, processes, Nodes.of_environment(), Path(shared))
            member = gang.wait()
            code, message = member.code, _message(member)
    except OSError as error:  # no room for the directory, or no memory for a process
        code, fault = classify(error)
        message = RunResult(outcome="Failed", error=fault).termination_message()
    if message:
        write_message(message, surroundings.termination_log)
    return code


def start(command: Sequence[str], processes: int, nodes: Nodes, shared: Path) -> list[Member]:
    """Starts ``command`` once for each process, with torchrun's environment.

    Args:
        command: a trainer.
        processes: on this node, as on each of the others.
        nodes: where this one stands among them.
        shared: a directory for the processes of this node.
    """
    with _listening(nodes) as listening:
        common = _environment(processes, nodes, shared) | _meeting(nodes, listening)
        members: list[Member] = []
        try:
            for local in range(processes):
                rank = nodes.number * processes + local
                log = shared / f"termination-{rank}"
                own = {"RANK": str(rank), "LOCAL_RANK": str(local), run.ENV_TERMINATION_LOG: str(log)}
                inherited = [listening.fileno()] if rank == 0 and listening else []
                process = subprocess.Popen(command, env={**common, **own}, pass_fds=inherited)  # noqa: S603 - our own
                members.append(Member(rank, process, log))
        except OSError:
            for member in members:
                member.process.kill()
            raise
    return members


def _environment(processes: int, nodes: Nodes, shared: Path) -> dict[str, str]:
    threads = int(os.environ.get("OMP_NUM_THREADS") or cpu_limit() or os.cpu_count() or 1)
    return {
        **os.environ,
        **_loopback(nodes),
        "WORLD_SIZE": str(processes * nodes.count),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": str(max(1, threads // processes)),
        run.ENV_SCRATCH: str(shared),
        ENV_SHARED: str(shared),
    }


def _listening(nodes: Nodes) -> AbstractContextManager[socket.socket | None]:
    """Where rank 0 is reached, if it is on this node and has an address: at that alone, and nobody else can take the
    port meanwhile."""
    if nodes.count == 1:
        return socket.create_server(("127.0.0.1", 0))
    address = _address_of_first()
    if nodes.number or address is None:
        return nullcontext()
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return socket.create_server((str(address), int(os.environ["MASTER_PORT"])), family=family)


def _meeting(nodes: Nodes, listening: socket.socket | None) -> dict[str, str]:
    """Where the processes meet: at a socket that listens already, or, where rank 0 is known by name, at that name."""
    if listening is None:
        # The pod that is named does not wait until the cluster's DNS knows that it is there.
        return {} if nodes.number or _address_of_first() else {"MASTER_ADDR": "localhost"}
    address, port = listening.getsockname()[:2]
    return {"MASTER_ADDR": address, "MASTER_PORT": str(port), ENV_LISTENING: str(listening.fileno())}


def _address_of_first() -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    """That of rank 0; None where it is known by name."""
    try:
        return ipaddress.ip_address(os.environ.get("MASTER_ADDR", ""))
    except ValueError:
        return None


def _loopback(nodes: Nodes) -> dict[str, str]:
    """gloo's network device, where all processes are on this machine: its own name may stand for no address."""
    address = _address_of_first()
    here = nodes.count == 1 or (address is not None and address.is_loopback)
    return {"GLOO_SOCKET_IFNAME": "lo"} if here and "lo" in (name for _, name in socket.if_nameindex()) else {}


def _message(member: Member) -> str:
    """The termination message of the process that speaks for all, or one in its place; none, where its exit code says
    all there is to say."""
    if member.log.exists():
        return member.log.read_text()
    if member.code <= 128:
        return ""
    name = signal.Signals(member.code - 128).name
    memory = "as the kernel does where memory runs out. Raise spec.resources.memory if it comes again."
    why = memory if name == "SIGKILL" else "which the pod's log may explain."
    what = f"Process {member.rank} of the training was killed by {name}, {why}"
    error = RunError(reason=Reason.TRAINER_KILLED, message=what)
    return RunResult(outcome="Failed", error=error).termination_message()
