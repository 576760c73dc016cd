"""How long a server's troubles are waited out."""

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Patience:
    """Time-outs, and pauses that double from try to try, each shortened by chance so that many clients spread out.

    The bound, per request: a server that was reached before is given up after 8 tries, that is after at most
    8 × 8 s of silence and 91 s of pauses, in under three minutes. One that never answered, whose address is probably
    wrong, after 3 tries, in under half a minute.
    """

    connect_seconds: float = 8.0
    """Until there is a connection, and for each mebibyte that is sent: slower than 128 KiB a second is given up."""
    silence_seconds: float = 8.0
    """Without an answer, or with next to nothing of it."""
    first_tries: int = 3
    """As long as the server has never answered."""
    tries: int = 8
    pause_seconds: float = 1.0
    """After the first try."""
    longest_pause_seconds: float = 30.0
    chance: random.Random = field(default_factory=random.Random, compare=False)
    """Its own: whoever draws from Python's shared generator changes what a training run draws next."""

    def pause(self, tries: int, reached: bool) -> float | None:
        """Seconds to wait after this many tries, or None where that was the last one."""
        if tries >= (self.tries if reached else self.first_tries):
            return None
        return min(self.longest_pause_seconds, self.pause_seconds * 2.0 ** (tries - 1)) * self.chance.uniform(0.5, 1.0)
