"""Accepts connections, keeps their deadlines, and ends them.

Rules of the room: sockets and time. It serves any tornado ``HTTPServerConnectionDelegate``, such as a
``tornado.web.Application``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence

from tornado import httputil

from modelserver.http.connection import Connection
from modelserver.http.limits import Limits

_log = logging.getLogger("modelserver.server")

_BACKLOG = 1024


class HTTPServer:
    """An HTTP/1.1 server in the running event loop.

    Args:
        application: called for each request.
        limits: of what a client may ask.

    Attributes:
        connections: those that are open.
        is_draining: every answer closes its connection.
        done: a future that is done, for writes that wait for nothing.
    """

    def __init__(self, application: httputil.HTTPServerConnectionDelegate, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.connections: set[Connection] = set()
        self.is_draining = False
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.done.set_result(None)
        self._servers: list[asyncio.Server] = []
        self._sockets: Sequence[socket.socket] = ()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is owed or still on its way to a client."""
        return any(connection.is_busy for connection in self.connections)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on listening sockets."""
        self._sockets = sockets
        for sock in sockets:
            self._servers.append(
                await self._loop.create_server(lambda: Connection(self), sock=sock, backlog=_BACKLOG)
            )
        self._sweep()

    async def stop_accepting(self) -> None:
        """Close the sockets, but first take every connection that the system has accepted on them.

        A connection that waits in the backlog of a socket is reset when the socket is closed. The loop gives
        up its copy (uvloop does so a turn later), ours is emptied and closed at once.
        """
        own = [sock.dup() for sock in self._sockets if sock.fileno() >= 0]
        self._sockets = ()
        for server in self._servers:
            server.close()
        self._servers.clear()
        await asyncio.sleep(0)
        waiting = []
        for sock in own:
            with contextlib.suppress(OSError):  # no more of them
                while True:
                    waiting.append(sock.accept()[0])
            sock.close()
        for accepted in waiting:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(lambda: Connection(self), accepted)

    def close(self) -> None:
        """Close every connection at once."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()

    def closed(self, connection: Connection) -> None:
        """A connection has ended; tornado's applications want to know."""
        try:
            self.application.on_close(connection)
        except Exception:
            _log.exception("on_close of the application failed")

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        now = self.now()
        for connection in [each for each in self.connections if each.deadline < now]:
            connection.expire()
