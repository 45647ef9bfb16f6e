"""``AsyncClient``: the calls of ``Client`` for an event loop, asyncio's or uvloop's; and HTTP over asyncio.

Rules of the room: as in ``blocking``. A call that is cancelled closes its connection.
"""
# ruff: noqa: ASYNC109 - a timeout is for all tries of a call, as that of ``Client``

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import httptools

from modelserver.client.calls import NO_HEADERS, Answer, Call, Inputs, Question, Reply, Steps
from modelserver.client.failures import ClientError
from modelserver.client.http_messages import SCRATCH, AnswerReader, Part, RequestWriter
from modelserver.client.options import Options, ProtocolName
from modelserver.client.patience import NothingCame, Patience, broken_off, cannot_connect

_PIECE = 256 * 1024
"""Bytes given to a transport at once: what it cannot send it may copy."""
T = TypeVar("T")


class AsyncClient:
    """As ``Client``, with coroutines. For one event loop at a time, and any number of its tasks.

    Args:
        url: as of ``Client``, and so are the others.
        protocol: ``v2``, ``v2-json`` or ``v1``.
        timeout: seconds.
        retries: tries after the first.
        headers: sent with every request.
        api_key: sent as ``Authorization: Bearer``.
        ca_file: PEM file of the certificates to trust.
        max_connections: calls that are under way at once; over HTTP each has its connection. Further ones
            wait, and their timeout runs.

    Raises:
        ValueError, StartError: as ``Client``.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: ProtocolName = "v2",
        timeout: float = 60.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        api_key: str = "",
        ca_file: str | Path = "",
        max_connections: int = 100,
    ) -> None:
        self._options = Options.of(url, protocol, timeout, retries, headers, api_key, ca_file)
        self._dialect = self._options.dialect()
        self._transport = _transport(self._options, max_connections)

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] = NO_HEADERS,
        id: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float | None = None,
    ) -> Answer:
        """As ``Client.infer``."""
        question = Question(model, inputs, version, outputs, parameters, id, headers)
        return await self._run(self._dialect.infer(question), timeout)

    async def explain(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | str | None = None,
        parameters: Mapping[str, Any] = NO_HEADERS,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float | None = None,
    ) -> Any:
        """As ``Client.explain``."""
        question = Question(model, inputs, version, (), parameters, "", headers)
        return await self._run(self._dialect.explain(question), timeout)

    async def is_live(self, *, timeout: float | None = None) -> bool:
        """As ``Client.is_live``."""
        return await self._run(self._dialect.is_live(), timeout)

    async def is_ready(
        self, model: str | None = None, *, version: int | str | None = None, timeout: float | None = None
    ) -> bool:
        """As ``Client.is_ready``."""
        return await self._run(self._dialect.is_ready(model, version), timeout)

    async def metadata(
        self, model: str, *, version: int | str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """As ``Client.metadata``."""
        return await self._run(self._dialect.metadata(model, version), timeout)

    async def models(self, *, timeout: float | None = None) -> list[str]:
        """As ``Client.models``."""
        return await self._run(self._dialect.models(), timeout)

    async def close(self) -> None:
        """As ``Client.close``."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T], timeout: float | None) -> T:
        options = self._options
        timeout_s = options.timeout_s if timeout is None else timeout
        patience = Patience(options.endpoint.url, timeout_s, options.retries)
        try:
            call = next(steps)
            while True:
                try:
                    reply = await self._reply(call, patience)
                except ClientError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _reply(self, call: Call, patience: Patience) -> Reply:
        patience.begin(call)
        try:
            async with asyncio.timeout(patience.left_s()):
                while True:
                    reply = await self._transport.exchange(call, patience)
                    pause_s = patience.pause_s(call, reply)
                    if pause_s is None:
                        return reply
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            raise patience.timed_out() from None


class AsyncTransport(Protocol):
    """As ``blocking.Transport``."""

    async def exchange(self, call: Call, patience: Patience) -> Reply:
        """Bring a call to the server once, and its reply back."""

    async def close(self) -> None:
        """Close what is open."""


def _transport(options: Options, max_connections: int) -> AsyncTransport:
    if options.endpoint.is_grpc:
        from modelserver.client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(options, max_connections)
    return AsyncHTTPTransport(options, max_connections)


class AsyncHTTPTransport:
    """Keeps connections for calls to come; each is in use by one call.

    Args:
        options: of the client.
        max_connections: at once.
    """

    def __init__(self, options: Options, max_connections: int) -> None:
        self._options = options
        self._requests = RequestWriter(options.endpoint, options.headers)
        self._tls = options.tls
        self._room = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []

    async def exchange(self, call: Call, patience: Patience) -> Reply:
        """As ``blocking.Transport.exchange``."""
        parts = self._requests.parts(call)
        async with self._room:
            connection = self._kept()
            if connection is not None:
                try:
                    return self._finish(connection, await connection.exchange(parts, patience))
                except NothingCame:
                    pass  # the server had closed it before the request came
            connection = await self._connected(patience)
            return self._finish(connection, await connection.exchange(parts, patience))

    async def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            connection = self._idle.pop()
            connection.close()
            await connection.lost

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.loop is asyncio.get_running_loop() and not connection.is_stale():
                return connection
        return None

    def _finish(self, connection: _Connection, reader: AnswerReader) -> Reply:
        if reader.keeps_alive:
            self._idle.append(connection)
        else:
            connection.close()
        return reader.reply()

    async def _connected(self, patience: Patience) -> _Connection:
        endpoint, loop = self._options.endpoint, asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(loop), endpoint.host, endpoint.port, ssl=self._tls
            )
        except OSError as error:
            raise cannot_connect(error, patience) from error
        return connection


class _Connection(asyncio.BufferedProtocol):
    """One connection.

    Args:
        loop: that it belongs to.

    Attributes:
        loop: the same.
        lost: is done when the connection has ended.
    """

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._scratch = memoryview(bytearray(SCRATCH))
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[None] = loop.create_future()
        self._writable: asyncio.Future[None] | None = None  # while there is too much unsent
        self.lost: asyncio.Future[None] = loop.create_future()

    async def exchange(self, parts: Sequence[Part], patience: Patience) -> AnswerReader:
        """Send a request and receive its answer.

        Raises:
            NothingCame: the server had closed the connection before.
            ServerUnreachable, UnreadableAnswer: as ``Transport.exchange``.
        """
        reader = self._reader = AnswerReader(self._scratch)
        answered = self._answered = self.loop.create_future()
        sent_at = None
        try:
            if await self._send(parts):
                sent_at = time.monotonic()
            is_sent = not answered.done()
            await answered
        except BaseException as error:
            self.close()
            failure = broken_off(error, reader.has_begun, sent_at, patience)
            if failure is error:
                raise
            raise failure from error
        reader.keeps_alive = reader.keeps_alive and is_sent
        return reader

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for; the loop may not know yet."""
        if self.lost.done() or self._transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it at once."""
        self._reader = None
        self._transport.abort()

    async def _send(self, parts: Sequence[Part]) -> bool:
        """Whether all could be handed over."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), _PIECE):
                if start:
                    await asyncio.sleep(0)  # others have their turn, and an answer its chance
                if self._answered.done():
                    return False  # refused before it was read
                self._transport.write(view[start : start + _PIECE])
                if self._writable is not None:
                    await self._writable
        return True

    def _end(self, error: Exception | None = None) -> None:
        """The answer is whole, or will never be."""
        if self._reader is None:
            return
        self._reader = None
        self.resume_writing()
        if not self._answered.done():
            if error is None:
                self._answered.set_result(None)
            else:
                self._answered.set_exception(error)

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be received."""
        return self._scratch if self._reader is None else self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        if self._reader is None:
            self._transport.abort()  # nobody has asked for anything
            return
        try:
            self._reader.received(nbytes)
        except httptools.HttpParserError as error:
            self._end(error)
        else:
            if self._reader.is_whole:
                self._end()

    def eof_received(self) -> None:
        """The server will send no more."""
        if self._reader is not None and self._reader.ended():
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._end(exc or ConnectionResetError())
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The server reads slower than it is written to."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """The server has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
