"""One request and its answer: tornado's ``HTTPConnection``, over a connection of ours.

Rules of the room: the answer's framing and the order of events; no parsing and no socket. An exchange that is
not at the front of its connection's line collects its events and plays them when its turn comes, so pipelined
requests are answered in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tornado import httputil, iostream

if TYPE_CHECKING:
    from modelserver.http.connection import Connection, Context
    from modelserver.http.head import Head

_log = logging.getLogger("modelserver.server")

_LARGE = 256 * 1024
_NO_BODY = frozenset((204, 304))
_OURS = frozenset(("Connection", "Transfer-Encoding"))


class Exchange(httputil.HTTPConnection):
    """A request that is being read, answered, or both.

    Attributes:
        connection: that it came on.
        head: of the request.
        keep_alive: another may follow on its connection.
        is_open: its turn has come.
        is_read: its body has come whole.
        has_begun: some of its answer is written.
        is_answered: all of its answer is written.
        request_id: what the application calls the request; of no meaning here.
    """

    request_id = ""

    # Most requests leave most of these as they are.
    is_open = is_read = has_begun = is_answered = False
    _is_waiting = _is_delivered = _is_lost = _is_broken = _chunked = False
    _delegate: httputil.HTTPMessageDelegate | None = None
    _remaining: int | None = None
    _close_callback: Callable[[], None] | None = None

    def __init__(self, connection: Connection, head: Head, keep_alive: bool) -> None:
        self.connection = connection
        self.start_line = head.start_line
        self.head = head
        self.keep_alive = keep_alive
        # Pieces of the body; None is its end, and an empty one the moment to ask for it.
        self._events: deque[bytes | None] = deque((b"",) if head.expects_continue else ())

    @property
    def context(self) -> Context:
        """Who asks, as tornado's requests want it."""
        return self.connection.context

    @property
    def is_unframed(self) -> bool:
        """Whether the end of the connection, whatever its reason, would be the end of the answer."""
        return self.has_begun and not (self.is_answered or self._chunked) and self._remaining is None

    # -- the request, from the connection

    def open(self) -> None:
        """Its turn has come: hand the head to the application, then whatever has been read since."""
        self.is_open = True
        try:
            self._delegate = self.connection.application.start_request(self.connection, self)
            self._wait_for(self._delegate.headers_received(self.start_line, self.head.headers()))
        except Exception as error:
            self._failed(error)
        else:
            self._play()

    def open_whole(self, body: bytes) -> None:
        """Its turn has come, and all of it is there."""
        self.is_read = True
        answer_whole = self.connection.answer_whole
        if answer_whole is not None:
            self.is_open = self._is_delivered = True
            try:
                if answer_whole(self, self.start_line, self.head.lowered, body):
                    return
            except Exception as error:
                self._failed(error)
                return
            self._is_delivered = False
        if body:
            self._events.append(body)
        self._events.append(None)
        self.open()

    def body_received(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._event(chunk)

    def body_ended(self) -> None:
        """The request is complete."""
        self.is_read = True
        self._event(None)

    def connection_lost(self) -> None:
        """The client is gone: tell the application, once.

        Like tornado: the delegate while it still waits for the request, the close callback after that.
        """
        delegate, self._delegate = self._delegate, None
        callback, self._close_callback = self._close_callback, None
        self._is_lost = True
        self._events.clear()
        try:
            if not self._is_delivered:
                if delegate is not None:
                    delegate.on_connection_close()
            elif callback is not None:
                callback()
        except Exception as error:
            self._log(error)

    def _event(self, event: bytes | None) -> None:
        self._events.append(event)
        if self._delegate is not None and not self._is_waiting:
            self._play()

    def _play(self) -> None:
        """Give the application what has been read, while it takes it and has not answered."""
        try:
            while self._events and not self._is_waiting and self._delegate is not None:
                event = self._events.popleft()
                if self.is_answered:
                    continue
                if event is None:
                    self._is_delivered = True
                    self._delegate.finish()
                elif event:
                    self._wait_for(self._delegate.data_received(event))
                elif not (self.has_begun or self.is_read or self._events):
                    self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except Exception as error:
            self._failed(error)

    def _wait_for(self, taken: Awaitable[None] | None) -> None:
        """Hold everything that follows until the application has taken what it was given."""
        if taken is None:
            return
        self._is_waiting = True
        self.connection.hold_reading()

        async def wait() -> None:
            try:
                await taken
            except Exception as error:
                self._failed(error)
            self._is_waiting = False
            self.connection.release_reading()
            self._play()

        self.connection.spawn(wait())

    def _failed(self, error: Exception) -> None:
        """The application's code raised: that is this request's end, and its connection's."""
        if isinstance(error, httputil.HTTPInputError):  # how tornado's code refuses a request
            self.connection.failed(self, 400, "the request is malformed")
        else:
            self._log(error)
            self.connection.failed(self, 500, "the request could not be handled")

    def _log(self, error: Exception) -> None:
        line = self.start_line
        _log.error("%s %s could not be handled", line.method, ascii(line.path)[1:-1], exc_info=error)

    # -- the answer, from the application

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` when the client leaves before it is answered (tornado's handlers use it)."""
        self._close_callback = callback

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Write the head and the first piece of the body.

        Raises:
            ValueError: a line break in a header, or text that is not Latin-1.
        """
        assert isinstance(start_line, httputil.ResponseStartLine)
        if self._is_lost or self.connection.is_closed:
            return _closed()
        method = self.start_line.method
        bodyless = method == "HEAD" or start_line.code in _NO_BODY
        length = headers.get("Content-Length")
        http_1_1 = self.start_line.version == "HTTP/1.1"
        self._chunked = length is None and http_1_1 and not bodyless
        self._remaining = 0 if bodyless else int(length) if length is not None else None
        if headers.get("Connection", "").lower() == "close" or self.connection.is_draining:
            self.keep_alive = False
        if length is None and not http_1_1 and not bodyless:
            self.keep_alive = False  # the end of the connection is the end of the body
        lines = [f"HTTP/1.1 {start_line.code} {start_line.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all() if name not in _OURS]
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        if not self.keep_alive:
            lines.append("Connection: close")
        elif not http_1_1:
            lines.append("Connection: keep-alive")
        head = "\r\n".join(lines)
        if head.count("\r") + head.count("\n") != 2 * (len(lines) - 1):
            raise ValueError("a header of the answer holds a line break")
        data = head.encode("latin-1") + b"\r\n\r\n"
        self.has_begun = True
        if chunk and len(chunk) >= _LARGE:
            return self._write_large(data, self._framed(chunk))
        if chunk:
            data += self._framed(chunk)
        return self.connection.write(data)

    def write_answer(self, head: bytes, body: bytes, *more: bytes | memoryview) -> None:
        """Write all of an answer, framed already; what ``write_headers`` and ``finish`` do, for 1 us, not 10.

        Args:
            head: status line and fields, the right Content-Length among them, each ended by CRLF.
            body: as long as the head says, together with what follows.
            *more: of the body.
        """
        connection = self.connection
        if self._is_lost or connection.is_closed:
            return
        line = self.start_line
        if connection.is_draining:
            self.keep_alive = False
        if not self.keep_alive:
            head += b"Connection: close\r\n"
        elif line.version != "HTTP/1.1":
            head += b"Connection: keep-alive\r\n"
        if line.method == "HEAD":
            body, more = b"", ()
        if more:
            connection.write_all((head + b"\r\n" + body, *more))
        elif len(body) < _LARGE:
            connection.write(b"%b\r\n%b" % (head, body))
        else:
            self._write_large(head + b"\r\n", body)
        self.has_begun = self.is_answered = True
        self._close_callback = None
        connection.answered(self)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Write a piece of the body; the future is done when the client has taken enough for more."""
        if self._is_lost or self.connection.is_closed:
            return _closed()
        if self.is_answered:
            raise RuntimeError("a piece of an answer behind its end")
        if not self.has_begun:
            self.connection.abort()  # its head could not be written, and the application goes on
            return _closed()
        return self.connection.write(self._framed(chunk))

    def break_off(self) -> None:
        """The answer that has begun will not be whole: ``finish`` shall end it so that the client sees it."""
        self._is_broken = True

    def finish(self) -> None:
        """The answer is complete, or broken off."""
        if self.is_answered or self._is_lost:
            return
        if not self.has_begun:
            self.connection.abort()  # its head could not be written
            return
        if self._is_broken:
            self._finish_broken()
            return
        if self._remaining and not self.connection.is_closed:
            self.connection.abort()  # the client waits for bytes that will not come
            raise httputil.HTTPOutputError(f"Tried to write {self._remaining} bytes less than Content-Length")
        if self._chunked and not self.connection.is_closed:
            self.connection.write(b"0\r\n\r\n")
        self.is_answered = True
        self._close_callback = None
        self.connection.answered(self)

    def _finish_broken(self) -> None:
        """End without the last chunk, or short of the length; where neither is there, with a reset."""
        self.is_answered = True
        self.keep_alive = False
        self._close_callback = None
        if self._chunked or self._remaining is not None:
            self.connection.answered(self)
        else:
            self.connection.reset()

    def close(self) -> None:
        """Drop the connection after what is written is sent; once it lingers, that is its own business."""
        if not self.connection.lingers:
            self.connection.close()

    def _write_large(self, head: bytes, body: bytes) -> asyncio.Future[None]:
        """Write both without a copy of them together, for which there may be no memory."""
        try:
            self.connection.write(head)
            return self.connection.write(body)
        except MemoryError:
            self.connection.abort()  # else the client would wait for ever
            raise

    def _framed(self, chunk: bytes) -> bytes:
        if self._remaining is not None:
            self._remaining -= len(chunk)
            if self._remaining < 0:
                if self.start_line.method == "HEAD":
                    self._remaining = 0
                    return b""
                self.connection.abort()
                raise httputil.HTTPOutputError("Tried to write more data than Content-Length")
        if self._chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk


def _closed() -> asyncio.Future[None]:
    """What a write to nobody gives, as tornado's: who awaits it is told, who does not is left alone."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(iostream.StreamClosedError())
    future.exception()
    return future


def refusal(status: int, reason: str, body: bytes) -> bytes:
    """The whole answer to bytes that are no request; the connection closes behind it."""
    head = (
        f"HTTP/1.1 {status} {reason}\r\nServer: modelserver\r\nContent-Type: application/json\r\n"
        f"X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
