"""One client's connection: bytes in, exchanges in order, bytes out.

Rules of the room: httptools parses (llhttp, strict), this decides what follows from it: limits, order,
back-pressure, when to close. It never looks at what a request asks for. Deadlines are only noted here;
``server`` looks at them once a second, which costs a request nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from http.client import responses
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import httptools
from tornado import httputil

from modelserver.http.exchange import Exchange, refusal
from modelserver.protocols.v1_json import encode_error

if TYPE_CHECKING:
    from modelserver.http.server import HTTPServer

_log = logging.getLogger("modelserver.server")

_NEVER = float("inf")
_LINGER_S = 2.0
_LINGER_BYTES = 32 * 1024 * 1024


class Context(NamedTuple):
    """Who asks, in the words of tornado's requests."""

    remote_ip: str
    protocol: str = "http"


class Connection(asyncio.Protocol):
    """An accepted connection.

    Attributes:
        deadline: the moment, on the loop's clock, at which patience ends.
        is_closed: nothing can be written any more.
    """

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._limits = server.limits
        self.application = server.application
        self.context = Context("")
        self.deadline = 0.0
        self.is_closed = False
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[Exchange] = deque()  # the first one is being answered
        self._reading: Exchange | None = None  # the last one, while its body comes
        self._url = b""
        self._headers = httputil.HTTPHeaders()
        self._fields = 0
        self._head_bytes = 0
        self._in_head = False
        self._holds = 0
        self._is_paused = False
        self._discards = False
        self._discarded = 0
        self._closing = False
        self._drained: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_draining(self) -> bool:
        """Whether the server is going away: every answer closes its connection."""
        return self._server.is_draining

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return not self._line and not self._in_head

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        peer = transport.get_extra_info("peername")
        self.context = Context(peer[0] if isinstance(peer, tuple) else "")
        self._server.connections.add(self)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: parse them, unless they are unwanted."""
        if self._discards:
            self._discarded += len(data)
            if self._discarded > _LINGER_BYTES:
                self.close()
            return
        if self._reading is None and not self._in_head:  # the first bytes of a request
            self._in_head = True
            self._head_bytes = 0
            if not self._line:
                self.deadline = self._server.now() + self._limits.head_s
        elif self._reading is not None and len(self._line) == 1:
            self.deadline = self._server.now() + self._limits.body_idle_s
        was_in_head = self._in_head
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last_request()  # nothing else is spoken here; the request itself is answered
        except httptools.HttpParserCallbackError as error:
            _log.exception("A request could not be handled", exc_info=error.__context__ or error)
            self.abort()
        except httptools.HttpParserError:
            if not self._discards:
                self._malformed()
        else:
            if was_in_head and self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > self._limits.max_head_bytes:
                    self._refuse(431, f"the request's head is over {self._limits.max_head_bytes} bytes")

    def eof_received(self) -> bool | None:
        """The client will send no more; like tornado and nginx, take it as gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, from either side."""
        self.is_closed = True
        self._server.connections.discard(self)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        while self._line:
            self._line.popleft().connection_lost()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        self._drained = asyncio.get_running_loop().create_future()
        self.deadline = self._server.now() + self._limits.write_idle_s
        self.hold_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        assert self._drained is not None
        if not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        self.deadline = _NEVER if self._line else self._server.now() + self._limits.keep_alive_s
        self.release_reading()

    # -- the parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = httputil.HTTPHeaders()
        self._fields = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field."""
        self._fields += 1
        if self._fields <= self._limits.max_header_fields:
            try:
                self._headers.add(name.decode("latin-1"), value.decode("latin-1"))
            except httputil.HTTPInputError:
                self._refuse(400, "a header field is malformed")

    def on_headers_complete(self) -> None:
        """The head is complete: the request takes its place in the line."""
        self._in_head = False
        self._head_bytes = 0
        if self._discards:
            return
        if self._fields > self._limits.max_header_fields:
            self._refuse(431, f"the request has more than {self._limits.max_header_fields} header fields")
            return
        version = f"HTTP/{self._parser.get_http_version()}"
        if version == "HTTP/1.1" and "Host" not in self._headers:
            self._refuse(400, "the request has no Host header")
            return
        exchange = self._reading = Exchange(
            self,
            httputil.RequestStartLine(
                self._parser.get_method().decode("ascii"), self._url.decode("latin-1"), version
            ),
            self._headers,
            self._parser.should_keep_alive(),
        )
        self._line.append(exchange)
        if len(self._line) == 1:
            self.deadline = self._server.now() + self._limits.body_idle_s
            exchange.open()
        else:
            self._hold_for_pipeline()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._reading is not None:
            self._reading.body_received(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        exchange, self._reading = self._reading, None
        if exchange is None:
            return
        if len(self._line) == 1:
            self.deadline = _NEVER  # it is the server's turn now
        if not exchange.keep_alive:
            self._last_request()
        exchange.body_ended()

    # -- the exchange's side

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done when there is room for more."""
        if not self.is_closed:
            self._transport.write(data)
        return self._drained if self._drained is not None else self._server.done

    def answered(self, exchange: Exchange) -> None:
        """The first in line is answered: the next one's turn, or the end."""
        if self.is_closed:
            return
        if not exchange.is_read:
            self._linger()  # its body still comes, and nobody wants it
        elif not exchange.keep_alive:
            self.close()
        else:
            self._line.popleft()
            if self._line:
                following = self._line[0]
                self.deadline = _NEVER if following.is_read else self._server.now() + self._limits.body_idle_s
                asyncio.get_running_loop().call_soon(self._open, following)
            else:
                self._release_for_pipeline()
                self._expect_request()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something for an exchange, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hold_reading(self) -> None:
        """Read no more until every hold is released."""
        self._holds += 1
        if self._holds == 1 and not self.is_closed:
            self._transport.pause_reading()

    def release_reading(self) -> None:
        """Take one hold back."""
        self._holds -= 1
        if self._holds == 0 and not self.is_closed and not self._closing:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close when everything written has been sent."""
        self._closing = True
        self.deadline = self._server.now() + self._limits.write_idle_s
        if not self.is_closed:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if not self.is_closed:
            self._transport.abort()

    # -- the server's side

    def expire(self) -> None:
        """The deadline has passed."""
        if self._drained is not None or self._closing:
            self.abort()
        elif self._discards or self.is_idle:
            self.close()
        elif not self._line:
            self._refuse(408, f"the request's head did not come within {self._limits.head_s:g} s")
        elif self._line[0].has_begun:
            self.abort()
        else:
            self._refuse(408, f"the request's body stood still for {self._limits.body_idle_s:g} s")

    # -- inside

    def _open(self, exchange: Exchange) -> None:
        if self._line and self._line[0] is exchange:
            exchange.open()

    def _expect_request(self) -> None:
        self.deadline = self._server.now() + self._limits.keep_alive_s

    def _hold_for_pipeline(self) -> None:
        """Requests wait in line: read no further, so that they cannot grow without bound."""
        if not self._is_paused:
            self._is_paused = True
            self.hold_reading()

    def _release_for_pipeline(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self.release_reading()

    def _last_request(self) -> None:
        """Whatever comes behind this request is not read as another."""
        self._discards = True
        if self._line:
            self._line[-1].keep_alive = False

    def _linger(self) -> None:
        """End our side and throw away what still comes: a close now would reset the answer on its way."""
        self._discards = True
        self.deadline = self._server.now() + _LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _malformed(self) -> None:
        """The parser is lost. What was read whole before is still answered; what was not is refused."""
        cut, self._reading = self._reading, None
        waits = [exchange for exchange in self._line if exchange is not cut]
        if not waits:
            self._refuse(400, "the bytes received are not an HTTP/1.1 request")
            return
        if cut is not None:
            self._line.remove(cut)
        self._last_request()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot become a request, and close."""
        if self._discards:
            return
        if not (self._line and self._line[0].has_begun):
            self._transport.write(refusal(status, responses[status], encode_error(f"Bad request: {reason}.")))
        while self._line:  # a request that was cut short: the application shall forget it
            self._line.popleft().connection_lost()
        self._linger()
