"""kopf wiring: login and the watch of FineTuneJobs. Handlers only pass on what arrives; they decide nothing.

No finalizers, annotations, timers, indexes or Events of kopf's: a handler of raw events that returns None makes kopf
write nothing at all.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from finetune_api import names
from finetune_operator.cluster import Cluster
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

_LOGIN_GOOD_FOR = timedelta(minutes=10)
"""A ServiceAccount's token is renewed on disk long before it expires, and kopf must notice."""
_BACKOFFS = (1, 1, 2, 3, 5, 8, 13, *([20] * 25))
"""Seconds between tries of a failing request: about ten minutes. Then the process ends and is started anew."""
_WORKER_LINGERS = 0.5
"""Seconds that kopf keeps a task for an object that nothing happens to, and waits for it at the end."""


async def watch_finetunejobs(cluster: Cluster, settings: Settings, seen: Callable[[str | None, Raw], None]) -> None:
    """Watch until SIGTERM, SIGINT or cancelled. The CustomResourceDefinition must exist."""
    await kopf.operator(
        registry=_registry(cluster, seen),
        settings=_kopf_settings(settings),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )


def _registry(cluster: Cluster, seen: Callable[[str | None, Raw], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _connection(cluster)

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
    chosen.watching.connect_timeout = settings.request_timeout
    chosen.networking.request_timeout = settings.request_timeout
    chosen.networking.error_backoffs = _BACKOFFS
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


async def _connection(cluster: Cluster) -> kopf.ConnectionInfo:
    found = cluster.configuration
    _, _, token = (await cluster.authorization() or "").partition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
        scheme="Bearer" if token else None,
        token=token or None,
        expiration=datetime.now(UTC) + _LOGIN_GOOD_FOR if token else None,
    )
