"""Answers that come piece by piece: how they are told from others, and who takes the steps.

A hook with ``yield`` in it, or one that returns an iterator, gives a stream. An asynchronous one is stepped
through on the event loop. A plain one may block, so each of its steps is a call on the model's own thread.

Rules of the room: iterators and where their code runs; no wire format, no tornado, no hook's signature.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from typing import Any, Protocol, cast

from modelserver.errors import InferenceError

_END = object()
_SIZE = 0
"""How long a step takes tells nothing about a request of any size."""


class StepRunner(Protocol):
    """Runs a synchronous function somewhere it may block."""

    def run_elsewhere(self, size: int, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """``function(*args)`` for a request of ``size`` bytes; calls run in the order in which they come."""


def is_stream(value: object) -> bool:
    """Whether a hook's answer comes piece by piece: an iterator, plain or asynchronous.

    >>> is_stream(row for row in [1, 2]), is_stream([1, 2]), is_stream("text")
    (True, False, False)
    """
    kind = type(value)
    return hasattr(kind, "__aiter__") or hasattr(kind, "__next__")


def is_plain(value: object) -> bool:
    """Whether a stream may block: it must not be stepped through on the event loop."""
    kind = type(value)
    return hasattr(kind, "__next__") and not hasattr(kind, "__aiter__")


def is_generator(hook: Callable[..., Any]) -> bool:
    """Whether there is a ``yield`` in a hook, ``def`` or ``async def``, decorated or not."""
    inner = inspect.unwrap(hook)
    return inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)


def is_async_generator(hook: Callable[..., Any]) -> bool:
    """Whether a hook is an ``async def`` with a ``yield`` in it, decorated or not."""
    return inspect.isasyncgenfunction(inspect.unwrap(hook))


def steps(stream: Any, runner: StepRunner) -> AsyncIterable[Any]:
    """A stream as an asynchronous one, which waits for each step and holds up nobody.

    Args:
        stream: what a hook returned.
        runner: where the steps of a plain iterator run.
    """
    return Steps(stream, runner) if is_plain(stream) else cast(AsyncIterable[Any], stream)


async def close(stream: Any) -> None:
    """End a stream that may not have come to its end: what is in its ``finally`` runs.

    Args:
        stream: an asynchronous one; anything without ``aclose`` has nothing to end.
    """
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()


class Steps(AsyncIterator[Any]):
    """A plain iterator as an asynchronous one.

    The steps are taken one by one, by any of the model's threads. One that runs cannot be stopped; the
    iterator is closed behind it, never beside it.

    Args:
        items: the iterator.
        runner: where its steps run.
    """

    def __init__(self, items: Iterator[Any], runner: StepRunner) -> None:
        self._items = items
        self._runner = runner
        self._step: asyncio.Future[Any] | None = None
        self._is_over = False
        self._is_running = False

    async def __anext__(self) -> Any:
        """The next item."""
        if self._is_over:
            raise StopAsyncIteration
        step = self._step = asyncio.ensure_future(self._runner.run_elsewhere(_SIZE, self._next))
        await asyncio.wait((step,))  # unlike `await step`, a caller that gives up does not cancel it
        try:
            item = step.result()
        except BaseException:
            self._is_over = True
            raise
        if item is _END:
            self._is_over = True
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the iterator, where its steps run, once the last one is done."""
        if self._is_over:
            return
        self._is_over = True
        if self._step is not None:
            await asyncio.wait((self._step,))
            if not self._step.cancelled():
                self._step.exception()  # else asyncio complains that nobody has looked at it
        if not self._is_running:  # else its thread hangs, and was given up
            await self._runner.run_elsewhere(_SIZE, self._close)

    def _next(self) -> Any:
        if self._is_over:  # it was closed while the step waited for its turn
            return _END
        self._is_running = True
        try:
            return next(self._items, _END)
        except (SystemExit, KeyboardInterrupt) as error:
            raise InferenceError(f"the model called {type(error).__name__}") from error
        finally:
            self._is_running = False

    def _close(self) -> None:
        close_items = getattr(self._items, "close", None)
        if close_items is not None:
            close_items()


def timed(call: Callable[..., Any], observe: Callable[[float, int], None]) -> Callable[..., Any]:
    """A generator function that tells ``observe`` how long its first item took.

    Args:
        call: the function, ``def`` or ``async def``.
        observe: takes seconds, and for how many requests.
    """

    def in_time(*args: Any) -> Any:
        started = time.perf_counter()
        items = call(*args)
        if isinstance(items, Generator):
            return _in_time(items, observe)
        if isinstance(items, AsyncGenerator):
            return _in_time_async(items, observe)
        observe(time.perf_counter() - started, 1)  # a decorator has made something else of it
        return items

    return in_time


def _in_time(items: Generator[Any, None, Any], observe: Callable[[float, int], None]) -> Iterator[Any]:
    with contextlib.closing(items):
        started = time.perf_counter()
        try:
            first = next(items, _END)
        finally:
            observe(time.perf_counter() - started, 1)
        if first is not _END:
            yield first
            yield from items


async def _in_time_async(
    items: AsyncGenerator[Any, None], observe: Callable[[float, int], None]
) -> AsyncIterator[Any]:
    async with contextlib.aclosing(items):
        started = time.perf_counter()
        try:
            first = await anext(items, _END)
        finally:
            observe(time.perf_counter() - started, 1)
        if first is not _END:
            yield first
            async for item in items:
                yield item
