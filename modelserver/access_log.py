"""The access log: one line for each request, by the shortest way there is.

Rules of the room: what the lines say and when they are written. Where they go is ``logs``' business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from modelserver.log_formats import iso_second, quoted, zone
from modelserver.logs import Handler

_access = logging.getLogger("modelserver.access")
_PLAIN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
_MOST_LINES = 500
_MOST_URI = 1024
_SAME_FAILURE_S = 10.0
_MOST_PROBES = 1024


class AccessLog:
    """Writes one line for each request.

    Where ``logs.configure`` has set logging up, and nobody has changed it, lines are formatted here and
    written several at once: by way of ``logging`` a line costs 10 us, which is a third of a small request,
    and so 2. A line is at most ``DELAY_S`` late, and then has its own time. Any other set-up gets ordinary
    records.
    """

    DELAY_S = 0.05

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._handler: Handler | None = None
        self._is_json = False
        self._second = 0
        self._before = self._after = ""  # the milliseconds of a line's time
        self._probes = _Probes()

    def add(
        self,
        connection: Any,
        method: str,
        uri: str,
        status: int,
        elapsed_s: float,
        model_name: str = "",
        *,
        is_muted_probe: bool = False,
    ) -> None:
        """Write the line of one request.

        Args:
            connection: its ``context.remote_ip`` is the client, its ``request_id`` the request's.
            method: of the request.
            uri: of the request; the client's text, which is cut to a length and escaped.
            status: of the answer.
            elapsed_s: seconds between the two.
            model_name: of a request for one.
            is_muted_probe: it only asks for a state: a line is written where that is another one than
                before and not 200, or has been so for a while.
        """
        if is_muted_probe and not self._probes.is_news(uri, status):
            return
        if not self._lines:
            self._handler = _plain_handler()
            if self._handler is not None:
                self._is_json = self._handler.log_format == "json"
                self._schedule_flush()
        remote = getattr(getattr(connection, "context", None), "remote_ip", "-")
        request_id = getattr(connection, "request_id", "-")
        if len(uri) > _MOST_URI:
            uri = f"{uri[:_MOST_URI]}..."
        if method not in _PLAIN_METHODS:
            method = ascii(method)[1:-1]
        if self._handler is None:
            _access.info(
                "%s %s %s %d %.2fms %s",
                remote,
                method,
                ascii(uri)[1:-1],
                status,
                elapsed_s * 1000,
                request_id,
                extra={"request_id": request_id},
            )
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._begin_second(second)
        start = f"{self._before}{int((now - second) * 1000):03d}{self._after}"
        if self._is_json:
            model = f',"model":{quoted(model_name)}' if model_name else ""
            self._lines.append(
                f'{start}"{remote}","method":{quoted(method)},"path":{quoted(uri)}{model},"status":{status},'
                f'"seconds":{elapsed_s:.6f},"request_id":{quoted(request_id)}}}\n'
            )
        else:
            self._lines.append(
                f"{start}{remote} {method} {ascii(uri)[1:-1]} {status} {elapsed_s * 1000:.2f}ms "
                f"{request_id}\n"
            )
        if len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._handler is not None and self._lines:
            lines, self._lines = self._lines, []
            self._handler.write("".join(lines))

    def _begin_second(self, second: int) -> None:
        self._second = second
        if self._is_json:
            self._before = f'{{"time":"{iso_second(second)}.'
            self._after = (
                f'{zone(second)}","level":"INFO","logger":"{_access.name}","pid":{os.getpid()},"remote":'
            )
        else:
            self._before = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(second))},"
            self._after = f" {os.getpid()} INFO {_access.name}: "

    def _schedule_flush(self) -> None:
        asyncio.get_running_loop().call_later(self.DELAY_S, self.flush)


class _Probes:
    """Which probes are news: one that begins to fail or still does, and then the first good one."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}  # status and time of the last line, by URI

    def is_news(self, uri: str, status: int) -> bool:
        """Whether a line is to be written."""
        before = self._failures.get(uri)
        if status == 200:
            return before is not None and self._failures.pop(uri) is not None
        now = time.monotonic()
        if before is not None and before[0] == status and now - before[1] < _SAME_FAILURE_S:
            return False
        if len(self._failures) >= _MOST_PROBES:  # names that do not exist
            self._failures.clear()
        self._failures[uri] = (status, now)
        return True


def _plain_handler() -> Handler | None:
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
    return handler if isinstance(handler, Handler) and handler.is_unchanged else None
