"""Where a model's synchronous hooks run: on threads of its own, or in place when they have proven short.

Rules of the room: a queue, its threads and a clock; knows no wire and no hook. ``serving`` attaches one
``ModelThreads`` to each model, in the process that serves (after any fork).

Not ``concurrent.futures``: its threads are joined at interpreter exit, so a hook that never returns would
keep a stopped server alive; these are daemons. One future less per call also makes the hop cheaper.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

from modelserver.batching import Batcher, Place
from modelserver.hooks import Observe, Submit
from modelserver.metrics.counting import ModelMetrics

SHORT_S = 0.001
"""A call that takes less than this may hold up the event loop: it costs less than the hop it saves."""

SLOW_S = 0.01
"""One call on the event loop that takes this takes all off it at once. Between the two it counts in the mean:
on a busy machine, the system's own work makes one in a hundred short calls longer than a millisecond."""

_THREAD_NAME = "model-"
_PROOF_CALLS = 16
_MEAN_OF = 16
"""Calls that the mean time mostly comes from (an exponentially weighted one)."""


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    context: contextvars.Context
    function: Callable[..., Any]
    args: list[Any]
    """Emptied if nobody waits for the result any more."""
    size: int | None
    queued_at: float | None
    """Since when the request waits; ``None`` for calls that are not one request's."""


class _Thread:
    """One thread that takes calls.

    Attributes:
        job: the request's call that runs on it now; ``None`` between calls, and while a model loads.
        since: when that began.
        given_up: the call that does not return; if it ever does, the thread ends.
    """

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.since = 0.0
        self.given_up: _Job | None = None


def is_at_work() -> bool:
    """Whether a thread of some model still runs, though all were told to end: it hangs, or loads."""
    return any(thread.name.startswith(_THREAD_NAME) for thread in threading.enumerate())


class ModelThreads:
    """The threads of one model. Calls wait in order of arrival.

    Args:
        name: the model's name, for the threads' names.
        count: threads; 1 keeps the model's code serial, as KServe users expect.
        inline: let calls run in place, on the event loop, as long as they are short. Only for code whose
            time depends on nothing but the size of the request: code that may sleep or wait for a network
            would stop the loop, and health with it, the first time it does.
        metrics: of the model.
        clock: seconds, from any start.

    Attributes:
        name: the same.
        inline: the same; may be changed.
    """

    def __init__(
        self,
        name: str,
        count: int = 1,
        *,
        inline: bool = False,
        metrics: ModelMetrics | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.name = name
        self._started = 0
        self.inline = inline
        self._metrics = metrics
        self._clock = clock
        self._pending = 0
        self._mean_s = 0.0
        self._short_calls = 0
        self._largest_short = 0
        self._threads = [self._new_thread() for _ in range(count)]

    def start(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` for a request of ``size`` bytes: here if that is short, else on a thread.

        Returns:
            The result, or an ``asyncio.Future`` of it.
        """
        if self.may_run_inline(size):
            return self.run_inline(size, function, *args)
        return self._put(self._clock(), size, function, *args)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` on a thread; nothing is learned from the time it takes."""
        return await self.run_elsewhere(None, function, *args)

    def batcher(
        self, call: Callable[[list[Any]], Sequence[Any]], max_batch_size: int, max_latency_s: float = 0.0
    ) -> Submit:
        """Join what waits for the model: see ``batching``."""
        return Batcher(call, self, max_batch_size, max_latency_s, metrics=self._metrics).submit

    def observer(self, hook: str) -> Observe | None:
        """What takes the seconds of a hook's calls and how many requests each was for; none for most."""
        histogram = getattr(self._metrics, f"{hook}_seconds", None)
        return None if histogram is None else histogram.observe_each

    def may_run_inline(self, size: int) -> bool:
        """Whether a request of this size has been answered quickly often enough, and lately.

        Never beside a call on a thread: with one thread the model's code stays serial.
        """
        return (
            self.inline
            and not self._pending
            and self._short_calls >= _PROOF_CALLS
            and size <= self._largest_short
        )

    def run_inline(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call it here and now, and take the time."""
        started = self._clock()
        try:
            return function(*args)
        finally:
            self._learn(self._clock() - started, size)

    def run_elsewhere(
        self, size: int | None, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Queue it for the threads, in the caller's context variables.

        A call whose caller has cancelled the future while it waited is never made.
        """
        return self._put(None, size, function, *args)

    def _put(
        self, queued_at: float | None, size: int | None, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future = Place(loop=loop)
        future.held = held = list(args)
        self._pending += 1
        self._queue.put(_Job(loop, future, contextvars.copy_context(), function, held, size, queued_at))
        return future

    @property
    def is_idle(self) -> bool:
        """Whether no call runs or waits."""
        return not self._pending

    def give_up_hung(self, limit_s: float) -> int:
        """Give up each thread whose call for a request has run for ``limit_s``, and start another for it.

        A thread cannot be ended from outside: the call goes on, and nobody waits for it any more. What waits
        behind it goes on too.

        Returns:
            How many there were.
        """
        hung = [thread for thread in self._threads if thread.job and self._clock() - thread.since >= limit_s]
        for thread in hung:
            job = thread.job
            if job is None:
                continue  # it has just returned
            thread.given_up = job
            self._threads[self._threads.index(thread)] = self._new_thread()
            self._pending -= 1
            if not job.future.done():
                job.future.set_exception(TimeoutError(f"no result after {limit_s:g} s"))
        return len(hung)

    def close(self) -> None:
        """Let the threads end after the calls that wait."""
        for _ in self._threads:
            self._queue.put(None)

    def _new_thread(self) -> _Thread:
        thread = _Thread()
        name = f"{_THREAD_NAME}{self.name}-{self._started}"
        self._started += 1
        threading.Thread(target=self._work, args=(thread,), name=name, daemon=True).start()
        return thread

    def _learn(self, seconds: float, size: int) -> None:
        """Count one call. A slow one, or a mean that is not short, takes the calls off the loop until the
        proof is given again. A larger request than those proven is on the thread, and may be slow there."""
        if seconds >= SHORT_S and size > self._largest_short:
            return
        is_slow = seconds >= SLOW_S
        self._mean_s = 0.0 if is_slow else self._mean_s + (seconds - self._mean_s) / _MEAN_OF
        if is_slow or self._mean_s >= SHORT_S:
            self._short_calls = self._largest_short = 0
        else:
            self._short_calls += 1
            self._largest_short = max(self._largest_short, size)

    def _work(self, thread: _Thread) -> None:
        while thread.given_up is None and (job := self._queue.get()) is not None:
            result, error, seconds = None, None, None
            if not job.future.cancelled():
                started = thread.since = self._clock()
                if self._metrics is not None and job.queued_at is not None:
                    self._metrics.queue_wait_seconds.observe(started - job.queued_at)
                if job.size is not None:  # loading may take its time
                    thread.job = job
                try:
                    result = job.context.run(job.function, *job.args)
                except BaseException as caught:  # the caller decides what it means; the thread goes on
                    error = caught
                thread.job = None
                seconds = self._clock() - started
            try:
                job.loop.call_soon_threadsafe(self._deliver, job, thread, result, error, seconds)
            except RuntimeError:  # the loop has ended: nobody waits for the result any more
                return
            del job, result, error  # hold no request while waiting for the next

    def _deliver(
        self, job: _Job, thread: _Thread, result: Any, error: BaseException | None, seconds: float | None
    ) -> None:
        """Back on the loop; ``seconds`` is ``None`` for a call that was not made."""
        if job is thread.given_up:
            return
        self._pending -= 1
        if seconds is not None and job.size is not None:
            self._learn(seconds, job.size)
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
