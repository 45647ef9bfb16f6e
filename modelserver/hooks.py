"""How a model's hooks are called: adapted once to what their signatures take, then walked through in order.

Rules of the room: hooks and values; no tornado, no wire format, no thread. Where a synchronous hook runs is
decided by the ``HookRunner`` that the server attaches (``execution``).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from modelserver import streams, tensor_rows
from modelserver.errors import InferenceError, PredictionCountError
from modelserver.messages import InferRequest, TensorRequest
from modelserver.protocols import v1_rows

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Headers = Mapping[str, str]
ResponseHeaders = MutableMapping[str, str]
Hook = Callable[..., Any]
Submit = Callable[[Any, int, int, Hashable], asyncio.Future[Any]]
ALONE = float("nan")
"""The key of a request that shares a call with no other: it is equal to nothing, not even to itself."""

_TENSORS = (TensorRequest, InferRequest)
MayJoin = Callable[[Any], bool]
Observe = Callable[[float, int], None]
"""Takes the seconds of a hook's call and the number of requests it was for."""


class HookRunner(Protocol):
    """Runs a synchronous function somewhere it may block."""

    def start(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)`` for a request of ``size`` bytes, or an ``asyncio.Future`` of it."""

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``, which may take any time."""

    def run_elsewhere(self, size: int, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """As ``start``, but never on the event loop: a step of a stream."""

    def batcher(
        self, call: Callable[[list[Any]], Sequence[Any]], max_batch_size: int, max_latency_s: float
    ) -> Submit | None:
        """Return a function ``(item, rows, size, key)`` whose future is the result that ``call`` gives for
        the item, called with several items of equal keys at once; ``None`` if nobody else can be waiting."""

    def observer(self, hook: str) -> Observe | None:
        """Return what wants to know how long the calls of ``hook`` take; ``None`` if nobody does."""


class _InPlace:
    """The runner of a model that no server has taken: the caller's own thread."""

    def start(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def run_elsewhere(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def batcher(
        self, call: Callable[[list[Any]], Sequence[Any]], max_batch_size: int, max_latency_s: float
    ) -> None:
        return None

    def observer(self, hook: str) -> None:
        return None


IN_PLACE = _InPlace()


@dataclass(frozen=True, slots=True)
class Step:
    """One hook, ready to call: adapted to ``(payload, headers, response_headers)``."""

    call: Callable[..., Any]
    on_loop: bool = False
    """Must start on the event loop: ``async def``, with ``yield`` or without."""
    blocks: bool = False
    """May take its time: a user's plain ``def``. This module's own defaults never do."""
    takes_headers: bool = False
    joins: bool = False
    """Takes ``(payload, size)`` and gives a future: predict for several requests at once."""
    is_generator: bool = False
    """There is a ``yield`` in it: the call gives an iterator, at once."""

    @classmethod
    def of(cls, hook: Hook, *, is_default: bool) -> Step:
        """Adapt a hook.

        Args:
            hook: as the user wrote it.
            is_default: it is one of ``Model``'s own, which do not take their time.
        """
        on_loop = is_async(hook) or streams.is_async_generator(hook)
        call, takes_headers = _adapt(hook)
        blocks = not on_loop and not is_default
        return cls(call, on_loop, blocks, takes_headers, is_generator=streams.is_generator(hook))

    def timed(self, observe: Observe | None) -> Step:
        """This step, telling ``observe`` how long its calls take."""
        if observe is None:
            return self
        timed = streams.timed if self.is_generator else _timed_on_loop if self.on_loop else _timed
        return replace(self, call=timed(self.call, observe))

    def joined(
        self,
        runner: HookRunner,
        max_batch_size: int,
        max_latency_s: float,
        observe: Observe | None = None,
        may_join: MayJoin | None = None,
        instances_dtype: DTypeLike | None = None,
    ) -> Step:
        """This step for several requests at once, if that is possible: a plain ``def`` without headers and
        without ``yield``, since nothing says whose item an item would be."""
        if not self.blocks or self.takes_headers or self.is_generator:
            return self.timed(observe)
        call = partial(_predict_joined, self, observe, instances_dtype)
        submit = runner.batcher(call, max_batch_size, max_latency_s)
        if submit is None:
            return self.timed(observe)
        return Step(partial(_predict_in_batch, submit, may_join, instances_dtype), on_loop=True, joins=True)


class Walk:
    """One request on its way through the steps.

    Attributes:
        position: of the step that comes next.
        waits_for: what must be done before it; ``None`` at the end.
    """

    __slots__ = ("_context", "_is_hop", "_runner", "_size", "_steps", "position", "waits_for")

    def __init__(
        self,
        steps: tuple[Step, ...],
        runner: HookRunner,
        headers: Headers,
        response_headers: ResponseHeaders | None,
        size: int,
    ) -> None:
        self._steps = steps
        self._runner = runner
        self._context = (headers, {} if response_headers is None else response_headers)
        self._size = size
        self._is_hop = False  # waits for the model's thread, which took some steps
        self.position = 0
        self.waits_for: Awaitable[Any] | None = None

    def go(self, value: Any, position: int) -> Any:
        """Run steps until one must be waited for (see ``waits_for``), or all are done: the answer."""
        steps, context = self._steps, self._context
        self.waits_for = None
        while True:
            # By the result, not by the function's kind: a decorated coroutine function looks plain.
            if hasattr(value, "__await__"):
                self.waits_for, self.position, self._is_hop = value, position, False
                return None
            if position == len(steps):
                return value
            step = steps[position]
            if step.joins:
                value, position = step.call(value, self._size), position + 1
            elif not step.blocks:
                if step.on_loop and streams.is_plain(value):
                    value = streams.steps(value, self._runner)
                value, position = step.call(value, *context), position + 1
            else:
                done = self._runner.start(self._size, _run_blocking, steps, position, value, context)
                if asyncio.isfuture(done):
                    self.waits_for, self._is_hop = done, True
                    return None
                value, position = done

    async def rest(self) -> Any:
        """Wait, and go on to the end."""
        value: Any = None
        try:
            while self.waits_for is not None:
                value = await self.waits_for
                value = self.go(*value) if self._is_hop else self.go(value, self.position)
        except (SystemExit, KeyboardInterrupt) as error:
            raise InferenceError(f"the model called {type(error).__name__}") from error
        return value


class Plan(NamedTuple):
    """What the hooks of one verb ask for, worked out once."""

    steps: tuple[Step, ...]
    takes_headers: bool

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Plan:
        """The plan of these steps."""
        in_order = tuple(steps)
        return cls(in_order, any(step.takes_headers for step in in_order))


def _run_blocking(
    steps: tuple[Step, ...], position: int, value: Any, context: tuple[Headers, ResponseHeaders]
) -> tuple[Any, int]:
    """Run steps from ``position`` until one must wait on the loop; on the model's thread."""
    while position < len(steps) and not steps[position].on_loop:
        try:
            value, position = steps[position].call(value, *context), position + 1
        except (SystemExit, KeyboardInterrupt) as error:
            # Must not reach the future: asyncio ends the loop when it finds one of these in a task.
            raise InferenceError(f"the model called {type(error).__name__}") from error
        except StopIteration as error:
            # A future cannot carry it: awaiting would end the coroutine instead of raising.
            raise InferenceError(f"StopIteration : {error}") from error
        if inspect.isawaitable(value):
            break
    return value, position


def _predict_in_batch(
    submit: Submit, may_join: MayJoin | None, dtype: DTypeLike | None, payload: Any, size: int
) -> asyncio.Future[Any]:
    """The predict step of a model that takes several requests at once."""
    rows = 1
    if isinstance(payload, _TENSORS):
        is_open = isinstance(payload, InferRequest) if may_join is None else may_join(payload)
        key = tensor_rows.batch_key(payload) if is_open else None
        if key is not None:
            rows = tensor_rows.row_count(payload)
    else:
        key = v1_rows.batch_key(payload, dtype)
        if key is not None:
            rows = len(payload["instances"])
            if may_join is not None and not may_join(payload):
                key = None
    return submit(payload, rows, size, ALONE if key is None else key)


def _predict_joined(
    step: Step, observe: Observe | None, dtype: DTypeLike | None, payloads: list[Any]
) -> list[Any]:
    """Call predict once for several requests."""
    kind: Any = tensor_rows if isinstance(payloads[0], _TENSORS) else v1_rows
    if len(payloads) == 1:
        joined = payloads[0]
    else:
        joined = tensor_rows.join(payloads) if kind is tensor_rows else v1_rows.join(payloads, dtype)
    started = time.perf_counter()
    try:
        answer, _ = _run_blocking((step,), 0, joined, ({}, {}))
    finally:
        if observe is not None:
            observe(time.perf_counter() - started, len(payloads))
    if streams.is_stream(answer):
        # Also of a call for one: what works when nobody else asks must work when somebody does.
        raise PredictionCountError(
            "predict returned an iterator for a call that several requests may share: with max_batch_size, "
            "a predict that streams has `yield` in it itself"
        )
    return [answer] if len(payloads) == 1 else kind.split(answer, payloads)


def _timed(call: Callable[..., Any], observe: Observe) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args)
        finally:
            observe(time.perf_counter() - started, 1)

    return timed


def _timed_on_loop(call: Callable[..., Any], observe: Observe) -> Callable[..., Any]:
    """For a coroutine function: what counts is the time until its result is there."""

    async def timed(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return await call(*args)
        finally:
            observe(time.perf_counter() - started, 1)

    return timed


def is_async(hook: Hook) -> bool:
    """Whether a hook is an ``async def``, decorated or not."""
    return inspect.iscoroutinefunction(inspect.unwrap(hook))


_HEADER_NAMES = ("headers", "response_headers")


def _adapt(hook: Hook) -> tuple[Callable[..., Any], bool]:
    """Call ``hook`` with as many of payload, headers, response headers as its signature takes.

    Parameters after the payload are filled in order, by position; a keyword-only ``headers`` or
    ``response_headers`` is filled by name. A further parameter that has a default and another name is the
    user's own and left alone.

    Returns:
        The adapted hook, and whether it takes any headers.
    """
    try:
        parameters = list(inspect.signature(hook).parameters.values())
    except (TypeError, ValueError):  # a built-in without a signature
        return (lambda payload, headers, response_headers: hook(payload)), False
    keywords = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in _HEADER_NAMES)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        count = 2
    else:
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        count = 0
        for parameter in positional[1:3]:
            if parameter.default is not parameter.empty and parameter.name not in _HEADER_NAMES:
                break
            count += 1
    if not keywords and count == 0:
        return (lambda payload, headers, response_headers: hook(payload)), False
    if keywords:

        def call(payload: Any, headers: Headers, response_headers: ResponseHeaders) -> Any:
            by_name = {k: (headers if k == "headers" else response_headers) for k in keywords}
            return hook(payload, *(headers, response_headers)[:count], **by_name)

        return call, True
    if count == 1:
        return (lambda payload, headers, response_headers: hook(payload, headers)), True
    return hook, True
