"""The model board: which models each worker process has, in memory that all of them see.

A client asks one worker, and means the service: a version is available when every worker has it. So each
worker writes down the states of its versions, and whoever is asked reads what all have written. The
configuration that a client has sent to one of them stands here too, for the others to follow. A second text
of each worker is a note for the one that comes after it (``fatal_loads``).

Rules of the room: texts in shared memory. What they mean is ``version_keeper``'s business. Only the worker
itself writes into its slots, and the supervisor into the first one when the worker has ended.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from modelserver.shared_memory import memory_file

MOST_BYTES = 1 << 20
"""Of one text. What is not written takes no memory."""

_HEAD = 16  # a counter, odd while the text is being written, and the text's length
_TRIES = 1000


class ModelBoard:
    """Two texts for each worker, and one for all.

    Args:
        slots: how many workers.
    """

    def __init__(self, slots: int) -> None:
        self.fileno = memory_file("modelserver-model-board")
        os.ftruncate(self.fileno, (2 * slots + 1) * (_HEAD + MOST_BYTES))
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
        self._slots = (len(self._memory) // (_HEAD + MOST_BYTES) - 1) // 2

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
        self._write(self._slots + 1 + number, text)

    def noted(self, number: int) -> bytes:
        """What the last worker of that number has left; empty: nothing."""
        return self._read(self._slots + 1 + number)[1]

    @property
    def generation(self) -> int:
        """How many configurations have been written; 0: none, the program's own counts."""
        return self._head(self._slots)[0] // 2

    def configuration(self) -> tuple[int, str]:
        """The generation, and the configuration itself."""
        written, text = self._read(self._slots)
        return written // 2, text.decode()

    def configure(self, text: str) -> int:
        """Write a configuration for all workers to follow.

        Returns:
            Its generation.

        Raises:
            ValueError: more than ``MOST_BYTES``.
        """
        with self._locked():
            return self._write(self._slots, text.encode()) // 2

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
