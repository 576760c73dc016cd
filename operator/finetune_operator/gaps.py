"""FineTuneJobs that were deleted while nobody watched.

After a gap kopf lists anew, and says nothing of what is no longer there.
"""

import asyncio
import logging
from collections.abc import Sequence

from finetune_operator.cluster import ApiError, Cluster, Unreachable
from finetune_operator.observed import Raw
from finetune_operator.world import World

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds before another try."""


class Gaps:
    """Whoever is known, and not in a list that began later, is gone."""

    def __init__(self, cluster: Cluster, world: World, namespaces: Sequence[str]) -> None:
        self._cluster, self._world = cluster, world
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._listed = asyncio.Event()

    def listed(self) -> None:
        """kopf has listed the FineTuneJobs."""
        self._listed.set()

    async def run(self) -> None:
        """Look for deletions after each list, until cancelled."""
        while True:
            await self._listed.wait()
            self._listed.clear()
            try:
                for namespace in self._namespaces:
                    await self._compare(namespace)
            except (ApiError, Unreachable) as e:
                log.warning("FineTuneJobs could not be listed to notice deletions: %s", e)
                await asyncio.sleep(_PAUSE)
                self._listed.set()

    async def _compare(self, namespace: str | None) -> None:
        known = [raw for raw in self._world.all() if namespace in (None, raw["metadata"]["namespace"])]
        if not known:
            return
        try:
            there = set(await self._cluster.list_finetunejobs(namespace, _uid))
        except ApiError as e:
            if e.code == 403 and namespace is not None:
                return  # kopf cannot list there either, and says so
            raise
        for raw in known:
            if _uid(raw) not in there:
                self._world.seen("DELETED", raw)


def _uid(raw: Raw) -> str:
    return str(raw["metadata"]["uid"])
