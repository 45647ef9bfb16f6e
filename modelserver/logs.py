"""The three log streams, and the one place that may set logging up.

- ``modelserver.access``: one line for each request.
- ``modelserver.server``: the life of the server: listening, loading, workers, draining.
- ``modelserver.model``: failures of models, with their tracebacks.

Rules of the room: the library only writes to these loggers. ``configure`` is called when a server *starts*,
never at import, and leaves a program that has set up logging of its own alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from typing import Any, TextIO

_access = logging.getLogger("modelserver.access")
_MOST_LINES = 500
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def configure() -> None:
    """Send ``modelserver`` logs of INFO and up to standard error, unless somebody already handles them."""
    logger = logging.getLogger("modelserver")
    if logging.getLogger().handlers or logger.handlers:
        return
    logger.addHandler(_Handler())
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Handler(logging.StreamHandler[TextIO]):
    """The handler that ``configure`` sets up."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.own_formatter = logging.Formatter(_FORMAT)
        self.setFormatter(self.own_formatter)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has changed what it writes, or what of it."""
        return not self.filters and self.level <= logging.INFO and self.formatter is self.own_formatter

    def write_lines(self, lines: list[str]) -> None:
        """Write lines that are formatted already."""
        try:
            with self.lock or contextlib.nullcontext():
                self.stream.write("".join(lines))
                self.flush()
        except Exception:  # as `emit` does: a broken log must not stop the server
            self.handleError(logging.LogRecord("modelserver.access", logging.INFO, "", 0, "", None, None))


class AccessLog:
    """Writes one line for each request.

    Where ``configure`` has set logging up, and nobody has changed it, lines are formatted here and written
    several at once: by way of ``logging`` a line costs 10 us, which is a third of a small request, and so 2.
    A line is at most ``DELAY_S`` late, and then has its own time. Any other set-up gets ordinary records.
    """

    DELAY_S = 0.05

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._handler: _Handler | None = None
        self._second = 0
        self._stamp = ""
        self._suffix = ""

    def add(self, connection: Any, method: str, uri: str, status: int, elapsed_s: float) -> None:
        """Write the line of one request.

        Args:
            connection: its ``context.remote_ip`` is the client.
            method: of the request.
            uri: of the request; the client's text, which is escaped.
            status: of the answer.
            elapsed_s: seconds between the two.
        """
        if not self._lines:
            self._handler = _plain_handler()
            if self._handler is not None:
                self._schedule_flush()
        remote = getattr(getattr(connection, "context", None), "remote_ip", "-")
        uri = ascii(uri)[1:-1]
        if self._handler is None:
            _access.info("%s %s %s %d %.2fms", remote, method, uri, status, elapsed_s * 1000)
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._suffix = f"{os.getpid()} INFO {_access.name}:"
        self._lines.append(
            f"{self._stamp},{int((now - second) * 1000):03d} {self._suffix} {remote} {method} {uri} {status} "
            f"{elapsed_s * 1000:.2f}ms\n"
        )
        if len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._handler is not None and self._lines:
            lines, self._lines = self._lines, []
            self._handler.write_lines(lines)

    def _schedule_flush(self) -> None:
        asyncio.get_running_loop().call_later(self.DELAY_S, self.flush)


def _plain_handler() -> _Handler | None:
    """The handler of ``configure``, if access lines go there and nowhere else, as they are."""
    parent = _access.parent
    if (
        parent is None
        or parent.name != "modelserver"
        or parent.propagate
        or len(parent.handlers) != 1
        or _access.handlers
        or _access.filters
        or not _access.propagate
        or not _access.isEnabledFor(logging.INFO)
    ):
        return None
    handler = parent.handlers[0]
    return handler if isinstance(handler, _Handler) and handler.is_unchanged else None
