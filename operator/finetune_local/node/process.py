"""Containers as process groups that never outlive this process."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

from finetune_local.node import guard

_MEMORY_CHECK_SECONDS = 0.25


class StartFailure(Exception):
    """The command cannot be run; ``str()`` is the container runtime's message."""


class Guardian:
    """Kills the groups it watches when this process ends, even by SIGKILL (:mod:`finetune_local.node.guard`)."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", guard.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Kills what is still watched."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


class ContainerProcess:
    """A running container. Its group is gone when :meth:`wait` returns."""

    def __init__(self, process: asyncio.subprocess.Process, guardian: Guardian, memory_limit: int | None) -> None:
        self._process = process
        self._guardian = guardian
        self._memory_limit = memory_limit
        self.out_of_memory = False
        """Whether it was killed because it used more than its limit."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log: Path,
        guardian: Guardian,
        programs: Mapping[str, str],
        memory_limit: int | None = None,
    ) -> Self:
        """Starts a command as the leader of a new session.

        Args:
            command: the program, looked for along the environment's PATH, and its arguments.
            environment: all of it.
            directory: working directory.
            log: file that takes standard output and error.
            guardian: ends the group if this process dies.
            programs: names that stand for a file of this machine.
            memory_limit: bytes of resident memory above which the group is killed.

        Raises:
            StartFailure: there is no such program or directory, or it may not be run.
        """
        program = programs.get(command[0]) or _find(command[0], environment.get("PATH", os.defpath))
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    program,
                    *command[1:],
                    cwd=directory,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as e:
                raise StartFailure(_not_started(f'"{e.filename}": {(e.strerror or str(e)).lower()}')) from None
        guardian.watch(process.pid)
        return cls(process, guardian, memory_limit)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code once the main process ended; 128 + n after signal n. What it left behind is killed."""
        watcher = asyncio.create_task(self._watch_memory())
        try:
            code = await self._process.wait()
        finally:
            watcher.cancel()
            self.kill()
            self._guardian.forget(self.pid)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM to the main process, as a container's PID 1 gets it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _watch_memory(self) -> None:
        while self._memory_limit is not None:
            await asyncio.sleep(_MEMORY_CHECK_SECONDS)
            if _resident(self.pid) > self._memory_limit:
                self.out_of_memory = True
                self.kill()
                return


def _find(program: str, path: str) -> str:
    """The file to run.

    Raises:
        StartFailure: not found, or not executable.
    """
    if "/" in program:
        if not os.path.exists(program):
            raise StartFailure(_not_started(f'exec: "{program}": stat {program}: no such file or directory'))
        return program
    for directory in path.split(os.pathsep):
        candidate = os.path.join(directory, program)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise StartFailure(_not_started(f'exec: "{program}": executable file not found in $PATH'))


def _not_started(why: str) -> str:
    return f"failed to create local task: unable to start container process: {why}"


def _resident(pid: int) -> int:
    """Bytes in memory of a process and its descendants; shared pages count once for each."""
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += member.memory_info().rss
    return total
