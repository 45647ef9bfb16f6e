"""The three log streams, and the one place that may set logging up.

- ``modelserver.access``: one line for each request (``access_log``).
- ``modelserver.server``: the life of the server: listening, loading, workers, draining.
- ``modelserver.model``: failures of models, with their tracebacks.

Rules of the room: the library only writes to these loggers. ``configure`` is called when a server *starts*,
never at import, and leaves a program that has set up logging of its own alone. What it sets up never holds up
who logs: a thread does the writing (``log_writer``).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from modelserver.log_formats import MAKERS
from modelserver.log_writer import FLUSH_S, LineWriter

_OTHERS = ("asyncio", "tornado")
"""Loggers of what the server is made of. Unheard, Python writes their warnings to standard error itself, on
the thread that logs."""


def configure(log_format: str = "text") -> None:
    """Send ``modelserver`` logs of INFO and up to standard error, unless somebody already handles them.

    Args:
        log_format: ``text`` or ``json``.
    """
    logger = logging.getLogger("modelserver")
    if logging.getLogger().handlers or logger.handlers:
        return
    _occupy_standard_descriptors()
    handler = Handler(log_format, sys.stderr)
    handler.start()
    atexit.register(handler.end)
    logger.setLevel(logging.INFO)
    for each in (logger, *map(logging.getLogger, _OTHERS)):
        if not each.handlers:
            each.addHandler(handler)
            each.propagate = False


def flush(timeout_s: float = FLUSH_S) -> None:
    """Wait until all that was logged is written, before a process ends by a way that Python does not see.

    That is ``os._exit``; an ordinary end does it by itself.

    Args:
        timeout_s: the longest wait, where standard error takes nothing.
    """
    for handler in logging.getLogger("modelserver").handlers:
        if isinstance(handler, Handler):
            handler.drain(timeout_s)


class Handler(logging.Handler):
    """The handler that ``configure`` sets up.

    The process's own standard error is written to by a thread. What a program has put in its place (a window,
    a test's buffer) is written to at once.

    Attributes:
        log_format: ``text`` or ``json``.
    """

    def __init__(self, log_format: str, stream: TextIO | None) -> None:
        super().__init__()
        self.log_format = log_format
        self._own_formatter = MAKERS[log_format]()
        self.setFormatter(self._own_formatter)
        self._stream = stream
        self._writer: LineWriter | None = None
        own = sys.__stderr__
        if own is not None and stream is own:
            with contextlib.suppress(OSError, ValueError):  # closed: then nobody hears it
                self._writer = LineWriter(own.fileno(), self._notice)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has changed what it writes, or what of it."""
        return not self.filters and self.level <= logging.INFO and self.formatter is self._own_formatter

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, whatever is in it."""
        try:
            text = self.format(record)
        except Exception as error:  # arguments that do not fit, or a text that raises
            text = self._own_formatter.format(_record(f"A log line is lost: {type(error).__name__}"))
        self.write(f"{text}\n")

    def write(self, lines: str) -> None:
        """Write lines that are formatted already, each with its end."""
        if self._writer is not None:
            self._writer.write(lines.encode("utf-8", "backslashreplace"))
        elif self._stream is not None:
            with contextlib.suppress(Exception), self.lock or contextlib.nullcontext():
                self._stream.write(lines)
                self._stream.flush()

    def start(self) -> None:
        """Start the thread, before anybody looks which threads a model leaves behind (``preloading``)."""
        if self._writer is not None:
            self._writer.start()

    def drain(self, timeout_s: float = FLUSH_S) -> None:
        """Wait, but not for ever, until all is written."""
        if self._writer is not None:
            self._writer.flush(timeout_s)

    def end(self) -> None:
        """The process ends: write all, and wait for each line that still comes."""
        if self._writer is not None:
            self._writer.end()

    def _notice(self, lost: int) -> bytes:
        text = self._own_formatter.format(_record(f"{lost} log lines were lost: nobody read them in time"))
        return f"{text}\n".encode("utf-8", "backslashreplace")


class RateLimited:
    """Lets a few lines of each kind through, then counts the others and says how many there were.

    Args:
        report: logs the number of lines that were left out, their kind, and ``period_s``. Called when the
            period is over: by the running event loop, or else with the next line of the kind.
        most: lines of one kind in a period.
        period_s: in seconds, from a kind's first line on.

    >>> told = []
    >>> lines = RateLimited(lambda left_out, kind, period_s: told.append((left_out, kind)), most=2)
    >>> [lines.admits("cold") for _ in range(5)], lines.admits("hot")
    ([True, True, False, False, False], True)
    """

    _MOST_KINDS = 256

    def __init__(
        self, report: Callable[[int, str, float], object], most: int = 10, period_s: float = 10.0
    ) -> None:
        self._report = report
        self._most = most
        self._period_s = period_s
        self._periods: dict[str, _Period] = {}

    def admits(self, kind: str) -> bool:
        """Whether a line of this kind may be written now."""
        now = time.monotonic()
        period = self._periods.get(kind)
        if period is None or now >= period.ends_at:
            if period is not None:
                self._end(kind, period)
            if len(self._periods) >= self._MOST_KINDS:
                self._forget()
            period = self._periods[kind] = _Period(now + self._period_s)
        period.seen += 1
        if period.seen <= self._most:
            return True
        period.left_out += 1
        if period.left_out == 1:
            with contextlib.suppress(RuntimeError):  # no loop runs here
                loop = asyncio.get_running_loop()
                loop.call_later(period.ends_at - now, self._end, kind, period)
        return False

    def _end(self, kind: str, period: _Period) -> None:
        left_out, period.left_out = period.left_out, 0
        if left_out:
            self._report(left_out, kind, self._period_s)

    def _forget(self) -> None:
        for kind, period in self._periods.items():
            self._end(kind, period)
        self._periods.clear()


class _Period:
    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.seen = 0
        self.left_out = 0


def _record(message: str) -> logging.LogRecord:
    return logging.LogRecord("modelserver.server", logging.WARNING, "", 0, message, None, None)


def _occupy_standard_descriptors() -> None:
    """Give the numbers 0, 1 and 2 to ``/dev/null`` where they are closed.

    Else the next socket gets one, and what a library prints goes to a client.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
