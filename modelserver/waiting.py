"""What waits for an answer: how many requests for each model (``Backlog``), and until when (``Deadlines``).

Rules of the room: numbers, a clock and the event loop's timer; knows no wire, no model and no thread. A door
asks before it takes a request, counts in those that are not answered at once, and counts them out.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from modelserver.errors import ModelOverloaded
from modelserver.metrics.counting import ModelMetrics

_MEMORY = 0.5
"""Weight of the rate that was learned before."""


class Backlog:
    """The requests for one model that are not answered yet, and how fast they are.

    Args:
        most: requests that may wait.
        patience_s: how long a request may expect to wait; 0: for ever.
        metrics: of the model.

    Attributes:
        waiting: requests that are not answered yet.
        is_full: another one should be refused.
    """

    def __init__(self, most: int, patience_s: float = 0.0, metrics: ModelMetrics | None = None) -> None:
        self.waiting = 0
        self.is_full = False
        self._metrics = metrics
        self._most = most
        self._full_at: float = most
        self._patience_s = patience_s or math.inf
        self._seconds_each = 0.0
        self._answers = 0
        self._was_idle = True
        self._looked_at = 0.0

    def enter(self) -> None:
        """A request waits."""
        self.waiting += 1
        if self.waiting >= self._full_at:
            self.is_full = True

    def leave(self, is_answered: bool = True) -> None:
        """A request waits no more: the model has answered, or nobody waits for the answer any longer."""
        self.waiting -= 1
        if is_answered:
            self._answers += 1
        if not self.waiting:
            self._was_idle = True
        if self.is_full:
            self.is_full = self.waiting >= self._full_at

    def refusal(self) -> ModelOverloaded:
        """What to say to a request that is one too many, with the time after which to try again."""
        if self._metrics is not None:
            self._metrics.shed.inc()
        expected_s = min(self.waiting * self._seconds_each, self._patience_s)
        return ModelOverloaded(self.waiting, max(1, math.ceil(expected_s)))

    def look(self, now: float) -> None:
        """See how long an answer takes of late, and so how many requests can be answered in time.

        To be called every now and then, which costs a request nothing. Only a model that always had something
        to do in between shows what it can; one that has caught up has no reason to refuse anybody.

        Args:
            now: seconds, from any start.
        """
        if self._was_idle:
            self._was_idle = not self.waiting
            self._seconds_each, self._full_at = 0.0, self._most
        elif self._answers:
            each = (now - self._looked_at) / self._answers
            if self._seconds_each:
                each = self._seconds_each * _MEMORY + each * (1 - _MEMORY)
            self._seconds_each = each
            self._full_at = min(self._most, max(1, self._patience_s / each))
        else:
            return  # nothing yet
        self.is_full = self.waiting >= self._full_at
        self._answers, self._looked_at = 0, now


class Expiring(Protocol):
    """A request with a deadline."""

    def expire(self) -> None:
        """Its time is up."""


class Deadlines:
    """Calls ``expire`` of what has waited too long. All wait equally long, so the first to come is first.

    Args:
        timeout_s: how long; 0: for ever.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._waiting: dict[Expiring, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call

    def add(self, request: Expiring) -> None:
        """From now on the request waits."""
        if not self.timeout_s:
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        deadline = self._waiting[request] = self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire_due)

    def discard(self, request: Expiring) -> None:
        """The request waits no more."""
        self._waiting.pop(request, None)

    def _expire_due(self) -> None:
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        while self._waiting:
            request, deadline = next(iter(self._waiting.items()))
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._expire_due)
                return
            del self._waiting[request]
            request.expire()
