"""``Pace``: learns whether a batcher should wait a moment for the callers it has just answered.

A crowd of clients that each ask again as soon as they are answered splits into two halves: while one half is
in the model, the other waits, and so every batch is half a crowd. Waiting until those who were just answered
are back joins the halves. It pays only if callers do come back at once, and if a call for all takes less than
two for half each; both are measured here. A lone caller never waits, nor do callers that come at random.

Rules of the room: numbers and a clock; no queue, no loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SHARE = 0.5
"""Most of a call's fixed time that may be spent waiting."""
_FEW = 0.5
"""Share of callers that must come back in that time for a wait to pay."""
_MEMORY = 0.9
"""Weight of what was learned before a batch."""


class Pace:
    """What the batches of one model have shown.

    Args:
        clock: seconds, from any start.

    Attributes:
        crowd: how many callers wait once those that were just answered are back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.crowd = 0
        self._clock = clock
        self._until = 0.0
        self._answered = 0
        self._came = 0
        self._comes_back = 0.0
        # Decayed sums over batches of 1, rows, seconds, rows^2 and rows x seconds: a line through them.
        self._count = self._rows = self._seconds = self._squares = self._products = 0.0

    def arrived(self) -> None:
        """A caller asks."""
        if self._answered and self._clock() < self._until:
            self._came += 1

    def answered(self, callers: int, rows: int, seconds: float, waiting: int) -> None:
        """A batch is answered.

        Args:
            callers: in it.
            rows: of all of them.
            seconds: that the call took.
            waiting: callers that wait already.
        """
        if self._answered:
            came_back = min(1.0, self._came / self._answered)
            self._comes_back += (1 - _MEMORY) * 3 * (came_back - self._comes_back)
        self._learn(rows, seconds)
        self._came, self._answered = 0, callers
        self._until = self._clock() + _SHARE * self.fixed_seconds
        self.crowd = waiting + callers

    def patience(self, waiting: int) -> float:
        """Seconds to wait for more than the ``waiting`` callers; 0: none."""
        if waiting >= self.crowd or self._comes_back < _FEW:
            return 0.0
        return max(0.0, self._until - self._clock())

    @property
    def fixed_seconds(self) -> float:
        """The part of a call's time that does not depend on its rows."""
        if not self._count:
            return 0.0
        mean_rows, mean = self._rows / self._count, self._seconds / self._count
        spread = self._squares / self._count - mean_rows**2
        if spread < 0.01 * mean_rows**2:  # all of one size: nothing to tell the parts by
            return mean
        slope = (self._products / self._count - mean_rows * mean) / spread
        return min(mean, max(0.0, mean - slope * mean_rows))

    def _learn(self, rows: int, seconds: float) -> None:
        new = (1.0, rows, seconds, rows * rows, rows * seconds)
        old = (self._count, self._rows, self._seconds, self._squares, self._products)
        self._count, self._rows, self._seconds, self._squares, self._products = (
            _MEMORY * before + now for before, now in zip(old, new, strict=True)
        )
