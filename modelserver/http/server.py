"""Accepts connections, keeps their deadlines, and ends them.

Rules of the room: sockets and time. It serves any tornado ``HTTPServerConnectionDelegate``, such as a
``tornado.web.Application``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Collection, Sequence

from tornado import httputil

from modelserver.http.accepting import Acceptor
from modelserver.http.connection import Connection
from modelserver.http.descriptors import Descriptors, raise_limit
from modelserver.http.head import KnownHeads
from modelserver.http.limits import Limits
from modelserver.http.surplus import SurplusConnection
from modelserver.http.tls import Certificate, TLSConnection
from modelserver.load_board import LoadBoard, Slot
from modelserver.metrics.counting import Metrics

_log = logging.getLogger("modelserver.server")

_BACKLOG = 1024
_IDLE_S = 1.0
_WARN_EVERY_S = 60.0
_FULL = 1 << 31  # the load of a worker that has no room: the others should rather take a connection


class HTTPServer:
    """An HTTP/1.1 server in the running event loop.

    Args:
        application: called for each request.
        limits: of what a client may ask.
        slot: of a worker that shares its listening sockets with others.
        certificate: for HTTPS; without, the server speaks plain HTTP.

    Attributes:
        connections: those that are open.
        surplus: of them, those for which there was no room.
        vital_targets: of requests that are answered on those too, as the application says.
        known_heads: heads that came before.
        is_draining: every answer closes its connection.
        done: a future that is done, for writes that wait for nothing.
    """

    def __init__(
        self,
        application: httputil.HTTPServerConnectionDelegate,
        limits: Limits,
        slot: Slot | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.application = application
        # Not in tornado's interface: see `rest.routes.Application.answer_whole`.
        self.answer_whole = getattr(application, "answer_whole", None)
        self.vital_targets: Collection[bytes] = getattr(application, "vital_targets", ())
        self._metrics: Metrics | None = getattr(application, "metrics", None)
        self.limits = limits
        self.connections: set[Connection] = set()
        self.surplus: set[Connection] = set()
        self.known_heads = KnownHeads()
        self.is_draining = False
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.done.set_result(None)
        self._slot = slot
        self._certificate = certificate
        self._acceptor: Acceptor | None = None
        self._servers: list[asyncio.Server] = []
        self._sockets: Sequence[socket.socket] = ()
        self._joining: set[asyncio.Task[None]] = set()  # accepted, not among the connections yet
        self._open = 0  # those that were taken by `_join`
        self._idle = 0  # of them, when they were last counted
        self._descriptors = Descriptors(raise_limit())
        self._is_full = False  # when that was last looked at
        self._warned_at = float("-inf")
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is owed or still on its way to a client."""
        return any(connection.is_busy for connection in self.connections)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on listening sockets."""
        self._sockets = sockets
        # asyncio's own server, out of descriptors, logs a traceback for each place in the backlog, every
        # second; uvloop's closes the connections that it cannot take.
        if self._slot is None and not isinstance(self._loop, asyncio.SelectorEventLoop):
            for sock in sockets:
                self._servers.append(
                    await self._loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
                )
        else:
            for sock in sockets:
                sock.setblocking(False)
                sock.listen(_BACKLOG)
            slot = self._slot or LoadBoard(1).slot(0)
            self._acceptor = Acceptor(self._loop, sockets, slot, self._join)
        self._sweep()

    async def stop_accepting(self) -> None:
        """Close the sockets, but first take every connection that the system has accepted on them.

        A connection that waits in the backlog of a socket is reset when the socket is closed. The loop gives
        up its copy (uvloop does so a turn later), ours is emptied and closed at once.
        """
        own = [sock.dup() for sock in self._sockets if sock.fileno() >= 0]
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
            for sock in self._sockets:
                sock.close()
        self._sockets = ()
        for server in self._servers:
            server.close()
        self._servers.clear()
        await asyncio.sleep(0)
        for sock in own:
            with contextlib.suppress(OSError):  # no more of them
                while True:
                    self._join(sock.accept()[0])
            sock.close()
        while self._joining:
            await asyncio.wait(self._joining)

    def close(self) -> None:
        """Close every connection at once."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self.connections.add(connection)
        self._show_connections()

    def refused(self, status: int) -> None:
        """Bytes that could not become a request, or a connection that has no room, got this status."""
        if self._metrics is not None:
            self._metrics.refused(status)

    def closed(self, connection: Connection) -> None:
        """A connection has ended; tornado's applications want to know."""
        self.connections.discard(connection)
        self._show_connections()
        self._count(-1)
        if self._is_full and self._slot is not None:
            self._loop.call_soon(self._look_again)  # its descriptor is closed by then
        try:
            self.application.on_close(connection)
        except Exception:
            _log.exception("on_close of the application failed")

    def join_surplus(self, connection: Connection) -> bool:
        """Note a connection for which there was no room.

        Returns:
            Whether it may stay for its request. Half of the reserve is for such connections; the other half
            is left to the models, which open files.
        """
        now = self.now()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            _log.warning(
                "New connections are answered 503: %d are open (--max_connections %d), and the process may "
                "have %d open files (ulimit -n)",
                len(self.connections),
                self.limits.max_connections,
                self._descriptors.limit,
            )
        if len(self.surplus) >= self._descriptors.reserve // 2:
            return False
        self.surplus.add(connection)
        return True

    def _look_for_room(self) -> int:
        """How many connections can stay, one that has just been accepted among them."""
        room = self._descriptors.left()
        if self.limits.max_connections:
            room = min(room, self.limits.max_connections - len(self.connections) + len(self.surplus))
        self._is_full = room <= 1
        return room

    def _look_again(self) -> None:
        """A worker that was full: is there room now? The others are told."""
        if self._is_full:
            self._look_for_room()
        self._count(0)

    def _connection(self) -> asyncio.Protocol:
        """For a client that has just been accepted."""
        connection = Connection(self) if self._look_for_room() > 0 else SurplusConnection(self)
        if self._certificate is None:
            return connection
        return TLSConnection(self, self._certificate, connection)

    def _join(self, accepted: socket.socket) -> None:
        """Make a connection of an accepted socket."""
        task = self._loop.create_task(self._connect(accepted, self._connection()))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        self._count(1)

    async def _connect(self, accepted: socket.socket, connection: asyncio.Protocol) -> None:
        try:
            accepted.setblocking(False)
            # asyncio does so for its own servers, but not for every socket that it is given.
            if accepted.family in (socket.AF_INET, socket.AF_INET6):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:  # the client has left
            accepted.close()
            self._count(-1)

    def _show_connections(self) -> None:
        if self._metrics is not None:
            self._metrics.connections.set(len(self.connections))

    def _count(self, change: int) -> None:
        """Tell the other workers how many connections are open here."""
        if self._slot is not None:
            self._open += change
            self._slot.set_connections(_FULL if self._is_full else max(0, self._open - self._idle))

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        if self._certificate is not None:
            self._certificate.refresh()
        now = self.now()
        for connection in [each for each in self.connections if each.deadline < now]:
            connection.expire()
        if self._slot is not None:  # a connection that nobody uses is no load
            self._idle = sum(connection.idle_s(now) > _IDLE_S for connection in self.connections)
            self._look_again()
