"""Refusing a request whose body still comes (too large: 413; no API key: 401), so that the client reads why.

A connection closed while the client still sends is reset, and a reset can destroy the answer on its way. So
the answer goes out first, and what still comes is thrown away for a bounded while (nginx calls it a lingering
close); then the connection closes and nothing behind the body is ever read as a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado import httputil

from modelserver.errors import PayloadTooLarge
from modelserver.rest import request_ids
from modelserver.rest.answers import Answer, error_answer

LINGER_S = 2.0
LINGER_BYTES = 32 * 1024 * 1024


def too_large(size: int, limit: int, *, counted: bool) -> Answer:
    """413 to a body of a size that was announced, or counted so far."""
    return error_answer(PayloadTooLarge(size, limit, counted=counted), "request")


class RefusalDelegate(httputil.HTTPMessageDelegate):
    """Gives one request an answer that does not wait for its body, and closes its connection.

    Args:
        connection: where the answer goes.
        answer: it.
        done: called with the answer when it is written.
    """

    def __init__(
        self, connection: httputil.HTTPConnection, answer: Answer, done: Callable[[Answer], None]
    ) -> None:
        self._connection = connection
        self._answer = answer._replace(headers={**answer.headers, "Connection": "close"})
        self._done = done
        self._discarded = 0
        self._closed = False

    def refuse(self, *, wait_for_body: bool) -> None:
        """Send the answer; then close at once, or when the client has stopped sending."""
        self._connection.write_headers(
            *self._answer.head(request_ids.of(self._connection)), self._answer.body
        )
        self._done(self._answer)
        if wait_for_body:
            asyncio.get_running_loop().call_later(LINGER_S, self._close)
        else:
            self._close()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Throw the piece away."""
        self._discarded += len(chunk)
        if self._discarded > LINGER_BYTES:
            self._close()
        return None

    def finish(self) -> None:
        """The body has ended: nothing is lost by closing now."""
        self._close()

    def on_connection_close(self) -> None:
        """The client has gone first."""
        self._closed = True

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._connection.finish()
        close = getattr(self._connection, "close", None)  # not in the interface; both connections have it
        if close is not None:
            asyncio.get_running_loop().call_soon(close)
