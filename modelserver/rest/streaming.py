"""An answer that comes piece by piece: a stream's items, each sent when it is there.

    before the first item   an error is an ordinary answer, with its status
    behind it               the head has gone: the answer breaks off, so that the client sees it
    the client reads slowly the next item is asked for when it has taken enough of this one
    the client leaves       the stream is closed: what is in its ``finally`` runs

Rules of the room: one answer's bytes, in order. When its time is up, and what else it counts for, its host
knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Protocol

from tornado import httputil, iostream

from modelserver import streams
from modelserver.errors import InferenceError
from modelserver.protocols import stream_items
from modelserver.rest import request_ids
from modelserver.rest.answers import Answer, checked_headers, failure

# A proxy that collects an answer, as nginx does unless it is told so, would undo the stream.
_AS_IT_COMES = {"X-Accel-Buffering": "no"}
_EVENTS = {"Cache-Control": "no-cache", **_AS_IT_COMES}
_FRAMING = ("Content-Length", "Transfer-Encoding")
_END = object()
_tasks: set[asyncio.Task[None]] = set()
"""Those that run; the loop itself keeps no hold of them."""


class Host(Protocol):
    """Whose answer it is."""

    def item_is_due(self) -> None:
        """The next item is asked for."""

    def item_is_there(self) -> None:
        """It has come, or there is none."""

    def on_connection_close(self) -> None:
        """The client is gone."""

    def stream_ended(self, error: BaseException | None) -> None:
        """The stream is at its end, or failed."""


class StreamedAnswer:
    """The answer to one request, made of what a stream gives.

    Args:
        stream: the items.
        connection: where they go.
        host: whose answer it is.
        encode: makes bytes and their Content-Type of an item.
        accept: the request's header.
        response_headers: the hooks'; read when the first item is there.
        fields: that every answer of the server has.
        where: the request, for the log.

    Attributes:
        has_begun: its head is sent.
    """

    has_begun = False
    _is_events = False
    _is_unwanted = False
    _is_closing = False
    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        stream: AsyncIterable[Any],
        connection: httputil.HTTPConnection,
        host: Host,
        *,
        encode: Callable[[Any], tuple[bytes, str]],
        accept: str,
        response_headers: MutableMapping[str, str],
        fields: Mapping[str, str],
        where: str,
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._host = host
        self._encode = encode
        self._accept = accept
        self._response_headers = response_headers
        self._fields = fields
        self._where = where

    def start(self) -> None:
        """Send the items, tell the host how it ended, and close the stream."""
        task = self._task = asyncio.get_running_loop().create_task(self._run())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def cancel(self) -> None:
        """Nobody wants the items any more: stop, and close the stream."""
        self._is_unwanted = True
        if self._task is not None and not self._is_closing:
            self._task.cancel()

    async def _run(self) -> None:
        items: Any = self._stream
        ended: Callable[[], None] | None = None
        try:
            items = aiter(self._stream)
            await self._send(items)
            ended = partial(self._host.stream_ended, None)
        except _ClientGone:
            ended = self._host.on_connection_close
        except BaseException as error:
            if self._is_unwanted:
                self._unwanted(error)
            elif not _is_cancelled(error):
                ended = partial(self._host.stream_ended, error)
        self._is_closing = True  # from here on, what the model has to tidy up is not to be disturbed
        if ended is not None:
            ended()
        await self._close(items)

    def finish(self) -> None:
        """All is sent."""
        self._connection.finish()

    def break_off(self, error: BaseException) -> Answer:
        """End an answer that has begun, so that its client cannot take it for a whole one.

        Returns:
            What the answer counts as.
        """
        connection = self._connection
        _, reason = failure(error, self._where, request_ids.of(connection), has_begun=True)
        written = connection.write(stream_items.error_event(reason)) if self._is_events else None
        break_off = getattr(connection, "break_off", None)  # only the server's own connection has it
        if break_off is not None:
            break_off()
            connection.finish()
        elif written is None:
            connection.close()  # type: ignore[attr-defined]  # tornado's has it
        else:
            written.add_done_callback(lambda done: done.exception() or connection.close())  # type: ignore[attr-defined]
        return Answer(500, b"")

    async def _send(self, items: AsyncIterator[Any]) -> None:
        item = await self._next(items)
        written = self._begin(item)
        while item is not _END:
            item = None  # it may be large, and the client may take its time
            await self._flushed(written)
            self._host.item_is_due()
            item = await self._next(items)
            if item is not _END:
                written = self._connection.write(self._piece(*self._encode(item)))

    async def _next(self, items: AsyncIterator[Any]) -> Any:
        try:
            item = await anext(items, _END)
        except (SystemExit, KeyboardInterrupt) as error:
            raise InferenceError(f"the model called {type(error).__name__}") from error
        if self._is_unwanted:  # the model goes on, though it was told to stop
            raise asyncio.CancelledError
        self._host.item_is_there()
        return item

    def _begin(self, item: object) -> asyncio.Future[None]:
        """Send the head, which is what the first item makes it, and this item."""
        body, content_type = (b"", stream_items.TEXT) if item is _END else self._encode(item)
        own = checked_headers(self._response_headers)
        otherwise = stream_items.type_of_stream(content_type)
        if not any(name.lower() == "content-type" for name in own):  # else the model makes events itself
            self._is_events = stream_items.wants_events(self._accept, otherwise)
        streamed, sent_as = (_EVENTS, stream_items.EVENTS) if self._is_events else (_AS_IT_COMES, otherwise)
        piece = b"" if item is _END else self._piece(body, content_type)
        answer = Answer(200, b"", sent_as, {**self._fields, **streamed, **own})
        start_line, headers = answer.head(request_ids.of(self._connection))
        for name in _FRAMING:
            headers.pop(name, None)
        written = self._connection.write_headers(start_line, headers, piece or None)
        self.has_begun = True
        return written

    async def _close(self, items: object) -> None:
        try:
            await streams.close(items)
        except BaseException as error:
            if _is_cancelled(error):
                raise
            self._closing_failed(error)

    def _unwanted(self, error: BaseException) -> None:
        """The task was told to stop, and has."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # what the model has to tidy up may use timeouts, which look at this
        if not isinstance(error, asyncio.CancelledError):
            self._closing_failed(error)

    def _closing_failed(self, error: BaseException) -> None:
        where = f"{self._where}, closing its stream,"
        failure(error, where, request_ids.of(self._connection), has_begun=True)

    def _piece(self, body: bytes, content_type: str) -> bytes:
        return (stream_items.as_event if self._is_events else stream_items.as_piece)(body, content_type)

    async def _flushed(self, written: asyncio.Future[None]) -> None:
        """Wait until the client has taken enough for more."""
        try:
            if not written.done():
                await written
            else:
                written.result()
                await asyncio.sleep(0)  # else a model that never waits would stop the loop
        except iostream.StreamClosedError:
            raise _ClientGone from None


async def all_closed(within_s: float) -> None:
    """Wait until the streams that nobody wants any more are closed, as far as they are in time."""
    if _tasks:
        await asyncio.wait(_tasks, timeout=within_s)


def _is_cancelled(error: BaseException) -> bool:
    """Whether this task was, and not only something that the model has waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class _ClientGone(Exception):
    """There is nobody to write to."""
