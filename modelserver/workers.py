"""The supervisor: keeps N worker processes alive on the same listening sockets, and ends them together.

Rules of the room: processes, signals and exit codes; no event loop, no HTTP, no model. How a process is made
is ``launching``'s business, what it does is ``serving``'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_log = logging.getLogger("modelserver.server")

READY = b"r"
"""What a worker writes to its channel when its models are loaded."""

EXIT_LOAD_FAILED = 3
"""A worker's exit code when a model could not be loaded; the worker has logged why."""

_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.1, 30.0
_STEADY_S = 10.0  # a worker that was ready for this long starts again with the first back-off
_START_ATTEMPTS = 5  # deaths in a row, without one worker ever ready, before the supervisor gives up
_EXTRA_GRACE_S = 5.0  # a worker's own grace period ends first

Launch = Callable[[int, socket.socket, list[socket.socket], bool], int]
"""``launch(number, channel, close, others_serve)``: start worker ``number``, which must close the sockets in
``close`` (the supervisor's ends) and talk on ``channel``; returns its process id."""


@dataclass
class _Worker:
    number: int
    pid: int | None = None
    channel: socket.socket | None = None
    ready_at: float | None = None
    deaths: int = 0
    start_at: float = 0.0


class Supervisor:
    """Runs ``count`` workers until it is told to stop.

    Args:
        count: how many.
        launch: starts one.
        grace_period: seconds that workers get to finish after SIGTERM.
        on_stop: called once when stopping begins (the supervisor gives up its listening sockets).
        on_end: called with the number of a worker that has ended.
    """

    def __init__(
        self,
        count: int,
        launch: Launch,
        grace_period: float,
        on_stop: Callable[[], None],
        on_end: Callable[[int], None],
    ) -> None:
        self._workers = [_Worker(number) for number in range(count)]
        self._launch = launch
        self._grace_period = grace_period
        self._on_stop = on_stop
        self._on_end = on_end
        self._ever_ready = False
        self._stop_by: float | None = None
        self._failed = False
        self._signals = 0

    def run(self) -> int:
        """Supervise until every worker has ended.

        SIGTERM and SIGINT drain the workers; the second such signal kills them.

        Returns:
            0 after a clean stop; 1 if the workers could not start, or had to be killed.
        """
        with self._signal_pipe() as wakeup:
            while True:
                self._reap()
                self._act_on_signals()
                if self._stop_by is None:
                    self._start_due()
                elif not any(worker.pid for worker in self._workers):
                    return 1 if self._failed else 0
                elif time.monotonic() > self._stop_by:
                    self._kill_all("did not end within the grace period")
                self._wait(wakeup)

    # -- one turn

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.pid is None and time.monotonic() >= worker.start_at:
                ours, theirs = socket.socketpair()
                others = [w.channel for w in self._workers if w.channel is not None]
                worker.channel, worker.ready_at = ours, None
                try:
                    others_serve = any(w.ready_at is not None for w in self._workers if w.pid is not None)
                    worker.pid = self._launch(worker.number, theirs, [ours, *others], others_serve)
                except OSError as error:  # no process to be had just now
                    self._schedule(worker, f"could not be started: {error.strerror}")
                finally:
                    theirs.close()

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid is None:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._buried(worker, os.waitstatus_to_exitcode(status))

    def _buried(self, worker: _Worker, code: int) -> None:
        pid, worker.pid = worker.pid, None
        self._on_end(worker.number)
        self._read_channel(worker)
        if worker.channel is not None:
            worker.channel.close()
            worker.channel = None
        if self._stop_by is not None:
            # Told to stop before it could listen to signals: ended as asked.
            self._failed = self._failed or code not in (0, -signal.SIGTERM)
            return
        cause = f"(pid {pid}) died: {_describe_exit(code)}"
        if not self._ever_ready and code == EXIT_LOAD_FAILED:
            self._give_up(worker, cause)
        else:
            self._schedule(worker, cause)

    def _schedule(self, worker: _Worker, cause: str) -> None:
        """Plan the next start of a worker that has ended, later after each death in a row."""
        now = time.monotonic()
        steady = worker.ready_at is not None and now - worker.ready_at > _STEADY_S
        worker.deaths = 1 if steady else worker.deaths + 1
        if not self._ever_ready and worker.deaths >= _START_ATTEMPTS:
            self._give_up(worker, cause)
            return
        delay = min(_BACKOFF_FIRST_S * 2 ** (worker.deaths - 1), _BACKOFF_MOST_S)
        worker.start_at = now + delay
        _log.error("Worker %d %s; a new one starts in %.1f s", worker.number, cause, delay)

    def _give_up(self, worker: _Worker, cause: str) -> None:
        _log.error("Worker %d %s; no worker was ever ready, giving up", worker.number, cause)
        self._failed = True
        self._stop()

    def _read_channel(self, worker: _Worker) -> None:
        """Take the worker's word that it is ready."""
        if worker.channel is None:
            return
        try:
            said = worker.channel.recv(64, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return
        if READY in said and worker.ready_at is None:
            worker.ready_at = time.monotonic()
            self._ever_ready = True
            _log.info("Worker %d (pid %s) is ready", worker.number, worker.pid)

    # -- ending

    def _act_on_signals(self) -> None:
        if self._signals and self._stop_by is None:
            _log.info("Stopping %d workers", len(self._workers))
            self._stop()
        elif self._signals > 1:
            self._signals = 1
            self._kill_all("were told to stop twice")

    def _stop(self) -> None:
        self._stop_by = time.monotonic() + self._grace_period + _EXTRA_GRACE_S
        self._on_stop()
        self._signal_all(signal.SIGTERM)

    def _kill_all(self, why: str) -> None:
        _log.warning("Killing the workers: they %s", why)
        self._failed = True
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    # -- waiting

    @contextlib.contextmanager
    def _signal_pipe(self) -> Iterator[socket.socket]:
        """Count the stop signals, and make any signal readable on the socket that is yielded."""
        readable, writable = socket.socketpair()
        readable.setblocking(False)
        writable.setblocking(False)

        def on_stop_signal(number: int, frame: object) -> None:
            self._signals += 1

        handlers = {
            signal.SIGTERM: on_stop_signal,
            signal.SIGINT: on_stop_signal,
            # Only so that a child's end interrupts the wait; it is reaped by its own id, so that the
            # children of the user's program are left to the user's program.
            signal.SIGCHLD: lambda number, frame: None,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        wakeup_before = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
        try:
            yield readable
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            readable.close()
            writable.close()

    def _wait(self, wakeup: socket.socket) -> None:
        channels = {w.channel: w for w in self._workers if w.channel is not None and w.ready_at is None}
        readable, _, _ = select.select([wakeup, *channels], [], [], self._next_deadline())
        for channel in readable:
            if channel is wakeup:
                with contextlib.suppress(BlockingIOError):
                    while wakeup.recv(4096):
                        pass
            else:
                self._read_channel(channels[channel])

    def _next_deadline(self) -> float:
        """Seconds until something is due; a second at most, so that no missed signal can be fatal."""
        now = time.monotonic()
        due = [worker.start_at for worker in self._workers if worker.pid is None]
        if self._stop_by is not None:
            due = [self._stop_by]
        return max(0.0, min([1.0, *(moment - now for moment in due)]))


def _describe_exit(code: int) -> str:
    if code == EXIT_LOAD_FAILED:
        return "a model could not be loaded"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
