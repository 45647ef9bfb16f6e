"""The memory that metrics are counted in: seen by all worker processes, each of which writes its own block.

Rules of the room: series are bytes, values are words; what they mean is ``families``' business. No locks
between processes and no system calls: to count is a store into mapped memory. So a worker that is killed
leaves everything it has counted, and the one that gets its block goes on from there.

A block is a log that only grows: a few words about its process, then one record for each series:

    header   words of the record, bytes of the key and the key's checksum, in one word
    key      padded to words
    values   int64 or float64, as the series wants them

The header is written last, so a record without one is not there yet. The checksum tells should another core
see the header before the key, or a process that was killed have left part of a key where a header is sought.
A block that is full gives out words that nobody reads, and counts them (``dropped``): a metric must never
fail a request.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from modelserver.shared_memory import memory_file

BLOCK_BYTES = 256 * 1024
"""Of address space for each block; memory is only taken for what is written, a page (4 KiB) at a time."""

_WORD_BYTES = 8
_PID, _DROPPED = range(2)
_BLOCK_HEAD = 8  # words, a cache line
_MOST_KEY_BYTES = 1 << 12
_MOST_WORDS = 1 << 14


class Record(NamedTuple):
    """Where the values of a series are."""

    key: bytes
    start: int
    words: int


class MetricMemory:
    """One block for each worker, and one for the supervisor.

    Args:
        workers: blocks for workers, numbered from 0.
        block_bytes: size of each, a multiple of 64.

    Attributes:
        fileno: of the memory, to hand to a process that maps it with ``attached``.
        integers: all of it, as int64.
        floats: the same memory, as float64.
    """

    SUPERVISOR = -1
    """The number of the supervisor's block."""

    def __init__(self, workers: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.fileno = memory_file("modelserver-metrics")
        # The words in front of the first block say how many there are.
        os.ftruncate(self.fileno, _BLOCK_HEAD * _WORD_BYTES + (workers + 1) * block_bytes)
        self._map()
        self.integers[0] = workers + 1
        self._measure()

    @classmethod
    def attached(cls, fileno: int) -> MetricMemory:
        """The memory behind a descriptor that another process has handed over."""
        memory = cls.__new__(cls)
        memory.fileno = fileno
        memory._map()
        memory._measure()
        return memory

    def _map(self) -> None:
        mapped = mmap.mmap(self.fileno, 0)
        self.integers: memoryview[int] = memoryview(mapped).cast("q")
        self.floats: memoryview[float] = memoryview(mapped).cast("d")
        weakref.finalize(self, os.close, self.fileno)

    def _measure(self) -> None:
        self._blocks = self.integers[0]
        self._block_words = (len(self.integers) - _BLOCK_HEAD) // self._blocks

    @property
    def numbers(self) -> range:
        """The blocks' numbers, the supervisor's first."""
        return range(self.SUPERVISOR, self._blocks - 1)

    def span(self, number: int) -> tuple[int, int]:
        """The words of a block: of its first, and of the first one behind it."""
        start = _BLOCK_HEAD + (number + 1) * self._block_words
        return start, start + self._block_words

    def pid(self, number: int) -> int:
        """The process that writes a block; 0 if there is none."""
        return self.integers[self.span(number)[0] + _PID]

    def dropped(self, number: int) -> int:
        """How many series a block had no room for."""
        return self.integers[self.span(number)[0] + _DROPPED]

    def records(self, number: int, start: int = 0) -> Iterator[Record]:
        """The series of a block, in the order they were made.

        Args:
            number: of the block.
            start: look from this word on: behind the last record that is known.
        """
        words = self.integers
        first, end = self.span(number)
        at = start or first + _BLOCK_HEAD
        while at < end and (header := words[at]):
            size, key_bytes, checksum = header >> 48, header >> 32 & 0xFFFF, header & 0xFFFFFFFF
            key_words = -(-key_bytes // _WORD_BYTES)
            key = words[at + 1 : at + 1 + key_words].tobytes()[:key_bytes]
            if zlib.crc32(key) != checksum:
                return  # not a header, or not yet
            yield Record(key, at + 1 + key_words, size - 1 - key_words)
            at += size

    def clear(self, number: int, ends: Callable[[bytes], bool]) -> None:
        """The process that wrote a block has ended.

        Args:
            number: of the block.
            ends: whether a series is about what the process had or did at that moment: its values become 0.
        """
        for record in self.records(number):
            if ends(record.key):
                for at in range(record.start, record.start + record.words):
                    self.integers[at] = 0
        self.integers[self.span(number)[0] + _PID] = 0


class Block:
    """What one process writes. Only one process may have a block at a time.

    Args:
        memory: of all processes.
        number: of the block.
    """

    def __init__(self, memory: MetricMemory, number: int) -> None:
        self._memory = memory
        self._first, self._end = memory.span(number)
        self._known: dict[tuple[bytes, int], int] = {}
        self._dropped: set[tuple[bytes, int]] = set()
        self._next = self._first + _BLOCK_HEAD
        for key, start, words in memory.records(number):
            self._known.setdefault((key, words), start)
            self._next = start + words
        self._lock = threading.Lock()  # a model's thread may meet a series first
        memory.integers[self._first + _PID] = os.getpid()

    def series(self, key: bytes, count: int) -> tuple[memoryview[int], memoryview[float], int]:
        """The words of a series, made if it is new here, or found as the block's last process has left them.

        Args:
            key: its name.
            count: how many words its values take; the same key with another count is another series.

        Returns:
            Integers and floats, two views of the same memory, and the index of the first of the words.
        """
        with self._lock:
            start = self._known.get((key, count)) or self._append(key, count)
        if start:
            return self._memory.integers, self._memory.floats, start
        scratch = memoryview(bytearray(count * _WORD_BYTES))
        return scratch.cast("q"), scratch.cast("d"), 0

    def known(self) -> list[bytes]:
        """The names of its series."""
        with self._lock:
            return [key for key, _ in self._known]

    def _append(self, key: bytes, count: int) -> int:
        """Write a new record; returns where its values are, 0 if there is no room."""
        words, at = self._memory.integers, self._next
        key_words = -(-len(key) // _WORD_BYTES)
        size = 1 + key_words + count
        if at + size > self._end or size > _MOST_WORDS or len(key) > _MOST_KEY_BYTES:
            if (key, count) not in self._dropped:
                self._dropped.add((key, count))
                words[self._first + _DROPPED] += 1
            return 0
        # Zeros as well: a process that was killed in the middle of this may have left a longer key here.
        padded = key.ljust(key_words * _WORD_BYTES, b"\0") + bytes(count * _WORD_BYTES)
        words[at + 1 : at + size] = memoryview(padded).cast("q")
        words[at] = size << 48 | len(key) << 32 | zlib.crc32(key)
        self._next = at + size
        self._known[key, count] = start = at + 1 + key_words
        return start
