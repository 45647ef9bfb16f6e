"""``Batcher``: joins calls that wait into one, without ever waiting for more.

    idle:  what has arrived in this turn of the event loop goes at once, as one batch
    busy:  what arrives meanwhile is the next batch, up to the largest size

So a lone caller waits for nobody, and a crowd shares calls: no timer, no window. A call that fails is cut in
halves and tried again, so that a bad item fails alone and its neighbours get their answers.

Rules of the room: a queue, a size and a callable; knows no model, no wire, no thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelserver.errors import PredictionCountError


class BatchRunner(Protocol):
    """Calls the function of a batch: in place if that is short enough, else elsewhere."""

    def may_run_inline(self, size: int) -> bool:
        """Whether a call of this size is short enough to run on the event loop now."""

    def run_inline(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call it here."""

    def run_elsewhere(self, size: int, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Call it where it may take its time."""


@dataclass(slots=True)
class _Waiting:
    item: Any
    rows: int
    size: int
    key: Hashable
    future: asyncio.Future[Any]


class Batcher:
    """Collects items and calls a function with several of them.

    Args:
        call: takes a list of items with equal keys and returns one result for each, in order.
        runner: decides where ``call`` runs.
        max_batch_size: most rows in one batch; an item with more is a batch of its own.
    """

    def __init__(
        self, call: Callable[[list[Any]], Sequence[Any]], runner: BatchRunner, max_batch_size: int
    ) -> None:
        self._call = call
        self._runner = runner
        self._max_batch_size = max_batch_size
        self._queue: deque[_Waiting] = deque()
        self._is_busy = False
        self._is_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call

    def submit(self, item: Any, rows: int, size: int, key: Hashable) -> asyncio.Future[Any]:
        """Queue an item; the future gets its result, or the exception that it alone raises.

        Args:
            item: anything.
            rows: how many it counts for in ``max_batch_size``.
            size: its bytes, a measure of how long it takes.
            key: only items with equal keys share a call.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        waiting = _Waiting(item, rows, size, key, self._loop.create_future())
        self._queue.append(waiting)
        if not self._is_busy and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)
        return waiting.future

    def _turn(self) -> None:
        """Run one batch; come back for the rest in the next turn, so that others get theirs."""
        self._is_scheduled = False
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
        if self._queue and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _take(self) -> list[_Waiting]:
        """The first that waits and all that go with it, in order; who has left is left out."""
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.future.done():
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
        return batch

    def _run_inline(self, batch: list[_Waiting], size: int) -> None:
        try:
            results = self._runner.run_inline(size, self._call, [waiting.item for waiting in batch])
        except BaseException as error:  # left alone, it would end this turn and nobody would be answered
            for half in _halves_or_fail(batch, error):
                self._run_inline(half, size)
        else:
            _answer(batch, results)

    async def _run_elsewhere(self, batch: list[_Waiting], size: int) -> None:
        try:
            await self._try_elsewhere(batch, size)
        finally:
            self._is_busy = False
            self._go_on()

    async def _try_elsewhere(self, batch: list[_Waiting], size: int) -> None:
        try:
            results = await self._runner.run_elsewhere(size, self._call, [waiting.item for waiting in batch])
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the loop ends
                raise
            for half in _halves_or_fail(batch, error):
                await self._try_elsewhere(half, size)
        else:
            _answer(batch, results)


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
