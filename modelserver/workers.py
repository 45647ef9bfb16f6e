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
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from modelserver import signals
from modelserver.metrics.counting import Metrics

_log = logging.getLogger("modelserver.server")

READY = b"r"
"""What a worker writes to its channel when its models are loaded."""

HUNG = b"h"
"""What a worker writes when a call of a model does not return: it should be replaced."""

EXIT_LOAD_FAILED = 3
"""A worker's exit code when a model could not be loaded; the worker has logged why."""

_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.1, 30.0
_STEADY_S = 10.0  # a worker that was ready for this long starts again with the first back-off
_START_ATTEMPTS = 5  # deaths in a row, without one worker ever ready, before the supervisor gives up
_EXTRA_GRACE_S = 5.0  # a worker's own grace period ends first
_PAUSE_S = 3.0  # the supervisor itself was stopped, and so, perhaps, were the workers: a machine that slept


class Launch(Protocol):
    """Starts a worker."""

    def __call__(
        self, number: int, channel: socket.socket, close: list[socket.socket], others_serve: bool, fresh: bool
    ) -> int:
        """Start worker ``number``.

        Args:
            number: of its slot.
            channel: its end of the line to the supervisor.
            close: sockets that it must close: the supervisor's ends.
            others_serve: other workers answer while it loads.
            fresh: run the program again, with its files as they are now.

        Returns:
            The process's id.

        Raises:
            OSError: there is no process to be had just now.
        """


@dataclass(eq=False)
class _Worker:
    number: int
    pid: int | None = None
    channel: socket.socket | None = None
    ready_at: float | None = None
    deaths: int = 0
    start_at: float = 0.0
    fresh: bool = False
    replaces: _Worker | None = None
    leave_by: float | None = None
    """Told to end, for another has taken its place."""
    is_hung: bool = False
    is_killed: bool = False


class Supervisor:
    """Runs ``count`` workers until it is told to stop.

    Args:
        count: how many. They have the numbers 0 to ``count``: one is spare, for a worker that is to take
            another's place.
        launch: starts one.
        grace_period: seconds that workers get to finish after SIGTERM.
        on_stop: called once when stopping begins (the supervisor gives up its listening sockets).
        on_end: called with the number of a worker that has ended.
        silent_s: how long the event loop of the worker with this number has not turned.
        metrics: counts the workers.
        most_silent_s: a worker whose event loop has stood still for this long is killed; 0: none is.
    """

    def __init__(
        self,
        count: int,
        launch: Launch,
        grace_period: float,
        on_stop: Callable[[], None],
        on_end: Callable[[int], None],
        silent_s: Callable[[int], float] = lambda number: 0.0,
        most_silent_s: float = 0.0,
        metrics: Metrics | None = None,
    ) -> None:
        self._workers = [_Worker(number) for number in range(count)]
        self._free = [count]
        self._launch = launch
        self._grace_period = grace_period
        self._on_stop = on_stop
        self._on_end = on_end
        self._silent_s = silent_s
        self._most_silent_s = most_silent_s
        self._metrics = metrics
        self._last_turn = time.monotonic()
        self._trusted_from = 0.0
        self._to_replace: deque[tuple[_Worker, bool]] = deque()
        self._ever_ready = False
        self._stop_by: float | None = None
        self._failed = False
        self._signals = 0
        self._reload = False

    def run(self) -> int:
        """Supervise until every worker has ended.

        SIGTERM and SIGINT drain the workers; the second such signal kills them. SIGHUP replaces them one by
        one by workers that run the program again; at a terminal it means that the terminal is gone: it stops.

        Returns:
            0 after a clean stop; 1 if the workers could not start, or had to be killed.
        """
        with signals.handled(self._handlers()) as wakeup:
            while True:
                self._reap()
                self._act_on_signals()
                if self._stop_by is None:
                    self._start_due()
                    self._replace_next()
                    self._kill_silent()
                elif not any(worker.pid for worker in self._workers):
                    return 1 if self._failed else 0
                elif time.monotonic() > self._stop_by:
                    self._kill_all("did not end within the grace period")
                self._count()
                self._wait(wakeup)

    # -- one turn

    def _count(self) -> None:
        if self._metrics is not None:
            alive = [worker for worker in self._workers if worker.pid is not None]
            self._metrics.workers.set(len(alive))
            self._metrics.workers_ready.set(sum(worker.ready_at is not None for worker in alive))

    def _start_due(self) -> None:
        for worker in list(self._workers):
            if worker.pid is None and time.monotonic() >= worker.start_at:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        others = [w.channel for w in self._workers if w.channel is not None]
        worker.channel, worker.ready_at = ours, None
        worker.is_hung = worker.is_killed = False
        try:
            others_serve = any(w.ready_at is not None for w in self._workers if w.pid is not None)
            worker.pid = self._launch(worker.number, theirs, [ours, *others], others_serve, worker.fresh)
        except OSError as error:  # no process to be had just now
            self._ended(worker, f"could not be started: {error.strerror}")
        finally:
            theirs.close()

    def _reap(self) -> None:
        for worker in list(self._workers):
            if worker.pid is None:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._buried(worker, os.waitstatus_to_exitcode(status))

    def _buried(self, worker: _Worker, code: int) -> None:
        pid, worker.pid = worker.pid, None
        self._on_end(worker.number)
        self._read_channel(worker)
        if self._stop_by is not None:
            # Told to stop before it could listen to signals: ended as asked.
            self._failed = self._failed or code not in (0, -signal.SIGTERM)
            self._hang_up(worker)
            return
        cause = f"(pid {pid}) died: {_describe_exit(code)}"
        if not self._ever_ready and code == EXIT_LOAD_FAILED:
            self._hang_up(worker)
            self._give_up(worker, cause)
        else:
            self._ended(worker, cause)

    def _ended(self, worker: _Worker, cause: str) -> None:
        """See what becomes of a worker that is no more."""
        self._hang_up(worker)
        successor = next((w for w in self._workers if w.replaces is worker), None)
        if worker.leave_by is not None or successor is not None:
            if worker.leave_by is None:
                _log.error("Worker %d %s; the one that takes its place is starting", worker.number, cause)
            if successor is not None:
                successor.replaces = None
            self._retire(worker)
        elif worker.replaces is not None:
            self._to_replace.clear()
            self._retire(worker)
            _log.error("Worker %d %s; the workers before it go on", worker.number, cause)
        else:
            self._schedule(worker, cause)

    def _retire(self, worker: _Worker) -> None:
        """Another has its place, or it was to have one: its number is free."""
        self._workers.remove(worker)
        self._free.append(worker.number)

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
        if self._metrics is not None:
            self._metrics.worker_restarts.inc()

    def _give_up(self, worker: _Worker, cause: str) -> None:
        _log.error("Worker %d %s; no worker was ever ready, giving up", worker.number, cause)
        self._failed = True
        self._stop()

    def _read_channel(self, worker: _Worker) -> None:
        """Take the worker's word that it is ready, or should be replaced."""
        if worker.channel is None:
            return
        try:
            said = worker.channel.recv(64, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return
        if not said:  # it has closed its end; whether it still runs, `_reap` sees
            self._hang_up(worker)
        if READY in said and worker.ready_at is None:
            worker.ready_at = time.monotonic()
            self._ever_ready = True
            _log.info("Worker %d (pid %s) is ready", worker.number, worker.pid)
            if worker.replaces is not None:
                self._let_go(worker.replaces)
                worker.replaces = None
        if HUNG in said and not worker.is_hung:
            worker.is_hung = True
            self._to_replace.append((worker, worker.fresh))

    def _hang_up(self, worker: _Worker) -> None:
        if worker.channel is not None:
            worker.channel.close()
            worker.channel = None

    # -- replacing workers that live

    def _replace_next(self) -> None:
        """Start the next worker that takes another's place, if none is starting or leaving."""
        while self._to_replace and self._free:
            worker, fresh = self._to_replace.popleft()
            if worker in self._workers and worker.pid is not None and worker.leave_by is None:
                successor = _Worker(self._free.pop(), fresh=fresh, replaces=worker)
                self._workers.append(successor)
                if self._metrics is not None:
                    self._metrics.worker_restarts.inc()
                self._start(successor)

    def _let_go(self, worker: _Worker) -> None:
        """End a worker whose place is taken; it finishes what it has."""
        worker.leave_by = time.monotonic() + self._grace_period + _EXTRA_GRACE_S
        self._signal(worker, signal.SIGTERM)

    def _kill_silent(self) -> None:
        """Kill workers whose event loop stands still, and those that should have left."""
        now = time.monotonic()
        if now - self._last_turn > _PAUSE_S:
            self._trusted_from = now + _EXTRA_GRACE_S
        self._last_turn = now
        for worker in self._workers:
            if worker.leave_by is not None and now > worker.leave_by:
                worker.leave_by = now + _EXTRA_GRACE_S
                _log.warning("Killing worker %d: it did not end within the grace period", worker.number)
                self._signal(worker, signal.SIGKILL)
            elif self._is_stuck(worker) and now >= self._trusted_from:
                worker.is_killed = True
                _log.error(
                    "Killing worker %d (pid %d): its event loop has stood still for %.1f s",
                    worker.number,
                    worker.pid,
                    self._silent_s(worker.number),
                )
                self._signal(worker, signal.SIGKILL)

    def _is_stuck(self, worker: _Worker) -> bool:
        if worker.pid is None or worker.ready_at is None or worker.is_killed or not self._most_silent_s:
            return False
        return self._silent_s(worker.number) > self._most_silent_s

    # -- ending

    def _act_on_signals(self) -> None:
        if self._signals and self._stop_by is None:
            _log.info("Stopping %d workers", len(self._workers))
            self._stop()
        elif self._signals > 1:
            self._signals = 1
            self._kill_all("were told to stop twice")
        elif self._reload and self._stop_by is None:
            self._reload = False
            _log.info("Replacing %d workers, one by one", len(self._workers))
            self._to_replace.extend((worker, True) for worker in self._workers if worker.leave_by is None)

    def _stop(self) -> None:
        self._stop_by = time.monotonic() + self._grace_period + _EXTRA_GRACE_S
        self._on_stop()
        for worker in self._workers:
            self._signal(worker, signal.SIGTERM)

    def _kill_all(self, why: str) -> None:
        _log.warning("Killing the workers: they %s", why)
        self._failed = True
        for worker in self._workers:
            self._signal(worker, signal.SIGKILL)

    def _signal(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    # -- waiting

    def _handlers(self) -> signals.Handlers:
        def on_stop() -> None:
            self._signals += 1

        def on_hangup() -> None:
            if sys.stderr is not None and sys.stderr.isatty():
                self._signals += 1
            else:
                self._reload = True

        return {
            signal.SIGTERM: on_stop,
            signal.SIGINT: on_stop,
            signal.SIGHUP: on_hangup,
            # Only so that a child's end interrupts the wait; it is reaped by its own id, so that the
            # children of the user's program are left to the user's program.
            signal.SIGCHLD: lambda: None,
        }

    def _wait(self, wakeup: socket.socket) -> None:
        channels = {w.channel: w for w in self._workers if w.channel is not None}
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
    if code >= 0:
        return f"exit code {code}"
    memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return f"signal {-code} ({signal.strsignal(-code)}{memory})"
