"""The FineTuneJobs, by the watch of them and by the answers to our own reads and writes.

resourceVersions are compared for equality only. An own write is made on the newest version (the API server checks
it), so nothing can lie between the version before it and the one it answers with. Of the events that arrive after it,
those with a version we wrote or read ourselves are echoes, and any other one is newer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from finetune_api.conditions import Phase
from finetune_operator.observed import Raw
from finetune_operator.source import source_names

Key = tuple[str, str]
"""Namespace and name of a FineTuneJob."""


_TERMINAL = frozenset(phase for phase in Phase if phase.terminal)


class FineTuneJobs:
    """All of them. None is older than what we last wrote of it."""

    def __init__(self, changed: Callable[[Key], None], settled: Callable[[str], None]) -> None:
        """``changed`` is told which one changed, unless we did it; ``settled`` is told the UID of one that has ended or
        is gone."""
        self._changed, self._settled = changed, settled
        self._all: dict[Key, Raw] = {}
        self._key_of: dict[str, Key] = {}
        self._known_versions: dict[Key, list[str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._all)

    def all(self) -> Iterable[Raw]:
        """The objects, as ``get`` has them."""
        return self._all.values()

    def get(self, key: Key) -> Raw | None:
        """One as it is, without what no decision needs (see ``slim``)."""
        return self._all.get(key)

    def of(self, uid: str, namespace: str) -> Key | None:
        """Which one of a namespace has a UID."""
        key = self._key_of.get(uid)
        return key if key and key[0] == namespace else None

    def sources(self, raw: Raw) -> dict[str, Raw]:
        """Those that another one's ``job://`` names, by name, as far as they exist."""
        return {key[1]: found for key in source_keys(raw) if (found := self.get(key))}

    # what the API server says

    def listed(self, found: Sequence[Raw], namespace: str | None) -> None:
        """A list (of a namespace) arrived: what is not in it is gone."""
        there = {raw["metadata"]["uid"] for raw in found}
        for key, known in list(self._all.items()):
            if namespace in (None, key[0]) and known["metadata"]["uid"] not in there:
                self.event("DELETED", known)
        for raw in found:
            cached = self._all.get(_key(raw))
            if cached is None or cached["metadata"]["resourceVersion"] != raw["metadata"]["resourceVersion"]:
                self.event("MODIFIED", raw)

    def event(self, kind: str, found: Raw) -> None:
        """An event of the watch arrived. ``kind`` is ADDED, MODIFIED or DELETED."""
        key = _key(found)
        if kind == "DELETED":
            if self.drop(found):
                self._changed(key)
            return
        known = self._known_versions.get(key, [])
        version = found["metadata"]["resourceVersion"]
        if version in known:
            del known[: known.index(version) + 1]
            if not known:
                del self._known_versions[key]
            return
        self._known_versions.pop(key, None)
        self._put(key, found)
        self._changed(key)

    # what we did, or read ourselves

    def learned(self, raw: Raw) -> None:
        """The API server answered with this object to a read or a write of ours; its event is still to come.

        One that is not kept stays away: that it is gone, or another's to serve, may be heard before the answer.
        """
        key, meta = _key(raw), raw["metadata"]
        cached = self.get(key)
        if cached is None or cached["metadata"]["uid"] != meta["uid"]:
            return
        if cached["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            self._known_versions.setdefault(key, []).append(meta["resourceVersion"])
        self._put(key, slim(raw))

    def drop(self, raw: Raw) -> bool:
        """Forget one that is gone; another of its name stays. Whether it was kept."""
        key = _key(raw)
        cached = self.get(key)
        if cached is None or cached["metadata"]["uid"] != raw["metadata"]["uid"]:
            return False
        del self._all[key]
        self._known_versions.pop(key, None)
        self._forget(cached)
        return True

    def _put(self, key: Key, raw: Raw) -> None:
        if (before := self.get(key)) and before["metadata"]["uid"] != raw["metadata"]["uid"]:
            self._forget(before)
        self._all[key] = raw
        self._key_of[raw["metadata"]["uid"]] = key
        if finished(raw):
            self._settled(raw["metadata"]["uid"])

    def _forget(self, raw: Raw) -> None:
        uid = raw["metadata"]["uid"]
        self._key_of.pop(uid, None)
        self._settled(uid)


def slim(raw: Raw) -> Raw:
    """Without what no decision needs and what may be large."""
    meta = {key: value for key, value in raw["metadata"].items() if key not in ("managedFields", "annotations")}
    return {"metadata": meta, "spec": raw.get("spec") or {}, "status": raw.get("status") or {}}


def source_keys(raw: Raw) -> list[Key]:
    """Which FineTuneJobs a FineTuneJob starts from, if it does."""
    found = source_names((raw.get("spec") or {}).get("model"))
    return [(raw["metadata"]["namespace"], name) for name in found]


def finished(raw: Raw) -> bool:
    """Whether a FineTuneJob has ended."""
    return (raw.get("status") or {}).get("phase") in _TERMINAL


def namespace_of(key: Key) -> str:
    """The namespace of a FineTuneJob: a tenant's own."""
    return key[0]


def _key(raw: Raw) -> Key:
    meta = raw["metadata"]
    return meta["namespace"], meta["name"]
