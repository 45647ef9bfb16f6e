"""What a serving process looks at four times a second: calls that do not return, and what waits.

Each look also shows the supervisor that the event loop turns.

A thread cannot be ended from outside. So a call that goes on long after its request was answered 504 costs
its thread: another one takes what waits behind it, and the process should be replaced, which is the
supervisor's work. It also sees when the event loop itself stands still, by the beats that stay away.

Rules of the room: a timer on the event loop; decides that something hangs, not what follows from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from modelserver.execution import ModelThreads
from modelserver.load_board import Slot

_log = logging.getLogger("modelserver.server")

_LOOK_S = 0.25
_GRACE_S = 5.0


def hung_after_s(timeout_s: float) -> float:
    """How long a call may run, or an event loop stand still, before it counts as hung; 0: for ever.

    ``--timeout``, and a grace of as much again, at most five seconds: what is only slow may end by itself.
    """
    return timeout_s + min(timeout_s, _GRACE_S)


class Watch:
    """Looks four times a second, from when it is made until it is closed.

    Args:
        threads: of the models; what is in there may change.
        limit_s: how long a call may run; 0: for ever.
        slot: where the beats go.
        on_hung: called when a call of a model has hung.
        on_look: called each time, with the loop's time.

    Attributes:
        hung_calls: how many have.
    """

    def __init__(
        self,
        threads: Mapping[int, ModelThreads],
        limit_s: float,
        slot: Slot | None,
        on_hung: Callable[[], None],
        on_look: Callable[[float], None],
    ) -> None:
        self._threads = threads
        self._limit_s = limit_s
        self._slot = slot
        self._on_hung = on_hung
        self._on_look = on_look
        self.hung_calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_S, self._look)
        self._on_look(loop.time())
        if self._slot is not None:
            self._slot.beat()
        if not self._limit_s:
            return
        for threads in self._threads.values():
            hung = threads.give_up_hung(self._limit_s)
            if hung:
                self.hung_calls += hung
                _log.error(
                    "A call of model %s has not returned for %g s: its thread is given up and another one "
                    "takes what waits",
                    threads.name,
                    self._limit_s,
                )
                self._on_hung()
