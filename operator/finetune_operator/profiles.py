"""FineTuneProfiles, followed by list and watch like Jobs and pods, also where their definition comes later or never."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from finetune_api import names
from finetune_operator.cache import Cache
from finetune_operator.cluster import PROFILES
from finetune_operator.connection import ApiError, Connection
from finetune_operator.observed import Raw
from finetune_operator.reflector import Reflector

log = logging.getLogger(__name__)

_ABSENT = (
    f"the CustomResourceDefinition {names.PROFILE_CRD_NAME} is not installed: FineTuneJobs run without profiles, as "
    "the operator's settings say"
)


@dataclass(frozen=True, slots=True)
class ProfileState:
    """A FineTuneProfile, as far as decisions need it."""

    name: str
    uid: str
    raw: Raw
    namespace: str = ""
    job_uid: str | None = None

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From an object of the API server."""
        meta = raw["metadata"]
        return cls(meta["name"], meta["uid"], {"metadata": {"name": meta["name"]}, "spec": raw.get("spec") or {}})


class Profiles(Cache[ProfileState]):
    """All FineTuneProfiles."""

    def named(self, name: str) -> Raw | None:
        """The FineTuneProfile of a name; there are few."""
        return next((profile.raw for profile in self if profile.name == name), None)


class ProfileReflector(Reflector[ProfileState]):
    """Keeps the FineTuneProfiles in a cache. Without their definition it is empty, until that is installed.

    Args:
        note: is told that the definition is absent, and why that matters, or None once it is there.
    """

    def __init__(
        self, connection: Connection, cache: Profiles, warn: Callable[[str], None], note: Callable[[str | None], None]
    ) -> None:
        super().__init__(connection, PROFILES, None, ProfileState.of, cache, warn)
        self._note = note
        self._absent = False

    async def _list(self) -> str:
        try:
            version = await super()._list()
        except ApiError as e:
            if e.code == 404:
                self._store.listed([], None)
                self._found_absent()
                self.synced.set()
            raise
        if self._absent:
            log.info("the CustomResourceDefinition %s is there now", names.PROFILE_CRD_NAME)
        self._absent = False
        self._note(None)
        return version

    def _found_absent(self) -> None:
        if not self._absent:
            self._warn(_ABSENT)
        self._absent = True
        self._note(_ABSENT)

    def _warn_of(self, problem: str, pause: float) -> None:
        if not self._absent:
            super()._warn_of(problem, pause)
