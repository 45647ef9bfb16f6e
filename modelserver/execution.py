"""Runs a model's synchronous hooks off the event loop, on threads that belong to the model.

Rules of the room: a queue and its threads; knows no wire and no hook. ``serving`` attaches one
``ModelThreads`` to each model, in the process that serves (after any fork).

Not ``concurrent.futures``: its threads are joined at interpreter exit, so a hook that never returns would
keep a stopped server alive; these are daemons. One future less per call also makes the hop cheaper.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    context: contextvars.Context
    function: Callable[..., Any]
    args: tuple[Any, ...]


class ModelThreads:
    """The threads of one model. Calls wait in order of arrival.

    Args:
        name: the model's name, for the threads' names.
        count: threads; 1 keeps the model's code serial, as KServe users expect.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._work, name=f"model-{name}-{number}", daemon=True).start()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` on one of the threads, in the caller's context variables.

        A call whose caller was cancelled while it waited is never made.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Job(loop, future, contextvars.copy_context(), function, args))
        return await future

    def close(self) -> None:
        """Let the threads end after the calls that wait."""
        for _ in range(self._count):
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.future.cancelled():
                continue
            result, error = None, None
            try:
                result = job.context.run(job.function, *job.args)
            except BaseException as caught:  # the caller decides what it means; the thread goes on
                error = caught
            try:
                job.loop.call_soon_threadsafe(_deliver, job.future, result, error)
            except RuntimeError:  # the loop has ended: nobody waits for the result any more
                return
            del job, result, error  # hold no request while waiting for the next


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
