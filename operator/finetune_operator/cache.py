"""Caches of what belongs to FineTuneJobs: their Jobs and pods, in the small form that decisions need."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Child(Protocol):
    """What the objects that a cache holds have in common."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def job_uid(self) -> str | None: ...


C = TypeVar("C", bound=Child)


class Cache(Generic[C]):
    """Children, by their own UID and by namespace and UID of their FineTuneJob.

    The UID is a label, which whoever may create pods in some namespace can write as they like: a child counts in its
    own namespace alone.
    """

    def __init__(self, changed: Callable[[C], None] = lambda _: None) -> None:
        """``changed`` is told of each child that comes, changes or goes by what the API server says."""
        self._changed = changed
        self._all: dict[str, C] = {}
        self._of: dict[tuple[str, str], set[str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        return iter(self._all.values())

    def get(self, uid: str) -> C | None:
        """The child with a UID."""
        return self._all.get(uid)

    def of(self, job_uid: str, namespace: str) -> list[C]:
        """The children of a FineTuneJob of a namespace."""
        return [self._all[uid] for uid in self._of.get((namespace, job_uid), ())]

    def put(self, child: C) -> None:
        """Add or replace a child."""
        if (before := self._all.get(child.uid)) and before.job_uid != child.job_uid:
            self.drop(child.uid)
        self._all[child.uid] = child
        if child.job_uid:
            self._of.setdefault((child.namespace, child.job_uid), set()).add(child.uid)

    def drop(self, uid: str) -> C | None:
        """Forget a child; the answer is what it was."""
        child = self._all.pop(uid, None)
        if child and child.job_uid and (siblings := self._of.get((child.namespace, child.job_uid))):
            siblings.discard(uid)
            if not siblings:
                del self._of[child.namespace, child.job_uid]
        return child

    def event(self, kind: str, child: C) -> None:
        """An event of the watch."""
        if kind == "DELETED":
            self.drop(child.uid)
        elif self._all.get(child.uid) == child:
            return
        else:
            self.put(child)
        self._changed(child)

    def listed(self, children: Sequence[C], namespace: str | None) -> None:
        """A list (of a namespace): what is not in it is gone."""
        for child in self.replace(children, namespace):
            self._changed(child)

    def replace(self, children: Sequence[C], namespace: str | None) -> list[C]:
        """Make a list the whole content (of a namespace); the answer is what was not there before, changed or left."""
        fresh = {child.uid: child for child in children}
        gone = [c for c in self._all.values() if (namespace in (None, c.namespace)) and c.uid not in fresh]
        changed = [child for child in children if self._all.get(child.uid) != child]
        for child in gone:
            self.drop(child.uid)
        for child in changed:
            self.put(child)
        return gone + changed
