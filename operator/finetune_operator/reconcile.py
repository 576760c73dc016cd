"""One turn of work on one FineTuneJob: observe, plan, act, write the status once, then tell Events.

Every call may be the last one before a crash: what was done shows in the cluster, and the next turn goes on from
there. Two replicas that work at once meet at deterministic names and resourceVersion preconditions.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from finetune_api import names
from finetune_operator import events
from finetune_operator.attempts import Attempts
from finetune_operator.cluster import Cluster
from finetune_operator.connection import ApiError, Unreachable
from finetune_operator.finetunejobs import Key, source_keys
from finetune_operator.logs import JobLog
from finetune_operator.observed import JobState, Observed, PodState, Raw, controller_uid
from finetune_operator.outcome import Action, Confirm, CreateJob, DeleteJob, ReadEvents
from finetune_operator.plan import Decision, plan
from finetune_operator.policy import profile_name
from finetune_operator.render import Reporting
from finetune_operator.settings import Settings
from finetune_operator.world import World, share_of

log = logging.getLogger(__name__)

_MOST_STEPS = 16
"""Actions of one turn; confirm, create and a look at the result are three. A finished job deletes ten Jobs."""
_LOOK_AGAIN = 30.0
"""Seconds until a Job that is not in the cache (its labels were removed) is looked at again."""
_REFUSALS = (400, 403, 413, 422)


class _Changed(Exception):
    """The FineTuneJob is not what it was when the turn began; a new turn sees it as it is."""


class Reconciler:
    """Works on one FineTuneJob at a time for each caller; callers see to it that a key has one."""

    def __init__(
        self,
        cluster: Cluster,
        world: World,
        settings: Settings,
        reporting: Callable[[], Reporting | None],
        clock: Callable[[], datetime],
        wrote: Callable[[Raw, Raw], None] = lambda before, after: None,
    ) -> None:
        """``wrote`` is told of each status that was written: the FineTuneJob before and after."""
        self._cluster, self._world, self._settings = cluster, world, settings
        self._reporting, self._clock, self._wrote = reporting, clock, wrote
        self._pace = settings
        self._written: dict[Key, datetime] = {}

    async def __call__(self, key: Key) -> float | None:
        """One turn. The answer is the seconds after which to look again, if nothing happens before.

        Raises:
            ApiError, Unreachable: what the API server answered and a later turn may mend.
        """
        raw = self._world.finetunejobs.get(key)
        if raw is None:
            self._written.pop(key, None)
            return None
        try:
            decision, off_cache = await self._decide(key, raw)
            await self._write(key, raw, decision)
        except _Changed:
            return 0.0
        return _LOOK_AGAIN if off_cache and decision.requeue_after is None else decision.requeue_after

    async def _decide(self, key: Key, raw: Raw) -> tuple[Decision, bool]:
        """The decision that needs no more actions, and whether the Job is one that the cache does not hold."""
        attempt = Attempts.of(raw.get("status") or {}).number
        observed = self._world.observe(raw, attempt, self._written.get(key))
        cached = observed.job
        for _ in range(_MOST_STEPS):
            decision = plan(raw, observed, self._clock(), self._paced(), self._reporting())
            if not decision.actions:
                return decision, observed.job is not None and cached is None
            for action in decision.actions:
                observed = await self._act(key, raw, attempt, action, observed)
        raise RuntimeError(f"{key}: no decision after {_MOST_STEPS} actions")

    def progress_due_in(self, key: Key) -> float:
        """Seconds until a status that tells of nothing but progress may be written: until then a turn has no use."""
        written = self._written.get(key)
        if written is None:
            return 0.0
        since = (self._clock() - written).total_seconds()
        return max(0.0, self._paced().progress_interval - since) if since >= 0 else 0.0  # a clock was turned back

    def _paced(self) -> Settings:
        """The settings, with progress written the more rarely the more jobs report it: what 5,000 jobs write every ten
        seconds is more than an API server or this process can take."""
        interval = max(self._settings.progress_interval, self._world.reporting / self._settings.progress_writes)
        if interval != self._pace.progress_interval:
            self._pace = replace(self._settings, progress_interval=interval)
        return self._pace

    async def _act(self, key: Key, raw: Raw, attempt: int, action: Action, observed: Observed) -> Observed:
        """Carry an action out; the answer is what is known afterwards."""
        if isinstance(action, Confirm):
            return await self._confirm(raw, attempt, observed)
        if isinstance(action, ReadEvents):
            return await self._read_events(observed)
        if isinstance(action, DeleteJob):
            return await self._delete(key, action, observed)
        return await self._create(key, raw, action, observed)

    async def _confirm(self, raw: Raw, attempt: int, observed: Observed) -> Observed:
        """Read what a verdict hangs on from the API server itself."""
        meta = raw["metadata"]
        namespace, uid = meta["namespace"], meta["uid"]

        async def job_of(number: int) -> JobState | None:
            job = await self._cluster.get_job(namespace, names.child_name(meta["name"], uid, number))
            return JobState.of(job) if job else None

        job = await job_of(attempt)
        before = await job_of(attempt - 1) if attempt else None
        pods = await self._cluster.list_pods_of(namespace, uid) if job or observed.job or raw.get("status") else []
        own, lingering = share_of([PodState.of(pod) for pod in pods], attempt)
        profile = await self._cluster.get_profile(profile_name(raw)) if job is None else None
        sources = {key[1]: await self._cluster.get_finetunejob(*key) for key in source_keys(raw)}
        return replace(
            observed,
            job=job,
            others=(before,) if before else (),
            pods=own,
            lingering=lingering,
            sources={name: source for name, source in sources.items() if source is not None},
            profile=profile,
            confirmed=True,
        )

    async def _read_events(self, observed: Observed) -> Observed:
        job = observed.job
        events = await self._cluster.list_refusals(job.namespace, job.uid) if job else []
        newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
        return replace(observed, complaint=newest.get("message", ""))

    async def _delete(self, key: Key, action: DeleteJob, observed: Observed) -> Observed:
        """As it is now, not as a cache has it: a Job that completed meanwhile is not to be deleted."""
        job = action.job
        live = await self._cluster.get_job(job.namespace, job.name)
        state = JobState.of(live) if live else None
        if live is None or state is None or state.uid != job.uid:
            return _with(observed, job, state)
        if state.ended and not action.even_if_ended:
            return _with(observed, job, state)
        try:
            await self._cluster.delete_job(job.namespace, job.name, job.uid, live["metadata"]["resourceVersion"])
        except ApiError as e:
            if e.code == 409:
                raise _Changed from e
            raise
        JobLog(log, *key).info("deleted Job %s", job.name)
        return _with(observed, job, None)

    async def _create(self, key: Key, raw: Raw, action: CreateJob, observed: Observed) -> Observed:
        await self._still(key, raw)
        meta = action.manifest["metadata"]
        what = action.service or action.manifest
        try:
            if action.service and not await self._serve(action.service):
                return replace(observed, taken=f"Service {meta['namespace']}/{action.service['metadata']['name']}")
            what = action.manifest
            job = await self._cluster.create_job(action.manifest)
        except ApiError as e:
            if e.is_taken:
                return replace(observed, job=await self._existing(meta["namespace"], meta["name"]))
            if e.code in _REFUSALS and "NamespaceTerminating" not in e.causes:
                where = f"{what['kind']} {meta['namespace']}/{what['metadata']['name']}"
                return replace(observed, refusal=f"creating {where} was refused: {e.message}")
            raise
        JobLog(log, *key).info("created Job %s", meta["name"])
        return replace(observed, job=JobState.of(job))

    async def _serve(self, manifest: Raw) -> bool:
        """Create the Service, unless it is there. False where somebody else's is."""
        meta = manifest["metadata"]
        try:
            await self._cluster.create_service(manifest)
        except ApiError as e:
            if not e.is_taken:
                raise
            found = await self._cluster.get_service(meta["namespace"], meta["name"])
            if found is None:
                raise Unreachable(f"Service {meta['namespace']}/{meta['name']} was there and is gone") from e
            return controller_uid(found["metadata"]) == controller_uid(meta)
        return True

    async def _still(self, key: Key, raw: Raw) -> None:
        """Make sure that the FineTuneJob a Job is created for exists as it was seen: a watch may be behind."""
        live = await self._refreshed(key, raw)
        if live is None or live["metadata"]["resourceVersion"] != raw["metadata"]["resourceVersion"]:
            raise _Changed

    async def _existing(self, namespace: str, name: str) -> JobState:
        job = await self._cluster.get_job(namespace, name)
        if job is None:
            raise Unreachable(f"Job {namespace}/{name} was there and is gone")
        return JobState.of(job)

    async def _write(self, key: Key, raw: Raw, decision: Decision) -> None:
        if decision.status is None:
            return
        meta = raw["metadata"]
        try:
            answer = await self._cluster.patch_status(*key, meta["resourceVersion"], decision.status)
        except ApiError as e:
            if e.code == 404:
                self._world.finetunejobs.drop(raw)
                raise _Changed from e
            if e.code == 409:
                await self._refreshed(key, raw)
                raise _Changed from e
            raise
        self._world.finetunejobs.learned(answer)
        self._written[key] = self._clock()
        self._wrote(raw, answer)
        await self._tell(raw, decision)

    async def _refreshed(self, key: Key, raw: Raw) -> Raw | None:
        """The FineTuneJob as it is now; None where it is gone, even if another one has its name."""
        live = await self._cluster.get_finetunejob(*key)
        if live is None or live["metadata"]["uid"] != raw["metadata"]["uid"]:
            self._world.finetunejobs.drop(raw)
            return None
        self._world.finetunejobs.learned(live)
        return live

    async def _tell(self, raw: Raw, decision: Decision) -> None:
        """Events are for people: what goes wrong with one stops nothing."""
        for event in decision.events:
            try:
                await self._cluster.create_event(events.manifest(raw, event, self._clock()))
            except (ApiError, Unreachable) as e:
                meta = raw["metadata"]
                JobLog(log, meta["namespace"], meta["name"]).warning("no Event %s: %s", event.reason, e)


def _with(observed: Observed, job: JobState, state: JobState | None) -> Observed:
    """What is known once a Job is known to be in another state, or gone."""
    if observed.job is not None and observed.job.name == job.name:
        return replace(observed, job=state)
    others = tuple(other for other in observed.others if other.name != job.name)
    return replace(observed, others=(*others, state) if state else others)
