"""The model board: which models each worker process has, in memory that all of them see.

A client asks one worker, and means the service: a model is ready when every worker has it. So each worker
writes down the states of its models, and whoever is asked reads what all have written (``publishing``). What
a client has told one of them stands here too, for the others to follow: a configuration (``configuring``),
and which models to load and unload (``administering``). A second text of each worker is a note for the one
that comes after it (``fatal_loads``).

Rules of the room: texts in shared memory. What they mean is the business of those who write them. Only the
worker itself writes into its slots, and the supervisor into the first one when the worker has ended.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelserver.shared_memory import memory_file

MOST_BYTES = 1 << 20
"""Of one text. What is not written takes no memory."""

_HEAD = 16  # a counter, odd while the text is being written, and the text's length
_TRIES = 1000
_FOR_ALL = 3


class ModelBoard:
    """Two texts for each worker, and some for all.

    Args:
        slots: how many workers.
    """

    def __init__(self, slots: int) -> None:
        self.fileno = memory_file("modelserver-model-board")
        os.ftruncate(self.fileno, (2 * slots + _FOR_ALL) * (_HEAD + MOST_BYTES))
        self._map()

    @classmethod
    def attached(cls, fileno: int) -> ModelBoard:
        """The board behind a descriptor that another process has handed over."""
        board = cls.__new__(cls)
        board.fileno = fileno
        board._map()
        return board

    def _map(self) -> None:
        self._memory = mmap.mmap(self.fileno, 0)
        weakref.finalize(self, os.close, self.fileno)
        self._slots = (len(self._memory) // (_HEAD + MOST_BYTES) - _FOR_ALL) // 2
        self._configuration, self._orders, self._started = range(2 * self._slots, 2 * self._slots + _FOR_ALL)

    def publish(self, number: int, text: bytes) -> None:
        """Write a worker's text; empty: it serves nothing.

        Raises:
            ValueError: more than ``MOST_BYTES``.
        """
        self._write(number, text)

    def texts(self) -> list[bytes]:
        """What the workers have written, those that have."""
        return [text for number in range(self._slots) if (text := self._read(number)[1])]

    def note(self, number: int, text: bytes) -> None:
        """Write a worker's note for the next one of its number.

        Raises:
            ValueError: more than ``MOST_BYTES``.
        """
        self._write(self._slots + number, text)

    def noted(self, number: int) -> bytes:
        """What the last worker of that number has left; empty: nothing."""
        return self._read(self._slots + number)[1]

    @property
    def generation(self) -> int:
        """How many configurations have been written; 0: none, the program's own counts."""
        return self._head(self._configuration)[0] // 2

    def configuration(self) -> tuple[int, str]:
        """The generation, and the configuration itself."""
        written, text = self._read(self._configuration)
        return written // 2, text.decode()

    def configure(self, text: str) -> int:
        """Write a configuration for all workers to follow.

        Returns:
            Its generation.

        Raises:
            ValueError: more than ``MOST_BYTES``.
        """
        with self._locked():
            return self._write(self._configuration, text.encode()) // 2

    @property
    def orders_generation(self) -> int:
        """How often orders have been written; 0: never."""
        return self._head(self._orders)[0] // 2

    def orders(self) -> bytes:
        """What all workers have been ordered to do; empty: nothing."""
        return self._read(self._orders)[1]

    def order(self, change: Callable[[bytes, int], bytes]) -> int:
        """Write orders for all workers to follow.

        Args:
            change: makes the text of the one before and of the generation that it is going to have.

        Returns:
            Its generation.

        Raises:
            ValueError: more than ``MOST_BYTES``.
        """
        with self._locked():
            written, text = self._read(self._orders)
            return self._write(self._orders, change(text, (written | 1) // 2 + 1)) // 2

    @property
    def has_started(self) -> bool:
        """Whether there was a moment at which every worker had its models."""
        return bool(self._read(self._started)[1])

    def started(self) -> None:
        """This is such a moment."""
        self._write(self._started, b"started")

    def _head(self, slot: int) -> tuple[int, int]:
        start = slot * (_HEAD + MOST_BYTES)
        return (
            int.from_bytes(self._memory[start : start + 8], "little"),
            int.from_bytes(self._memory[start + 8 : start + _HEAD], "little"),
        )

    def _write(self, slot: int, text: bytes) -> int:
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(text)} bytes, at most {MOST_BYTES} can be told to the other workers")
        start = slot * (_HEAD + MOST_BYTES)
        written = self._head(slot)[0] | 1
        self._memory[start : start + 8] = written.to_bytes(8, "little")
        self._memory[start + 8 : start + _HEAD] = len(text).to_bytes(8, "little")
        self._memory[start + _HEAD : start + _HEAD + len(text)] = text
        self._memory[start : start + 8] = (written + 1).to_bytes(8, "little")
        return written + 1

    def _read(self, slot: int) -> tuple[int, bytes]:
        start = slot * (_HEAD + MOST_BYTES) + _HEAD
        for _ in range(_TRIES):
            head = self._head(slot)
            text = self._memory[start : start + head[1]]
            if not head[0] & 1 and head == self._head(slot):
                return head[0], text
        return head[0], b""  # its writer has died in the middle

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self.fileno, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.fileno, fcntl.LOCK_UN)
