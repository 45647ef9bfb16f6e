"""A connection for which there is no room: its first request is answered 503, and it is closed.

Rules of the room: what becomes of such a connection; ``server`` says which it is. Where the system's own
limit is reached, a server can only leave new connections waiting, or cut them without a word: so ``server``
keeps a few descriptors back for answers from here. Idle connections are not closed to make room for new ones,
as some servers do: a client may just be sending a request on one, and cannot know whether it was run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modelserver.http.connection import Connection
from modelserver.http.exchange import refusal
from modelserver.protocols.v1_json import encode_error

if TYPE_CHECKING:
    from modelserver.http.server import HTTPServer

_HEAD_S = 2.0
"""A client that has just connected sends its request at once; who does not is not kept."""

_REASON = "The server has as many connections as it can take; try again in a second."
_ANSWER = refusal(503, "Service Unavailable", encode_error(_REASON)).replace(
    b"\r\n\r\n", b"\r\nRetry-After: 1\r\n\r\n", 1
)


class SurplusConnection(Connection):
    """A connection over the limit.

    Requests for the application's ``vital_targets`` are answered as ever, so that a full server is not taken
    for a dead one. Everything else gets 503 with ``Retry-After: 1`` when its head has come: an answer before
    the request is an error to some clients.
    """

    def __init__(self, server: HTTPServer) -> None:
        super().__init__(server)
        self._until = server.now() + _HEAD_S

    @property
    def is_draining(self) -> bool:
        """Every answer closes its connection."""
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; it has a moment to ask, unless too many of this kind are open."""
        super().connection_made(transport)
        self.deadline = self._until
        if not self._server.join_surplus(self):
            self._turn_away()
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._server.surplus.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: they go through the parser, also when a head like theirs is known."""
        self._is_between = False
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.deadline = self._until

    def on_headers_complete(self) -> None:
        """The head is complete: that is all there is to know."""
        if self._discards or self._url in self._server.vital_targets:
            super().on_headers_complete()
            return
        self._in_head = False
        self._turn_away()
        self._linger()

    def _turn_away(self) -> None:
        self._server.refused(503)
        self._transport.write(_ANSWER)
