"""A short network as a frozen TorchScript program, where that gives the same numbers in less time.

A forward of a 4-10-10-3 network took 29 us of CPU in eager mode and 13 us as a frozen script (torch 2.13):
the rest is Python between small operators. So a short network is scripted at load. Scripting compiles the
source and keeps its control flow, unlike tracing. The script is used only if it answers several inputs bit
for bit as the network does, and is faster by a tenth; else, and whenever a call of it fails, the network
itself answers, so an error is always the network's own.

Rules of the room: never fails a load, and changes nothing but the time.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from pytorchserver.network import Network

_log = logging.getLogger("modelserver.model")

_MOST_LAYERS = 100
"""Modules in the network: scripting takes about 2 ms for each."""
_MOST_BYTES = 4 * 1024 * 1024
"""Of weights. They become constants of the program, and torch (2.13) keeps each program for good: a network
with a large table, short as its forward may be, would stay in memory at every load of a new version."""
_ROWS = (1, 2, 3, 7, 64)
_TIMED = 30
_GAIN = 0.9

Call = Callable[..., Any]
Tensors = dict[str, torch.Tensor]


def frozen(network: Network, example: Tensors, index_limit: int = 0) -> Network:
    """The network with a faster ``call``, or the network as it is.

    Args:
        network: in eval mode, on the CPU, with torch set to the number of threads that it will have.
        example: one row for each argument of ``forward``, by name; the network answers it.
        index_limit: integers in the input are below this. 0: only zeros are known to work.
    """
    module = network.module
    if module is None or module.training or sum(1 for _ in module.modules()) > _MOST_LAYERS:
        return network
    if sum(each.nbytes for each in itertools.chain(module.parameters(), module.buffers())) > _MOST_BYTES:
        return network
    try:
        with torch.inference_mode():
            script, call = _scripted(module)
            if not _same(network.call, call, example, index_limit):
                return network
            eager_s, frozen_s = _fastest(network.call, call, example)
    except Exception:  # what cannot be scripted, in any of the ways that scripting fails
        _log.debug("%s stays as it is", network.description, exc_info=True)
        return network
    _log.debug("%s: %.0f us, frozen %.0f us", network.description, eager_s * 1e6, frozen_s * 1e6)
    if frozen_s > eager_s * _GAIN:
        return network
    return replace(network, call=_with_fallback(call, network.call, script))


def _scripted(module: torch.nn.Module) -> tuple[Any, Call]:
    """A program of the network, and the ``forward`` of its frozen form. The program must live as long.

    To freeze is to copy a program, to inline its functions and to drop the copy; when an operator fails,
    torch (2.13) asks those functions for their names, which are in freed memory by then, and may crash. What
    is inlined before belongs to the program itself.
    """
    with warnings.catch_warnings():
        # torch 2.13 advises authors to export; here nobody has to keep the program.
        warnings.simplefilter("ignore")
        script = torch.jit.script(module)
        torch._C._jit_pass_inline(script.graph)
        call: Call = torch.jit.freeze(script).forward
    return script, call


def _with_fallback(call: Call, eager: Call, script: Any) -> Call:
    """Call the frozen form, or the network where that fails; keeps the program."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception:  # noqa: S110 - a listing of the script; the network's own error says what is wrong
            pass
        return eager(*args, **kwargs)

    forward.script = script  # type: ignore[attr-defined]
    return forward


def _inputs(example: Tensors, index_limit: int) -> Iterator[Tensors]:
    """Several numbers of rows, each with random values."""
    generator = torch.Generator().manual_seed(0)

    def random(tensor: torch.Tensor, rows: int) -> torch.Tensor:
        shape = (rows, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator).to(tensor.dtype) * 3
        return torch.randint(max(index_limit, 1), shape, generator=generator).to(tensor.dtype)

    yield example
    for rows in _ROWS * 2:
        yield {name: random(tensor, rows) for name, tensor in example.items()}


def _same(eager: Call, call: Call, example: Tensors, index_limit: int) -> bool:
    return all(
        _equal(called(eager, inputs), called(call, inputs)) for inputs in _inputs(example, index_limit)
    )


def called(call: Call, inputs: Tensors) -> Any:
    """As a request calls it: one input by place, several by name. On copies: it may write into them."""
    copies = {name: tensor.clone() for name, tensor in inputs.items()}
    return call(*copies.values()) if len(copies) == 1 else call(**copies)


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN is NaN here
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(_equal, one.values(), other.values()))
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _fastest(eager: Call, call: Call, example: Tensors) -> tuple[float, float]:
    """The shortest time of each, in seconds, taken in turns."""
    times: dict[Call, list[float]] = {eager: [], call: []}
    for _ in range(_TIMED):
        for each in (eager, call):
            started = time.perf_counter()
            called(each, example)
            times[each].append(time.perf_counter() - started)
    return min(times[eager]), min(times[call])
