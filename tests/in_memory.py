"""A server in this process whose connections are memory: for tests that send thousands of byte streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import modelserver
from modelserver.http.connection import Connection
from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer

_MOST_TURNS = 1000
_MOST_REQUESTS = 20
_QUIET_TURNS = 12
"""A page answers in six turns."""
_CHANGES = re.compile(rb"(?i)(?<=\r\n)(?:date|x-request-id|x-error-id): [^\r\n]*\r\n")


class Strict(modelserver.Model):
    """Refuses what it cannot take, so that every 5xx is the server's fault."""

    instances_dtype = "float32"

    def preprocess(self, payload: Any) -> Any:
        if not isinstance(payload, dict):
            raise modelserver.InvalidInput("Expected JSON")
        return payload

    def predict(self, payload: Any) -> Any:
        return {"predictions": payload["instances"]}


class Wire(asyncio.Transport):
    """Keeps what is written.

    Attributes:
        written: by the server.
        is_over: the server has closed it, or ended its side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_over = False
        self.is_reading = True

    def write(self, data: Any) -> None:
        assert not self.is_over, "written behind the end"
        self.written += data

    def close(self) -> None:
        self.is_over = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.is_over

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class MemoryServer:
    """The server's own application behind its own connections.

    Args:
        settings: of the server.
    """

    def __init__(self, **settings: Any) -> None:
        model = Strict("strict")
        model.load()
        self._loop = asyncio.new_event_loop()
        server = modelserver.ModelServer(0, access_log=False, **settings)
        server.register_model(model)
        self.application = server.create_application()
        self._server = self._loop.run_until_complete(self._make())

    async def _make(self) -> HTTPServer:
        return HTTPServer(self.application, Limits())

    def send(self, data: bytes, cuts: Iterable[int] = (), *, half_close: bool = False) -> bytes:
        """Send bytes on a connection of their own, in pieces, until all patience is over.

        Args:
            data: all of them.
            cuts: where they are cut; numbers past the end count round.
            half_close: the client then ends its side; else it leaves the connection open.

        Returns:
            What the server wrote, without what differs each time.
        """
        wire = self._loop.run_until_complete(self._send(data, cuts, half_close))
        assert not self.application.dataplane.lifecycle.in_flight
        assert self.application.body_memory.held == 0
        return _CHANGES.sub(b"", bytes(wire.written))

    async def _send(self, data: bytes, cuts: Iterable[int], half_close: bool) -> Wire:
        connection, wire = Connection(self._server), Wire()
        connection.connection_made(wire)
        at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(at):
            for _ in range(_MOST_TURNS):
                if wire.is_reading or wire.is_over:
                    break
                await asyncio.sleep(0)
            else:
                raise AssertionError("the server never reads on")
            if wire.is_over and not connection.lingers:
                break
            connection.data_received(data[start:end])
        if half_close and not wire.is_over:
            connection.eof_received()
            wire.close()
        await self._quiet(wire)
        for _ in range(_MOST_REQUESTS):
            if wire.is_over:
                break
            connection.deadline = 0.0  # time passes
            connection.expire()
            await self._quiet(wire)
        assert wire.is_over, "the connection hangs"
        connection.connection_lost(None)
        await asyncio.sleep(0)
        return wire

    async def _quiet(self, wire: Wire) -> None:
        """Let the loop turn until nothing more is written: hooks run in place, so nothing takes long."""
        while True:
            written = len(wire.written)
            for _ in range(_QUIET_TURNS):
                await asyncio.sleep(0)
            if len(wire.written) == written:
                return
