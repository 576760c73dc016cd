"""The running operator: what is started in which order, and what stops it.

First what the operator needs to know (the CustomResourceDefinition, its certificate, full caches), then the work.
A part that fails for good ends the process; it is started anew and goes on from what the cluster holds.
"""

import asyncio
import functools
import gc
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from finetune_api import names
from finetune_operator import certificates
from finetune_operator.certificates import Material, SecretMissing
from finetune_operator.cluster import Cluster
from finetune_operator.connection import ApiError, Connection, Unreachable
from finetune_operator.finetunejobs import Key, namespace_of
from finetune_operator.health import Endpoint, Health, MetricsEndpoint
from finetune_operator.jobmetrics import JobCollector
from finetune_operator.journal import Journal
from finetune_operator.lease import Elector
from finetune_operator.logs import JobLog
from finetune_operator.metrics import Metrics
from finetune_operator.observed import Raw
from finetune_operator.profiles import ProfileReflector, Profiles
from finetune_operator.reconcile import Reconciler
from finetune_operator.render import Reporting
from finetune_operator.reports import Authenticator, Reports
from finetune_operator.settings import Settings, cannot_listen
from finetune_operator.workqueue import WorkQueue
from finetune_operator.world import World

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between two looks for something the operator cannot start without."""
_CERTIFICATE_CHECK = 6 * 3600.0

_CRD = f"the CustomResourceDefinition {names.CRD_NAME}"
_CERTIFICATE = "the certificate of the reports endpoint"
_CACHES = "the caches of FineTuneJobs, FineTuneProfiles, Jobs and pods"


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Operator:
    """One replica."""

    def __init__(self, settings: Settings, connection: Connection, metrics: Metrics) -> None:
        self._settings = settings
        self._connection = connection
        self._cluster = cluster = Cluster(connection, settings)
        self._metrics = metrics
        self.queue: WorkQueue[Key] = WorkQueue(lane_of=namespace_of, waited=metrics.waited)
        self.profiles = Profiles()
        self.world = World(self.queue.add, self.profiles.named, progressed=self._progressed)
        self._reporting: Reporting | None = None
        wrote = Journal(metrics).wrote
        self._reconciler = Reconciler(cluster, self.world, settings, lambda: self._reporting, utc_now, wrote)
        self.elector = Elector(cluster, settings, self._address(), self._lead)
        self._leading = False
        self._context: ssl.SSLContext | None = None
        self.health = Health()
        self.metrics_endpoint = MetricsEndpoint(metrics)
        metrics.registry.register(JobCollector(self._led_jobs, settings.metrics_jobs))
        host = urlsplit(settings.reports_url).hostname or ""
        self._reports = Reports(
            Authenticator(cluster),
            self.world.reported,
            self._other_leader,
            utc_now,
            host,
            settings.reports_connections,
            metrics.reported,
        )
        metrics.shows(lambda: len(self.queue), lambda: self._leading, lambda: self._reports.listener.open)
        for what in (_CRD, *([_CERTIFICATE] if settings.reports_url else []), _CACHES):
            self.health.waits_for(what)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            InvalidSetting: an address to listen on is not to be had.
        """
        try:
            await self._listen("health", self.health, self._settings.health_bind, self._settings.health_port)
            if self._settings.metrics:
                bind, port = self._settings.metrics_bind, self._settings.metrics_port
                await self._listen("metrics", self.metrics_endpoint, bind, port)
            await self._wait_for(_CRD, self._cluster.serves_finetunejobs)
            if self._settings.reports_url:
                await self._wait_for(_CERTIFICATE, self._open_reports)
            async with asyncio.TaskGroup() as group:
                await self._fill_caches(group)
                for work in self._work():
                    group.create_task(work)
        finally:
            await self._reports.stop()
            await self.metrics_endpoint.stop()
            await self.health.stop()

    async def _listen(self, what: str, endpoint: Endpoint, bind: str, port: int) -> None:
        try:
            await endpoint.start(bind, port)
        except OSError as e:
            raise cannot_listen(what, bind, port, e) from e

    def _address(self) -> str:
        return self._settings.advertise_address or f"{socket.gethostname()}:{self._settings.reports_port}"

    # starting

    async def _wait_for(self, what: str, there: Callable[[], Awaitable[bool]]) -> None:
        """Look for something until it is there; probes and log say what is missing."""
        told = ""
        while True:
            try:
                if await there():
                    break
                why = "it is not there yet"
            except SecretMissing:
                where = f"{self._settings.namespace}/{self._settings.reports_secret}"
                why = f"Secret {where} does not exist; create it, empty"
            except (ApiError, Unreachable) as e:
                why = str(e)
            if why != told:
                log.warning("waiting for %s: %s", what, why)
                told = why
            self.health.waits_for(what, why)
            await asyncio.sleep(_PAUSE)
        self.health.has(what)

    async def _fill_caches(self, group: asyncio.TaskGroup) -> None:
        settings, full = self._settings, False

        def warn(problem: str) -> None:
            log.warning("%s", problem)
            if not full:
                self.health.waits_for(_CACHES, problem)

        reflectors = [
            ProfileReflector(self._connection, self.profiles, warn, functools.partial(self.health.note, "profiles")),
            *self.world.reflectors(self._connection, settings.watch_namespaces, settings.watch_selector, warn),
        ]
        for reflector in reflectors:
            group.create_task(reflector.run())
        for reflector in reflectors:
            await reflector.synced.wait()
        full = True
        self.health.has(_CACHES)
        log.info("caches hold %d FineTuneJobs", len(self.world.finetunejobs))
        # What is in the caches stays: with thousands of jobs Python's collector, looking through all of it in vain,
        # would stop the operator for a good part of a second each time.
        gc.collect()
        gc.freeze()

    async def _open_reports(self) -> bool:
        material = await self._certificate()
        context = material.context()
        bind, port = self._settings.reports_bind, self._settings.reports_port
        try:
            await self._reports.start(bind, port, context, material.ca)
        except OSError as e:
            raise cannot_listen("reports", bind, port, e) from e
        self._context = context
        self._reporting = Reporting(self._settings.reports_url, material.ca)
        return True

    # working

    def _work(self) -> Iterator[Coroutine[None, None, None]]:
        """What runs as long as the operator does."""
        for _ in range(self._settings.workers):
            yield self.queue.work(self._turn, self._failed)
        if self._settings.reports_url:
            yield self._renew_certificate()
        if self._settings.leader_election:
            yield self.elector.run()
        else:
            self._lead(True)

    def _lead(self, leads: bool) -> None:
        self._leading = leads
        if leads:
            for key in self.world.finetunejobs:
                self.queue.add(key)
            self.queue.resume()
        else:
            self.queue.pause()

    def _other_leader(self) -> str | None:
        return None if self._leading else (self.elector.leader_address or "")

    def _led_jobs(self) -> Iterable[Raw]:
        return self.world.finetunejobs.all() if self._leading else ()

    async def _turn(self, key: Key) -> float | None:
        with self._metrics.turn():
            return await self._reconciler(key)

    def _progressed(self, key: Key) -> None:
        """A turn for every report would cost twice what taking the report does, and find nothing that may be
        written."""
        wait = self._reconciler.progress_due_in(key)
        if wait > 0:
            self.queue.add_after(key, wait)
        else:
            self.queue.add(key)

    def _failed(self, key: Key, error: Exception) -> None:
        if isinstance(error, ApiError | Unreachable):
            self._metrics.failed("api")
            JobLog(log, *key).warning("%s; trying again", error)
        else:
            self._metrics.failed("bug")
            JobLog(log, *key).error("%s; trying again", error, exc_info=error)

    async def _certificate(self) -> Material:
        host = urlsplit(self._settings.reports_url).hostname or ""
        return await certificates.ensure(self._cluster, host, utc_now())

    async def _renew_certificate(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_CHECK)
            try:
                material = await self._certificate()
            except (ApiError, Unreachable, SecretMissing) as e:
                log.warning("the certificate of the reports endpoint could not be looked after: %s", e)
                continue
            if self._context:
                material.load_into(self._context)
            self._reports.trust(material.ca)
            self._reporting = Reporting(self._settings.reports_url, material.ca)
