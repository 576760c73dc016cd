"""Leader election by a Lease.

Our own, because that of the ``kubernetes`` package (37) does not fit a leader that must know when to stop: an error
other than an ApiException (a broken connection) ends the election while the work it started goes on, a request that
hangs is not bounded by the renew deadline, and it writes local time as UTC.

Clocks of two machines are never compared: a Lease has expired when it was not seen to change for its duration, by
this replica's own monotonic clock.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from finetune_operator.cluster import Cluster
from finetune_operator.connection import ApiError, Unreachable
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

log = logging.getLogger(__name__)


class Elector:
    """One replica's part in the election.

    The holder's identity is ``<replica>@<address>``, so that the others know where the leader takes reports. A
    replica that finds its own name in the Lease is the same pod, started again, and goes on as leader.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        address: str,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._identity = f"{settings.replica}@{address}"
        self._changed = changed
        self._clock = clock
        self._seen: Raw | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self.leading = False

    @property
    def leader_address(self) -> str | None:
        """Address of the replica that holds the Lease, as far as known."""
        holder = str(((self._seen or {}).get("spec") or {}).get("holderIdentity") or "")
        return holder.partition("@")[2] or None

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back, so that another replica need not wait."""
        try:
            while True:
                await self._round()
                await asyncio.sleep(self._settings.lease_retry_period * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            if self.leading:
                await asyncio.shield(self._release())

    async def _round(self) -> None:
        deadline = self._settings.lease_renew_deadline
        left = self._renewed_at + deadline - self._clock() if self.leading else deadline
        try:
            async with asyncio.timeout(max(0.0, left)):
                leads = await self._try()
        except (ApiError, Unreachable, TimeoutError) as e:
            log.warning("the Lease could not be taken or renewed: %s", e or type(e).__name__)
            leads = self.leading and self._clock() - self._renewed_at < deadline
        self._lead(leads)

    def _lead(self, leads: bool) -> None:
        if leads != self.leading:
            self.leading = leads
            log.info("%s %s", self._identity, "leads" if leads else "does not lead any more")
            self._changed(leads)

    async def _try(self) -> bool:
        """Take or renew the Lease. The answer is whether this replica holds it now."""
        asked_at = self._clock()
        lease = await self._cluster.get_lease()
        try:
            if lease is None:
                self._saw(await self._cluster.create_lease(self._manifest()))
            else:
                self._saw(lease)
                if not self._may_take(lease):
                    return False
                self._saw(await self._cluster.update_lease(self._taken(lease)))
        except ApiError as e:
            if e.code == 409:  # another replica was faster; the next round sees it
                return False
            raise
        self._renewed_at = asked_at
        return True

    def _saw(self, lease: Raw) -> None:
        if self._seen is None or self._seen["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
            self._seen, self._seen_at = lease, self._clock()

    def _may_take(self, lease: Raw) -> bool:
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if not holder or holder.partition("@")[0] == self._settings.replica:
            return True
        return self._clock() - self._seen_at > (spec.get("leaseDurationSeconds") or self._settings.lease_duration)

    def _manifest(self) -> Raw:
        now = _micro_time()
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._settings.lease_name, "namespace": self._settings.namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": math.ceil(self._settings.lease_duration),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }

    def _taken(self, lease: Raw) -> Raw:
        before = lease.get("spec") or {}
        spec = before | self._manifest()["spec"] | {"leaseTransitions": before.get("leaseTransitions") or 0}
        if before.get("holderIdentity") == self._identity:
            spec["acquireTime"] = before.get("acquireTime") or spec["renewTime"]
        else:
            spec["leaseTransitions"] += 1
        return lease | {"spec": spec}

    async def _release(self) -> None:
        assert self._seen is not None  # noqa: S101 - whoever leads has seen the Lease
        self._lead(False)
        try:
            async with asyncio.timeout(2):
                spec = self._seen["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.update_lease(self._seen | {"spec": spec})
        except (ApiError, Unreachable, TimeoutError) as e:
            log.info("the Lease was not given back, it expires by itself: %s", e)


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
