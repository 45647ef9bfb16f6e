"""The bytes on their way to a client: room for more, a client that reads slowly or not at all, the end.

Rules of the room: the writing half of a connection, which knows nothing of HTTP. ``connection`` builds on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserver.http.server import HTTPServer

_RESET = struct.pack("ii", 1, 0)  # linger, for no time


class Outgoing(asyncio.Protocol):
    """The writing half of a connection.

    Attributes:
        deadline: the moment, on the loop's clock, at which patience ends.
        is_closed: nothing can be written any more.
    """

    def __init__(self, server: HTTPServer) -> None:
        self.deadline = 0.0
        self.is_closed = False
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport
        self._is_full = False  # of bytes that the client does not read
        self._unsent = 0
        self._waiters: list[asyncio.Future[None]] = []

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done when there is room for more, or nobody left to read them."""
        self._transport.write(data)
        return self._room()

    def write_all(self, pieces: Sequence[bytes | memoryview]) -> asyncio.Future[None]:
        """As ``write``, all pieces in one system call where the loop can gather them (uvloop)."""
        self._transport.writelines(pieces)
        return self._room()

    def _room(self) -> asyncio.Future[None]:
        if not self._is_full:
            return self._server.done
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)  # one for each: who waits may be cancelled
        return waiter

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        self._is_full = True
        self._unsent = self._count_unsent()
        self.deadline = self._server.now() + self._limits.write_idle_s

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._is_full = False
        self._wake_waiters()

    def close(self) -> None:
        """Close when everything written has been sent."""
        if not self.is_closed:
            self.is_closed = True
            self._unsent = self._count_unsent()
            self.deadline = self._server.now() + self._limits.write_idle_s
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.is_closed = True
        self._transport.abort()

    def reset(self) -> None:
        """Close at once, and so that the client cannot take it for the end of what was sent."""
        self._reset_at_close()
        self.abort()

    def _reset_at_close(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _expire_writing(self) -> None:
        """Time is up for a client that does not read, unless it did read some."""
        unsent, self._unsent = self._unsent, self._count_unsent()
        if self._unsent < unsent:
            self.deadline = self._server.now() + self._limits.write_idle_s
        else:
            self.abort()

    def _count_unsent(self) -> int:
        """What the client has not taken.

        The system's own buffer counts too: it holds megabytes, and lets a slow client empty a third of it
        before it takes another byte from ours.
        """
        unsent = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):  # closed; or a system without this question
                unsent += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return unsent

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
