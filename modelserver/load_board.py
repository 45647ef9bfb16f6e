"""The load board: what each worker process has to do, in memory that all of them see.

Rules of the room: numbers in shared memory, and who should take the next connection by them. No sockets and
no event loop: ``http.accepting`` acts on it. The supervisor makes the board before it starts workers, and
clears the slot of one that has ended. Else only the worker itself writes into its slot, except for the mark
of being asleep, which any of them may set.

Beside the load, each worker notes when its event loop last turned, for the supervisor.

The load is the number of open connections without those that were idle for a second (``http.server`` counts).
Requests in flight would say more of this moment, but clients that connect at once have none yet, and counting
them would cost every request a write that other cores read. Of two workers with as many connections the one
that is less busy is quicker to accept.
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Callable

from modelserver.shared_memory import memory_file

_SLOT_WORDS = 8  # a cache line each, so that no write slows another worker down
_LOAD, _ACCEPTED, _ASLEEP_UNTIL, _BEAT = range(4)
_WORD_BYTES = 8  # aligned, so that nobody reads half of a written number

_NOT_THERE = 1 << 62  # the load of a worker that accepts nothing
_EVEN = 16  # one connection more for each 16 is no difference, so that many at once are taken quickly
_SPARE = 1 << 32  # added to the load of a worker that should only accept if no other does

ASLEEP_S = 1.0
"""How long nobody waits for a worker that was waited for in vain."""


class LoadBoard:
    """One slot for each worker.

    Args:
        slots: how many.
        clock: nanoseconds, on a clock that all processes share.
    """

    def __init__(self, slots: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.fileno = memory_file("modelserver-load-board")
        os.ftruncate(self.fileno, slots * _SLOT_WORDS * _WORD_BYTES)
        self._map(clock)
        for number in range(slots):
            self.clear(number)

    @classmethod
    def attached(cls, fileno: int) -> LoadBoard:
        """The board behind a descriptor that another process has handed over."""
        board = cls.__new__(cls)
        board.fileno = fileno
        board._map(time.monotonic_ns)
        return board

    def _map(self, clock: Callable[[], int]) -> None:
        self.words = memoryview(mmap.mmap(self.fileno, 0)).cast("q")
        weakref.finalize(self, os.close, self.fileno)
        self.clock = clock

    def slot(self, number: int) -> Slot:
        """The slot of a worker, to write into."""
        return Slot(self, number)

    def clear(self, number: int) -> None:
        """The worker of this slot has ended: nobody waits for it."""
        self.words[number * _SLOT_WORDS + _LOAD] = _NOT_THERE
        self.words[number * _SLOT_WORDS + _BEAT] = 0

    def silent_s(self, number: int) -> float:
        """Seconds since the event loop of this slot's worker has last shown that it turns; 0: not yet."""
        beat = self.words[number * _SLOT_WORDS + _BEAT]
        return (self.clock() - beat) / 1e9 if beat else 0.0


class Slot:
    """What a worker writes about itself, and what it wants to know of the others."""

    def __init__(self, board: LoadBoard, number: int) -> None:
        self._words = board.words
        self._clock = board.clock
        self._own = number * _SLOT_WORDS
        self._others = [start for start in range(0, len(self._words), _SLOT_WORDS) if start != self._own]
        self._connections = 0
        self._is_open = False
        self._is_spare = True

    def open(self) -> None:
        """From now on this worker accepts."""
        self._is_open = True
        self.is_awake()
        self._write()

    def close(self) -> None:
        """From now on this worker accepts nothing, for a while or for good."""
        self._is_open = False
        self._write()

    @property
    def is_spare(self) -> bool:
        """Other workers should rather accept: the models are still loading here, or the worker is leaving."""
        return self._is_spare

    @is_spare.setter
    def is_spare(self, is_spare: bool) -> None:
        self._is_spare = is_spare
        self._write()

    def beat(self) -> None:
        """This worker's event loop turns."""
        self._words[self._own + _BEAT] = self._clock()

    def set_connections(self, count: int) -> None:
        """So many connections are open here."""
        self._connections = count
        self._write()

    def has_accepted(self) -> None:
        """A connection was taken."""
        self._words[self._own + _ACCEPTED] += 1

    def is_awake(self) -> None:
        """This worker's loop turns."""
        if self._words[self._own + _ASLEEP_UNTIL]:
            self._words[self._own + _ASLEEP_UNTIL] = 0

    def lighter(self) -> list[int]:
        """The other workers that should take the next connection rather than this one, as far as is known."""
        words, load = self._words, self._load() - self._connections // _EVEN
        lighter = [start for start in self._others if words[start + _LOAD] < load]
        if lighter:
            now = self._clock()
            lighter = [start for start in lighter if words[start + _ASLEEP_UNTIL] <= now]
        return lighter

    def accepted_elsewhere(self) -> int:
        """How many connections the others have taken, ever."""
        return sum(self._words[start + _ACCEPTED] for start in self._others)

    def mark_asleep(self, others: list[int]) -> None:
        """These did not take a connection that waited for them; whoever does not sleep takes the mark off."""
        until = self._clock() + int(ASLEEP_S * 1e9)
        for start in others:
            self._words[start + _ASLEEP_UNTIL] = until

    def _load(self) -> int:
        return self._connections + (_SPARE if self._is_spare else 0)

    def _write(self) -> None:
        self._words[self._own + _LOAD] = self._load() if self._is_open else _NOT_THERE
