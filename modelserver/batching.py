"""``Batcher``: joins calls that wait into one.

    idle:  what has arrived in this turn of the event loop goes at once, as one batch
    busy:  what arrives meanwhile is the next batch, up to the largest size
    just answered, and callers come back at once: the next batch waits a moment for them (``pacing``)

So a lone caller waits for nobody, and a crowd shares calls; there is no window unless the model asks for one.
A call that fails is cut in halves and tried again, so that a bad item fails alone and its neighbours get
their answers.

Rules of the room: a queue, a size and a callable; knows no model, no wire, no thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelserver.errors import PredictionCountError
from modelserver.hooks import ALONE
from modelserver.metrics.counting import ModelMetrics
from modelserver.pacing import Pace


class BatchRunner(Protocol):
    """Calls the function of a batch: in place if that is short enough, else elsewhere."""

    def may_run_inline(self, size: int) -> bool:
        """Whether a call of this size is short enough to run on the event loop now."""

    def run_inline(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call it here."""

    def run_elsewhere(self, size: int, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Call it where it may take its time."""


class Place(asyncio.Future[Any]):
    """The future of something that waits in a queue. Cancelled, it empties the place at once: a client that
    has left must not go on costing the memory of its request until its turn comes.

    Attributes:
        held: what waits; the queue holds the same list.
    """

    __slots__ = ("held",)  # and no __init__: either costs each request 0.3 us
    held: list[Any]

    def cancel(self, msg: Any = None) -> bool:
        """Cancel, and let go of what waits."""
        self.held.clear()
        return super().cancel(msg)


@dataclass(slots=True)
class _Waiting:
    held: list[Any]
    """The item; nothing if nobody waits for it any more."""
    rows: int
    size: int
    key: Hashable
    future: asyncio.Future[Any]
    since: float


class Batcher:
    """Collects items and calls a function with several of them.

    Args:
        call: takes a list of items with equal keys and returns one result for each, in order.
        runner: decides where ``call`` runs.
        max_batch_size: most rows in one batch; an item with more is a batch of its own.
        max_latency_s: how long an item may wait for others while the model is idle.
        pace: what says whether to wait for callers that were just answered. Default: a new one.
        metrics: of the model.
    """

    def __init__(
        self,
        call: Callable[[list[Any]], Sequence[Any]],
        runner: BatchRunner,
        max_batch_size: int,
        max_latency_s: float = 0.0,
        pace: Pace | None = None,
        metrics: ModelMetrics | None = None,
    ) -> None:
        self._call = call
        self._runner = runner
        self._max_batch_size = max_batch_size
        self._max_latency_s = max_latency_s
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._queued_rows = 0
        self._is_busy = False
        self._scheduled: asyncio.Handle | None = None
        self._waits_for_more = False  # the turn that is scheduled
        self._pace = pace or Pace()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call

    def submit(self, item: Any, rows: int, size: int, key: Hashable) -> asyncio.Future[Any]:
        """Queue an item; the future gets its result, or the exception that it alone raises.

        Args:
            item: anything.
            rows: how many it counts for in ``max_batch_size``.
            size: its bytes, a measure of how long it takes.
            key: only items with equal keys share a call. ``ALONE``: none does, and so it waits for nobody.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        place = Place(loop=self._loop)
        place.held = held = [item]
        waiting = _Waiting(held, rows, size, key, place, time.perf_counter())
        self._queue.append(waiting)
        self._queued_rows += rows
        self._pace.arrived()
        if not self._is_busy and (self._scheduled is None or self._waits_for_more):
            self._schedule()
        return waiting.future

    def _schedule(self) -> None:
        """Plan the next turn: in the next turn of the loop, unless there is a reason to wait for more."""
        assert self._loop is not None
        delay = 0.0
        if self._queued_rows < self._max_batch_size:
            delay = self._pace.patience(len(self._queue))
            if self._max_latency_s and not (self._queue[0].key is ALONE or self._queue[-1].key is ALONE):
                so_far = time.perf_counter() - self._queue[0].since
                delay = max(delay, self._max_latency_s - so_far)
        if self._scheduled is None:
            self._waits_for_more = delay > 0
            self._scheduled = (
                self._loop.call_later(delay, self._turn) if delay > 0 else self._loop.call_soon(self._turn)
            )
        elif delay <= 0:  # what it waits for has come
            self._scheduled.cancel()
            self._waits_for_more = False
            self._scheduled = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run one batch; come back for the rest in the next turn, so that others get theirs."""
        self._scheduled = None
        batch = self._take()
        if not batch:
            return
        size = sum(waiting.size for waiting in batch)
        if self._runner.may_run_inline(size):
            self._run_inline(batch, size)
            self._go_on()
        else:
            self._is_busy = True
            task = asyncio.get_running_loop().create_task(self._run_elsewhere(batch, size))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _go_on(self) -> None:
        if self._queue and self._scheduled is None:
            self._schedule()

    def _take(self) -> list[_Waiting]:
        """The first that waits and all that go with it, in order; who has left is left out."""
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.future.done():
                self._queued_rows -= waiting.rows
                continue
            if batch and waiting.key != batch[0].key:
                passed.append(waiting)
            elif batch and rows + waiting.rows > self._max_batch_size:
                self._queue.appendleft(waiting)
                break
            else:
                batch.append(waiting)
                rows += waiting.rows
        self._queue.extendleft(reversed(passed))
        self._queued_rows -= rows
        if batch and self._metrics is not None:
            self._metrics.batch_size.observe(rows)
            moments = [waiting.since for waiting in batch]
            self._metrics.queue_wait_seconds.observe_since(time.perf_counter(), moments)
        return batch

    def _run_inline(self, batch: list[_Waiting], size: int) -> None:
        try:
            results = self._runner.run_inline(size, self._call, _items(batch))
        except BaseException as error:  # left alone, it would end this turn and nobody would be answered
            for half in _halves_or_fail(batch, error):
                self._run_inline(half, size)
        else:
            _answer(batch, results)

    async def _run_elsewhere(self, batch: list[_Waiting], size: int) -> None:
        started = time.perf_counter()
        try:
            await self._try_elsewhere(batch, size)
        finally:
            self._is_busy = False
            seconds, rows = time.perf_counter() - started, sum(waiting.rows for waiting in batch)
            self._pace.answered(len(batch), rows, seconds, len(self._queue))
            self._go_on()

    async def _try_elsewhere(self, batch: list[_Waiting], size: int) -> None:
        # Some may have left since; after a call that took too long, all of them.
        batch = [waiting for waiting in batch if not waiting.future.done()]
        if not batch:
            return
        try:
            results = await self._runner.run_elsewhere(size, self._call, _items(batch))
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the loop ends
                raise
            for half in _halves_or_fail(batch, error):
                await self._try_elsewhere(half, size)
        else:
            _answer(batch, results)


def _items(batch: list[_Waiting]) -> list[Any]:
    return [waiting.held[0] for waiting in batch]


def _halves_or_fail(batch: list[_Waiting], error: BaseException) -> tuple[list[_Waiting], ...]:
    """What to try next: two smaller batches; or nothing, if the item is alone and the error its own.

    A function that does not keep items apart fails for all of them: cutting would only hide it.
    """
    if len(batch) == 1 or isinstance(error, PredictionCountError):
        for waiting in batch:
            _fail(waiting, error)
        return ()
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def _answer(batch: list[_Waiting], results: Sequence[Any]) -> None:
    """Each its own result. A call that gave another number of them has failed for all: none is guessed at."""
    if len(results) != len(batch):
        error = PredictionCountError(f"a call with {len(batch)} items gave {len(results)} results")
        for waiting in batch:
            _fail(waiting, error)
        return
    for waiting, result in zip(batch, results, strict=True):
        if not waiting.future.done():
            waiting.future.set_result(result)


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
