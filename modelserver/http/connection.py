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

from modelserver.http.exchange import Exchange, refusal
from modelserver.http.head import HeadRefused, check_size, read_head
from modelserver.http.outgoing import Outgoing
from modelserver.logs import RateLimited
from modelserver.protocols.v1_json import encode_error

if TYPE_CHECKING:
    from modelserver.http.server import HTTPServer

_log = logging.getLogger("modelserver.server")
_refusals = RateLimited(
    lambda count, kind, period_s: _log.info(
        "Refused %d more requests in the last %g s: %s", count, period_s, kind
    )
)

_NEVER = float("inf")
_LINGER_S = 2.0
_LINGER_BYTES = 32 * 1024 * 1024
_FRAMING = ("content-length", "transfer-encoding")
_CHUNK_ROOM = 16
"""Bytes around each chunk that are not counted, as in Go's net/http: its size and two line ends."""


class Context(NamedTuple):
    """Who asks, in the words of tornado's requests."""

    remote_ip: str
    protocol: str = "http"


class Connection(Outgoing):
    """An accepted connection.

    Attributes:
        lingers: the last answer is written; what still comes is thrown away.
    """

    def __init__(self, server: HTTPServer) -> None:
        super().__init__(server)
        self.application = server.application
        self.answer_whole = server.answer_whole
        self.context = Context("")
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[Exchange] = deque()  # the first one is being answered
        self._reading: Exchange | None = None  # the last one, while its body comes
        self._is_between = True  # requests: nothing of the next one has come
        self._raw_head = b""  # of a request that came in one piece so far
        self._in_head = False
        self._knows_head = False
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []  # of the body, in this read
        self._read_size = 0
        self._stalled_bytes = 0  # read since a head began, or beside a body
        self._holds = 0
        self._holds_pipeline = False
        self._discards = False
        self._discarded = 0
        self.lingers = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_draining(self) -> bool:
        """Whether the server is going away: every answer closes its connection."""
        return self._server.is_draining

    @property
    def is_busy(self) -> bool:
        """Whether a request is not answered yet, or its answer not sent."""
        return bool(self._transport.get_write_buffer_size()) or any(
            not each.is_answered for each in self._line
        )

    def idle_s(self, now: float) -> float:
        """Seconds since it was last in use."""
        if self._line or self._in_head or self.is_closed or self.lingers:
            return 0.0
        return now - (self.deadline - self._limits.keep_alive_s)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        peer = transport.get_extra_info("peername")
        protocol = "http" if transport.get_extra_info("ssl_object") is None else "https"
        self.context = Context(peer[0] if isinstance(peer, tuple) else "", protocol)
        self._server.opened(self)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: parse them, unless they are unwanted."""
        size = len(data)
        if self._discards:
            self._discarded += size
            if self._discarded > _LINGER_BYTES:
                self.abort()
            return
        if self._is_between:
            self._raw_head = data[: data.find(b"\r\n\r\n") + 4]
            known = self._server.known_heads.get(self._raw_head)
            if known is not None and size == known.size and not self._line and not self._is_full:
                exchange = Exchange(self, known.head, True)
                self._line.append(exchange)
                self.deadline = _NEVER
                exchange.open_whole(data[len(self._raw_head) :])
                return
        self._read_size = size
        self._stalled_bytes += size
        self._feed(data)
        if self._pieces and self._reading is not None:
            self._reading.body_received(self._take_body())
        if self._stalled_bytes > self._limits.max_head_bytes:
            what = "head is" if self._in_head else "chunk extensions or trailers are"
            self._refuse(431, f"the request's {what} over {self._limits.max_head_bytes} bytes")
        elif self._reading is not None and self._line[0] is self._reading:
            # Time runs out unless it is earned back with bytes: a byte a second does not keep a body alive.
            earned = self.deadline + size / self._limits.min_body_rate
            self.deadline = min(earned, self._server.now() + self._limits.body_idle_s)

    def eof_received(self) -> bool | None:
        """The client will send no more; like tornado and nginx, take it as gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, from either side."""
        self.is_closed = True
        self._server.connections.discard(self)
        self._wake_waiters()
        self._forget_line()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        super().pause_writing()
        self.hold_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self.release_reading()
        if not self.is_closed and not self.lingers:
            self._advance()

    # -- the parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_between = False
        if self._knows_head:
            return
        self._in_head = True
        self._stalled_bytes = 0
        self._url = b""
        self._fields = []
        if not self._line:
            self.deadline = self._server.now() + self._limits.head_s

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field; one behind the body (a trailer) is read and ignored."""
        if self._in_head and len(self._fields) <= self._limits.max_header_fields:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: the request takes its place in the line."""
        if not self._in_head:
            return  # known before, see _ignore_upgrade
        self._in_head = False
        stalled, self._stalled_bytes = self._stalled_bytes, 0
        if self._discards:
            return
        parser, fields, limits = self._parser, self._fields, self._limits
        try:
            if (
                stalled
                or self._read_size > limits.max_head_bytes  # else it cannot be over it
                or len(fields) > limits.max_header_fields
            ):
                check_size(self._url, fields, limits)
            head = read_head(
                parser.get_method().decode("ascii"),
                self._url.decode("latin-1"),
                parser.get_http_version(),
                fields,
            )
        except HeadRefused as refused:
            self._refuse(refused.status, refused.reason)
            return
        keep_alive = parser.should_keep_alive()
        if self._raw_head and keep_alive and not parser.should_upgrade():
            self._server.known_heads.learn(self._raw_head, head, self._url, fields)
        self._raw_head = b""
        exchange = self._reading = Exchange(self, head, keep_alive)
        self._line.append(exchange)
        if len(self._line) == 1 and not self._is_full:
            self.deadline = self._server.now() + limits.body_idle_s
            exchange.open()
        elif len(self._line) > 1:
            self._hold_for_pipeline()

    def on_body(self, body: bytes) -> None:
        """A piece of the body. The pieces of one read are passed on as one, however small the chunks are."""
        excess = self._stalled_bytes - len(body) - _CHUNK_ROOM
        self._stalled_bytes = excess if excess > 0 else 0
        if self._reading is not None:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        exchange = self._reading
        if exchange is None or (not self._knows_head and self._parser.should_upgrade()):
            return
        self._stalled_bytes = 0
        if self._pieces:
            exchange.body_received(self._take_body())
            if self._reading is None:
                return  # the application failed
        self._reading = None
        self._is_between = True
        if len(self._line) == 1 and not self._is_full:
            self.deadline = _NEVER  # it is the server's turn now
        if not exchange.keep_alive:
            self._last_request()
        exchange.body_ended()

    # -- the exchange's side

    def abort(self) -> None:
        """Close at once, and so that half an answer does not look like a whole one."""
        if self._line and self._line[0].is_unframed:
            self._reset_at_close()
        super().abort()

    def answered(self, exchange: Exchange) -> None:
        """The first in line is answered: the next one's turn, or the end."""
        if self.is_closed:
            return
        if not exchange.is_read or (not exchange.keep_alive and self._discarded):
            self._linger()  # more came or will come, and nobody wants it
        elif not exchange.keep_alive:
            self.close()
        else:
            self._line.popleft()
            self._advance()

    def failed(self, exchange: Exchange, status: int, reason: str) -> None:
        """The application could not handle the first in line, and did not answer it."""
        if self.is_closed or self.lingers:
            return
        if exchange.has_begun:
            self.reset()  # a close would make half an answer look like a whole one
        else:
            self._end_with(status, reason)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something for an exchange, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hold_reading(self) -> None:
        """Read no more until every hold is released."""
        self._holds += 1
        if self._holds == 1 and not self.is_closed and not self.lingers:
            self._transport.pause_reading()

    def release_reading(self) -> None:
        """Take one hold back."""
        self._holds -= 1
        if self._holds == 0 and not self.is_closed and not self.lingers:
            self._transport.resume_reading()
            if self._line and not self._line[0].is_read and not self._is_full:
                self.deadline = self._server.now() + self._limits.body_idle_s

    # -- the server's side

    def expire(self) -> None:
        """The deadline has passed."""
        if self.is_closed or self._is_full:
            self._expire_writing()
        elif self.lingers:
            self.close()
        elif self._line:
            if self._line[0].is_read or self._holds:
                self.deadline = _NEVER  # it is the application that takes its time
            else:
                rate = f"{self._limits.min_body_rate:g} bytes/s for {self._limits.body_idle_s:g} s"
                self._refuse(408, f"the request's body came slower than {rate}")
        elif self._in_head:
            self._refuse(408, f"the request's head did not come within {self._limits.head_s:g} s")
        else:
            self.close()

    # -- inside

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            _log.exception("A request could not be handled", exc_info=error.__context__ or error)
            self.abort()
        except httptools.HttpParserError:
            if self._discards:
                self._discarded += len(data)
            else:
                self._refuse(400, "the bytes received are not an HTTP/1.1 request")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read on as if no other protocol had been offered (RFC 9110, 7.8).

        ``curl --http2`` and Java's client offer HTTP/2 with every request. llhttp stops behind such a head,
        as if no body came, so a fresh parser goes on from there.
        """
        if self._discards or self._reading is None:
            return
        fields = self._reading.head.lowered
        framing = [f"{name}: {fields[name]}" for name in _FRAMING if name in fields]
        self._parser = httptools.HttpRequestParser(self)
        self._knows_head = True
        self._feed("\r\n".join(["POST / HTTP/1.1", *framing, "", ""]).encode("latin-1"))
        self._knows_head = False
        if rest and not self._discards:
            self._feed(rest)
        else:
            self._discarded += len(rest)

    def _take_body(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _advance(self) -> None:
        """Open the first in line, if there is one, and see how long to wait for what the client owes."""
        if self._is_full:
            return  # until the client has taken what waits for it
        if len(self._line) <= 1 and self._holds_pipeline:
            self._holds_pipeline = False
            self.release_reading()
        now = self._server.now()
        if not self._line:
            self.deadline = now + (self._limits.head_s if self._in_head else self._limits.keep_alive_s)
            return
        first = self._line[0]
        self.deadline = _NEVER if first.is_read else now + self._limits.body_idle_s
        if not first.is_open:
            asyncio.get_running_loop().call_soon(self._open, first)

    def _open(self, exchange: Exchange) -> None:
        if self._line and self._line[0] is exchange and not exchange.is_open and not self.is_closed:
            exchange.open()

    def _hold_for_pipeline(self) -> None:
        """Requests wait in line: read no further, so that they cannot grow without bound."""
        if not self._holds_pipeline:
            self._holds_pipeline = True
            self.hold_reading()

    def _last_request(self) -> None:
        """Whatever comes behind the last request in line is not read as another."""
        self._discards = True
        self._in_head = False
        self._line[-1].keep_alive = False

    def _linger(self) -> None:
        """End our side and throw away what still comes: a close now would reset the answer on its way."""
        self._discards = self.lingers = True
        self.deadline = self._server.now() + _LINGER_S
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot become a request, and close. What was read whole before is answered first."""
        if self._discards:
            return
        self._server.refused(status)
        if _refusals.admits(f"{status}, {reason}"):
            who = self.context.remote_ip or "a socket"
            _log.info("Refused a request from %s: %d, %s", who, status, reason)
        cut, self._reading = self._reading, None
        self._pieces.clear()
        if self._line and self._line[0] is not cut:
            if cut is not None:
                self._line.pop()
            self._last_request()
        elif cut is not None and cut.has_begun:
            self._forget_line()
            self._linger()
        else:
            self._end_with(status, reason)

    def _end_with(self, status: int, reason: str) -> None:
        self._reading = None
        self._pieces.clear()
        self._transport.write(
            refusal(status, responses[status], encode_error(reason[0].upper() + reason[1:] + "."))
        )
        self._forget_line()  # the application shall forget what was cut short
        self._linger()

    def _forget_line(self) -> None:
        while self._line:
            self._line.popleft().connection_lost()
