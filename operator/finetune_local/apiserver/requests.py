"""What was asked of the server, kept for tests, and the seam where tests put faults."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from .rbac import Grant

KEPT = 100_000  # requests that are remembered at least, before the older half is forgotten
Phase = Literal["before", "after"]


@dataclass
class RequestRecord:
    """One request. `status` is 0 until it is answered (and where the connection was dropped)."""

    method: str
    path: str
    """With the query string."""
    user_agent: str
    user: str = ""
    verb: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    dry_run: bool = False
    status: int = 0
    grant: Grant | None = None
    """The rule that allowed the call; None for what needs no permission."""
    started: float = field(default_factory=time.monotonic)

    @property
    def writes(self) -> bool:
        return self.verb in ("create", "update", "patch", "delete", "deletecollection") and not self.dry_run


class DropConnection(Exception):
    """Raised by an interceptor: the connection is cut without an answer."""


Interceptor = Callable[[RequestRecord, Phase], Awaitable[None]]
"""Called before a request is carried out, and after that but before it is answered. It may wait, raise ApiError
(which becomes the answer) or raise DropConnection. Watches and followed logs have no "after"."""
