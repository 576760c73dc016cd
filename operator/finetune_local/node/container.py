"""What one container is run as: command, environment, limits; and what it said when it ended."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_local.node.addresses import Reference, resolved
from finetune_local.node.environment import environment, expand
from finetune_local.node.mounts import PodDirectory, mount_points, rewrite
from finetune_local.node.process import StartFailure
from finetune_local.node.scheduling import amounts

Object = dict[str, Any]

MESSAGE_LIMIT = 4096
"""Bytes of a termination message that are kept."""
_LOG_LINES, _LOG_BYTES = 80, 2048
"""How much of the log stands in for a termination message that was not written."""
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Invocation:
    """Everything a container is started with."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    memory_limit: int | None
    """Bytes."""


def invocation(
    container: Object, pod: Object, found: Mapping[Reference, Object], directory: PodDirectory
) -> Invocation:
    """How a container is started. Makes the directories that it needs.

    Raises:
        ConfigError: its environment refers to something that is missing.
        StartFailure: it has no command: that would be in its image, and there are no images.
    """
    declared = environment(container, pod, found)
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not container.get("command"):
        raise StartFailure("the container has no command, and local mode has no images to take one from")
    points = mount_points(container, directory)
    home = directory.home(container["name"])
    home.mkdir(parents=True, exist_ok=True)
    directory.termination_log(container["name"]).touch()
    inside = {name: resolved(rewrite(value, points), pod, found) for name, value in declared.items()}
    work = container.get("workingDir")
    return Invocation(
        command=tuple(rewrite(expand(word, declared), points) for word in words),
        environment={**_base_environment(pod, home), **_threads(container), **inside},
        directory=Path(rewrite(work, points)) if work else home,
        memory_limit=_memory_limit(container),
    )


def termination_message(container: Object, directory: PodDirectory, log: Path, failed: bool) -> str:
    """What the container left in its termination message file, or at the end of its log where it asked for that."""
    written = directory.termination_log(container["name"])
    text = written.read_bytes() if written.exists() else b""
    if not text and failed and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        lines = log.read_bytes()[-_LOG_BYTES:].splitlines(keepends=True)
        text = b"".join(lines[-_LOG_LINES:])
    return text[:MESSAGE_LIMIT].decode(errors="replace")


def _base_environment(pod: Object, home: Path) -> dict[str, str]:
    """What an image would set: no more of this process's own environment than a proxy and a locale."""
    passed = {name: os.environ[name] for name in (*_PASSED_ON, *_PROXIES) if name in os.environ}
    for name in ("NO_PROXY", "no_proxy"):
        passed[name] = ",".join(filter(None, [passed.get(name), "127.0.0.1,localhost"]))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    host = pod["spec"].get("hostname") or pod["metadata"]["name"]
    return {"LANG": "C.UTF-8", **passed, "PATH": path, "HOME": str(home), "HOSTNAME": host}


def _threads(container: Object) -> dict[str, str]:
    """As many threads as the container has CPUs; numerical libraries would take all of the machine."""
    resources = container.get("resources") or {}
    cpu = amounts({**(resources.get("requests") or {}), **(resources.get("limits") or {})}).get("cpu")
    return {"OMP_NUM_THREADS": str(max(1, math.ceil(cpu)))} if cpu else {}


def _memory_limit(container: Object) -> int | None:
    limit = amounts((container.get("resources") or {}).get("limits") or {}).get("memory")
    return None if limit is None else int(limit)
