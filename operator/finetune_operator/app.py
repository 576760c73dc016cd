"""kopf wiring: login and the watch of FineTuneJobs. Handlers only pass on what arrives; they decide nothing.

No finalizers, annotations, timers, indexes or Events of kopf's: a handler of raw events that returns None makes kopf
write nothing at all.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf

from finetune_api import names
from finetune_operator.cluster import Cluster
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

_LOGIN_GOOD_FOR = timedelta(minutes=10)
"""A ServiceAccount's token is renewed on disk long before it expires, and kopf must notice."""
_LOGIN_PAUSE = 1.0
"""Shortest time in seconds between two logins: while the API server takes no credentials, kopf would ask at once."""


class _Backoffs:
    """Seconds between tries of a failing request, without an end: one namespace that may not be read, or an API server
    that is away, is no reason to stop what else goes on."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8, 13), itertools.repeat(20))


_WORKER_LINGERS = 0.5
"""Seconds that kopf keeps a task for an object that nothing happens to, and waits for it at the end."""


async def watch_finetunejobs(
    cluster: Cluster, settings: Settings, seen: Callable[[str | None, Raw], None], listed: Callable[[], None]
) -> None:
    """Watch until SIGTERM, SIGINT or cancelled. The CustomResourceDefinition must exist.

    ``seen`` is told of every object that comes, changes or goes. A list says nothing of objects that went before it:
    ``listed`` is told of each, at the start and after a gap.
    """
    await kopf.operator(
        registry=_registry(cluster, seen, listed),
        settings=_kopf_settings(settings),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )


def _registry(
    cluster: Cluster, seen: Callable[[str | None, Raw], None], listed: Callable[[], None]
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    not_before = 0.0

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        nonlocal not_before
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        not_before = time.monotonic() + _LOGIN_PAUSE
        return await _credentials(cluster, listed)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def finetunejob(event: Any, **_: Any) -> None:
        seen(event["type"], event["object"])

    return registry


def _kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.persistence.diffbase_storage = _NoDifferences()
    chosen.persistence.progress_storage = _NoProgress()
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = int(settings.watch_timeout)
    chosen.watching.client_timeout = settings.watch_timeout + 30
    chosen.watching.inactivity_timeout = settings.watch_quiet
    chosen.watching.connect_timeout = settings.request_timeout
    chosen.networking.request_timeout = settings.request_timeout
    chosen.networking.error_backoffs = _Backoffs()
    chosen.queueing.idle_timeout = chosen.queueing.exit_timeout = _WORKER_LINGERS
    return chosen


class _NoDifferences(kopf.DiffBaseStorage):
    """kopf copies every object to find out what changed in it, and then no handler of ours asks: most of what an event
    costs."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """The same, of how far handlers got: ours is done when it returns."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


async def _credentials(cluster: Cluster, listed: Callable[[], None]) -> kopf.AiohttpSession:
    return kopf.AiohttpSession(
        server=cluster.configuration.host,
        aiohttp_session=await cluster.session(_lists(listed)),
        expiration=datetime.now(UTC) + _LOGIN_GOOD_FOR,
    )


def _lists(listed: Callable[[], None]) -> aiohttp.TraceConfig:
    """Tells when kopf has listed the FineTuneJobs, which it does in pages."""

    async def answered(_: aiohttp.ClientSession, __: object, params: aiohttp.TraceRequestEndParams) -> None:
        is_list = params.url.path.endswith(f"/{names.PLURAL}") and not params.url.query.keys() & {"watch", "continue"}
        if is_list and params.response.status == 200:
            listed()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(answered)
    return trace
