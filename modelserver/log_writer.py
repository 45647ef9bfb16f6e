"""Lines on their way to a file descriptor, written by a thread of their own.

Whoever logs never waits. A pipe whose reader has stopped, a terminal on hold or a full disk holds up a thread
that has nothing else to do; meanwhile lines are kept up to a limit, then counted and dropped.

Rules of the room: whole lines as bytes, and a descriptor. No logging, no format.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

MOST_BYTES = 1024 * 1024
"""Kept for a descriptor that takes nothing."""

FLUSH_S = 1.0
"""How long ``flush`` waits for one that takes nothing."""

_PIECE = 64 * 1024  # at once; what a pipe holds
_PIPE_BUF = 4096  # a write to a pipe up to this size is not mixed with those of other processes
_RETRY_S = 1.0
_GET_PIPE_SIZE: int | None = getattr(fcntl, "F_GETPIPE_SZ", None)  # Linux only


class _Lost:
    """Stands in the queue where lines are missing."""

    def __init__(self, lines: int) -> None:
        self.lines = lines


class LineWriter:
    """Writes lines to a descriptor, in order, without ever holding up the caller.

    The descriptor may be shared with other processes: it is neither closed nor made non-blocking. The thread
    is started by the first line. A forked child starts with an empty queue and a thread of its own.

    Args:
        fileno: where the lines go.
        notice: makes the line that says how many were lost; called on the writer's thread.
        most_bytes: kept for a descriptor that takes nothing; what comes then is dropped.
    """

    def __init__(self, fileno: int, notice: Callable[[int], bytes], most_bytes: int = MOST_BYTES) -> None:
        self._fileno = fileno
        self._notice = notice
        self._most_bytes = most_bytes
        self._reset()
        _follow_forks(self)

    def _reset(self) -> None:
        # Its lock can be taken twice by one thread: a signal handler that logs may interrupt `write`.
        self._changed = threading.Condition()
        self._queue: deque[bytes | _Lost] = deque()
        self._size = 0  # of what is queued or being written
        self._is_writing = False
        self._pieces = 0  # that the descriptor has taken
        self._waited_in_vain_at = -1
        self._is_broken = False  # it takes nothing and says so
        self._is_closed = False
        self._waits = False  # for each line
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread now, and not with the first line."""
        with self._changed:
            if self._thread is None:
                self._start()

    def write(self, lines: bytes) -> None:
        """Queue whole lines, or drop them where there is no room."""
        with self._changed:
            if self._is_closed:
                return
            if self._size + len(lines) > self._most_bytes:
                self._lose(lines.count(b"\n"))
            else:
                self._queue.append(lines)
                self._size += len(lines)
            if self._thread is None and not self._start():
                self._write_ready()
            self._changed.notify_all()
        if self._waits:
            self.flush()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything is written, but not for a descriptor that takes nothing.

        Args:
            timeout_s: the longest wait. A wait in vain is not repeated until something has moved.

        Returns:
            Whether everything is written.
        """
        with self._changed:
            if self._pieces == self._waited_in_vain_at:
                timeout_s = 0.0
            self._changed.wait_for(lambda: self._is_empty or self._is_broken, timeout_s)
            if not self._is_empty:
                self._waited_in_vain_at = self._pieces
            return self._is_empty

    def end(self) -> None:
        """Flush, and from now on after each line: the process may end at any moment."""
        self._waits = True
        self.flush()

    @property
    def _is_empty(self) -> bool:
        return not self._queue and not self._is_writing

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had, now or (at the interpreter's end) any more
            return False
        self._thread = thread
        return True

    def _write_ready(self) -> None:
        """Without a thread: write what the descriptor takes at once."""
        poll = select.poll()
        poll.register(self._fileno, select.POLLOUT)
        while self._queue and poll.poll(0) == [(self._fileno, select.POLLOUT)]:
            entry, size = self._take()
            lines = entry if isinstance(entry, bytes) else self._notice(entry.lines)
            try:
                count = os.write(self._fileno, lines[:_PIPE_BUF])
            except OSError:
                count = 0
            self._size -= size
            if count < len(lines):
                self._queue.appendleft(lines[count:])
                self._size += len(lines) - count
            if not count:
                break

    def _lose(self, lines: int) -> None:
        if self._queue and isinstance(self._queue[-1], _Lost):
            self._queue[-1].lines += lines
        else:
            self._queue.append(_Lost(lines))

    def _run(self) -> None:
        # The program's signals are for its other threads, and SIGPIPE for nobody.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        changed = self._changed
        try:
            while True:
                with changed:
                    while not self._queue:
                        changed.wait()
                    entry, size = self._take()
                    self._is_writing = True
                try:
                    self._put(entry if isinstance(entry, bytes) else self._notice(entry.lines))
                finally:
                    with changed:
                        self._size -= size
                        self._is_writing = False
                        changed.notify_all()
        finally:  # no memory, say: the next line starts another thread
            self._thread = None

    def _take(self) -> tuple[bytes | _Lost, int]:
        """What is first in the queue: lines, several together, or a gap."""
        first = self._queue.popleft()
        if isinstance(first, _Lost):
            return first, 0
        taken, size = [first], len(first)
        while self._queue and size < _PIECE:
            following = self._queue[0]
            if isinstance(following, _Lost):
                break
            self._queue.popleft()
            taken.append(following)
            size += len(following)
        return b"".join(taken), size

    def _put(self, lines: bytes) -> None:
        """Write, however long it takes."""
        rest = memoryview(lines)
        while rest:
            try:
                count = os.write(self._fileno, self._piece(rest))
            except BlockingIOError:  # another program has made the descriptor non-blocking
                poll = select.poll()
                poll.register(self._fileno, select.POLLOUT)
                poll.poll(_RETRY_S * 1000)
            except OSError as error:
                if error.errno == errno.EBADF:  # its number may soon be a client's socket
                    self._close()
                    return
                # No reader, or a full disk. Either may come back: a named pipe's reader, space.
                self._is_broken = True
                with self._changed:
                    self._changed.notify_all()
                time.sleep(_RETRY_S)
            else:
                self._is_broken = False
                self._pieces += 1
                rest = rest[count:]

    def _piece(self, rest: memoryview) -> memoryview:
        """As much as can be written without being mixed with the lines of other processes.

        A pipe takes what it has room for in one go, and only ``_PIPE_BUF`` bytes where it has not.
        """
        if len(rest) <= _PIPE_BUF or len(rest) <= self._room():
            return rest
        end = bytes(rest[:_PIPE_BUF]).rfind(b"\n") + 1
        return rest[: end or _PIPE_BUF]

    def _room(self) -> int:
        """Bytes that the descriptor takes in one go, as far as that is known."""
        if _GET_PIPE_SIZE is None:
            return 0
        try:
            size = fcntl.fcntl(self._fileno, _GET_PIPE_SIZE)
        except OSError:  # no pipe
            return self._most_bytes
        unread: int = struct.unpack("i", fcntl.ioctl(self._fileno, termios.FIONREAD, bytes(4)))[0]
        return size - unread

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._size -= sum(len(entry) for entry in self._queue if isinstance(entry, bytes))
            self._queue.clear()


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()
_follows_forks = False


def _follow_forks(writer: LineWriter) -> None:
    """A forked child has neither the thread nor, for sure, a free lock, and the lines are its parent's."""
    global _follows_forks  # noqa: PLW0603 - the hook is the process's, and cannot be taken back
    _writers.add(writer)
    if not _follows_forks:
        _follows_forks = True
        os.register_at_fork(after_in_child=_reset_writers)


def _reset_writers() -> None:
    for writer in list(_writers):
        writer._reset()
