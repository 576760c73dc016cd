"""The processes of one training, one for each GPU: which of them this is, and what they share, sum and agree on.

No other module knows how they talk. Where there is only one process everything here returns at once what it was given.
The environment says who is who (``RANK``, ``WORLD_SIZE`` …), as torchrun sets it and
:mod:`finetune_trainer.scaling.launch`.
"""

import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from finetune_trainer.training.batches import Cut

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

ENV_SHARED = "FINETUNE_SHARED"
"""Directory that all processes of a node see."""
ENV_LISTENING = "FINETUNE_MASTER_FD"
"""Socket that already listens at MASTER_PORT, inherited by rank 0: nobody else can have taken the port meanwhile."""

TIMEOUT = timedelta(minutes=15)
"""For ranks that wait for another in the middle of their work. A process that dies is noticed earlier: by the launcher
on its own node, by a closed connection on others. This is for one that hangs, or whose node is gone."""
_PREPARATION = timedelta(days=1)
"""For ranks that wait until all have their data and model: nodes download at different speeds."""
_PUBLICATION = timedelta(days=1)
_FAREWELL = timedelta(seconds=30)
_TRY = timedelta(seconds=10)
_POLL_SECONDS = 0.05


@dataclass(eq=False)
class Ranks:
    """The processes that train together."""

    rank: int = 0
    """Number of this process, from 0."""
    count: int = 1
    local_rank: int = 0
    """Number of this process among those of its node."""
    local_count: int = 1
    shared: Path | None = None
    """A directory that the processes of this node share; None: each prepares for itself."""
    _store: Any = field(default=None, repr=False)

    @classmethod
    def of_environment(cls) -> Self:
        """As the environment says; without it this process is the only one."""
        rank, count, local_rank, local_count = (
            int(os.environ.get(name) or default)
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
        shared = os.environ.get(ENV_SHARED)
        return cls(rank, count, local_rank, local_count, Path(shared) if shared else None)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, saves and publishes for all."""
        return self.rank == 0

    def prepared(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returns: made once a node where its processes share a directory. Needs no torch.

        Args:
            name: names it in that directory.
            make: returns something that can be pickled.
        """
        if self.shared is None or self.local_count == 1:
            return make()
        path = self.shared / name
        if self.local_rank == 0:
            made = make()
            fresh = path.with_name(f"{name}.new")
            fresh.write_bytes(pickle.dumps(made))
            fresh.rename(path)
            return made
        while not path.exists():  # for ever: the launcher ends this process where the other one fails
            time.sleep(_POLL_SECONDS)
        return pickle.loads(path.read_bytes())  # type: ignore[no-any-return]  # noqa: S301 - our own process wrote it

    def join(self) -> None:
        """Meets the other ranks, once everything that takes each of them a time of its own is done; a second call does
        nothing."""
        if self.alone or self._store:
            return
        import torch
        from torch import distributed
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        self._store = self._meet()
        self._store.add("ready", 1)
        self._await("ready", self.count, _PREPARATION)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.count,
            timeout=TIMEOUT,
        )

    def leave(self) -> None:
        """Parts from the other ranks: returns once the first one has come here, and it does last of all."""
        if self.alone:
            return
        if self.first:
            self._store.add("over", 1)
            self._await("left", self.count - 1, _FAREWELL)  # it is this process that answers them
        else:
            self._await("over", 1, _PUBLICATION)
            self._store.add("left", 1)

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return flag if self.alone else self.sum(float(flag))[0] > 0

    def sum(self, *values: float) -> tuple[float, ...]:
        """Of each value the sum over all ranks, the same on all of them."""
        if self.alone:
            return values
        import torch
        from torch import distributed

        totals = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(totals)
        return tuple(totals.tolist())

    def gather(self, value: T) -> list[T]:
        """The value of each rank, on all of them."""
        if self.alone:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def told(self, value: T) -> T:
        """What the first rank says, on all of them."""
        if self.alone:
            return value
        from torch import distributed

        said = [value]
        distributed.broadcast_object_list(said, device="cpu")  # type: ignore[arg-type]
        return said[0]

    def copy(self, tensor: "Tensor") -> None:
        """Overwrites ``tensor`` with what the first rank holds in it."""
        if not self.alone:
            from torch import distributed

            distributed.broadcast(tensor, src=0)

    def rounds(
        self, indices: Sequence[int], lengths: Sequence[int], cut: Cut, targets: Sequence[int] | None = None
    ) -> list[tuple[list[int], ...]]:
        """The forward passes over some examples: for each round the part of every rank, by its number.

        All ranks pass equally often, because passes of sharded weights need all of them; a part may be empty.
        """
        parts = [cut.micro_batches(share, lengths, targets) for share in deal(indices, lengths, self.count)]
        return list(zip_longest(*parts, fillvalue=[]))

    def _meet(self) -> Any:
        """The store of the first rank. Whoever comes before it tries again, and hears signals meanwhile."""
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        listening = os.environ.get(ENV_LISTENING) if self.first else None
        until = time.monotonic() + _PREPARATION.total_seconds()
        while True:
            try:
                return TCPStore(
                    os.environ["MASTER_ADDR"],
                    int(os.environ["MASTER_PORT"]),
                    is_master=self.first,
                    timeout=_TRY,
                    wait_for_workers=False,
                    master_listen_fd=int(listening) if listening else None,
                )
            except DistError:
                if self.first or time.monotonic() > until:
                    raise

    def _await(self, name: str, least: int, patience: timedelta) -> None:
        """Until the store counts ``least`` of ``name``, or patience is over. Waits here and not in the store, where no
        signal is heard."""
        until = time.monotonic() + patience.total_seconds()
        while self._store.add(name, 0) < least and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)


def deal(indices: Sequence[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deals examples to ranks so that each gets about as many tokens: the next one to whoever has the fewest.

    They come longest first, which makes it Graham's LPT rule: no rank gets more than 4/3 of the best that is possible
    (SIAM J. Appl. Math. 17, 1969). The order is kept.
    """
    if ranks == 1:
        return [list(indices)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for index in indices:
        least = tokens.index(min(tokens))
        shares[least].append(index)
        tokens[least] += int(lengths[index])
    return shares


ALONE = Ranks()
"""One process, as most runs are."""
