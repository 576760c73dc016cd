"""When a training is saved."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS = 600.0
"""Between two checkpoints, where ``checkpoint.everySteps`` does not say how many steps."""
_SHARE = 0.02
"""Of a training's time that it may stand still for checkpoints, where it is free to choose when."""
_WORTH_SECONDS = 60.0
"""What was trained in less is sooner trained once more than worth an upload of its own."""


class Pace:
    """The pace of one training; its time begins at once."""

    def __init__(self, every_steps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_steps = every_steps
        self._clock = clock
        self._last = clock()
        self._cost = 0.0

    def due(self, step: int) -> bool:
        """Whether to save after this step, which is not the last one."""
        if self._every_steps:
            return step % self._every_steps == 0
        return self._since() >= max(_SECONDS, self._cost / _SHARE)

    def worth_an_upload(self) -> bool:
        """Whether the state after the last step is."""
        return bool(self._every_steps) or self._since() >= _WORTH_SECONDS

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within, a checkpoint is written."""
        begun = self._clock()
        yield
        self._last = self._clock()
        self._cost = self._last - begun

    def _since(self) -> float:
        return self._clock() - self._last
