"""Pod logs: `<logs_dir>/<pod uid>/<container>.log`, which the node agent writes and the server reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from .errors import bad_request
from .store import Object

POLL = 0.1  # seconds between two looks at a log that is followed
_CHUNK = 64 * 1024
_REFUSED = ("sinceSeconds", "sinceTime", "timestamps", "limitBytes", "stream")


def choose_container(pod: Object, query: Mapping[str, str]) -> str:
    """The container meant. Raises 400 where none or several could be."""
    name = pod["metadata"]["name"]
    spec = pod["spec"]
    names = [one["name"] for one in [*spec.get("initContainers", []), *spec["containers"]]]
    for key in _REFUSED:
        if query.get(key) not in (None, "", "false"):
            raise bad_request(f"logs: the parameter {key} is not supported by this server")
    wanted = query.get("container", "")
    if not wanted and len(names) > 1:
        told = " ".join(names)
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{told}]")
    wanted = wanted or names[0]
    if wanted not in names:
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    if query.get("previous") == "true":
        raise bad_request(f'previous terminated container "{wanted}" in pod "{name}" not found')
    return wanted


def check_started(pod: Object, container: str) -> None:
    """Raises 400 while the container waits, with the reason it gives."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    state: dict[str, Any] = next((one.get("state") or {} for one in statuses if one["name"] == container), {})
    waiting = state.get("waiting")
    if waiting is not None or not statuses:
        reason = (waiting or {}).get("reason") or "ContainerCreating"
        told = f'container "{container}" in pod "{pod["metadata"]["name"]}" is waiting to start: {reason}'
        raise bad_request(told)


def tail(path: Path, lines: int | None) -> bytes:
    """A log's content, or its last lines. A log that is not there is empty."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    if lines is None:
        return content
    return b"".join(content.splitlines(keepends=True)[-lines:]) if lines else b""


async def follow(
    request: web.Request, path: Path, lines: int | None, is_over: Callable[[], bool]
) -> web.StreamResponse:
    """Streams a log until `is_over` says that nothing will be written any more."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    size = 0
    if lines is not None and (written := tail(path, None)):
        size = len(written)
        await response.write(b"".join(written.splitlines(keepends=True)[-lines:] if lines else ()))
    while True:
        over = is_over()
        while grown := _read_from(path, size):
            size += len(grown)
            await response.write(grown)
        if over:
            break
        await asyncio.sleep(POLL)
    await response.write_eof()
    return response


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as log:
            log.seek(offset)
            return log.read(_CHUNK)
    except FileNotFoundError:
        return b""
