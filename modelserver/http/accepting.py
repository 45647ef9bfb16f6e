"""Accepts from listening sockets that other worker processes accept from too, so that each gets its share.

Left to itself, the system wakes every worker for a connection, and one of them, mostly the same, takes all
that wait: with a few clients that keep their connections, the others have nothing to do for hours. Here a
worker takes one connection at a time, and none while another one has fewer (``load_board``). It then leaves
the sockets alone for a few moments, and takes the connection itself if nobody else does: nothing waits
longer than ``PATIENCE`` moments for a worker that is stuck.

Rules of the room: when to accept. What becomes of a connection is ``server``'s business.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence

from modelserver.load_board import Slot

_log = logging.getLogger("modelserver.server")

MOMENT_S = 0.001
PATIENCE = 50
"""Moments, not milliseconds: on a machine that stands still for a while, the others get their turn first."""

TURNS = 20
"""How often the loop may turn before the first moment: mostly another worker is just about to take it.
Without, 16 clients that connect for each request got 1,700 answers a second from two workers; so, 5,400."""

_RETRY_S = 0.1
_WARN_EVERY_S = 60.0


class Acceptor:
    """Takes this worker's share of the connections, from when it is made until it is closed.

    Args:
        loop: the event loop.
        sockets: listening, not blocking.
        slot: this worker's, on the board that all of them read.
        take: called with each accepted connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        slot: Slot,
        take: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._slot = slot
        self._take = take
        self._timer: asyncio.TimerHandle | None = None
        self._turns = TURNS
        self._patience = 0
        self._accepted_elsewhere = 0
        self._warned_at = float("-inf")
        self._listen()

    def close(self) -> None:
        """Accept no more. What waits in the sockets' backlogs is the caller's to take."""
        self._slot.close()
        self._pause()

    def _listen(self) -> None:
        self._slot.open()
        for sock in self._sockets:
            self._loop.add_reader(sock, self._on_waiting, sock)

    def _pause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)

    def _on_waiting(self, sock: socket.socket) -> None:
        """A connection waits: for this worker, or for one that has fewer."""
        slot = self._slot
        slot.is_awake()
        if not slot.lighter():
            self._accept(sock)
            return
        accepted_elsewhere = slot.accepted_elsewhere()
        if accepted_elsewhere != self._accepted_elsewhere:
            self._accepted_elsewhere = accepted_elsewhere
            self._turns = TURNS
        if self._turns:
            self._turns -= 1  # and look again in the next one
            return
        self._pause()
        self._patience = PATIENCE
        self._timer = self._loop.call_later(MOMENT_S, self._look_again)

    def _look_again(self) -> None:
        """A moment later: has another worker taken it?"""
        slot = self._slot
        slot.is_awake()
        lighter = slot.lighter()
        if lighter and slot.accepted_elsewhere() == self._accepted_elsewhere:
            self._patience -= 1
            if self._patience == 1:
                slot.mark_asleep(lighter)  # who only waits too has the last moment to take the mark off
            if self._patience:
                self._timer = self._loop.call_later(MOMENT_S, self._look_again)
                return
        self._listen()

    def _accept(self, sock: socket.socket) -> None:
        try:
            accepted, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the client has left
        except OSError as error:
            if error.errno != errno.EPROTO:  # the client has left, on some systems
                self._rest(error)
            return
        self._slot.has_accepted()
        self._take(accepted)

    def _rest(self, error: OSError) -> None:
        """The system has no room for another connection: leave them to the others, and try again soon."""
        now = self._loop.time()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            _log.warning("Connections wait: they cannot be accepted: %s", error.strerror or error)
        self._slot.close()
        self._pause()
        self._timer = self._loop.call_later(_RETRY_S, self._listen)
