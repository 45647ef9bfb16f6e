"""Signal handlers for a while: what a process does on SIGTERM and the like, until the block ends.

Rules of the room: which signals mean what is the caller's business. Nothing is changed on another thread than
the main one, where Python allows no handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

Handlers = Mapping[signal.Signals, Callable[[], None]]


@contextlib.contextmanager
def handled(handlers: Handlers) -> Iterator[socket.socket]:
    """Call the handlers between two steps of the main thread, which runs no event loop.

    Yields:
        A socket that becomes readable with each signal, so that waiting ends: to be emptied and not closed.
    """
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    before = {number: signal.signal(number, _handler(call)) for number, call in handlers.items()}
    wakeup_before = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            if handler is not None:  # it was set by code that is not Python's
                signal.signal(number, handler)
        readable.close()
        writable.close()


@contextlib.contextmanager
def handled_on_loop(loop: asyncio.AbstractEventLoop, handlers: Handlers) -> Iterator[None]:
    """Call the handlers on the event loop, as anything else there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    for number, call in handlers.items():
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # it was set by code that is not Python's
                signal.signal(number, handler)


def _handler(call: Callable[[], None]) -> Callable[[int, object], None]:
    return lambda number, frame: call()
