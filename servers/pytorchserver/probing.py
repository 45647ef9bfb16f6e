"""Finds out what a network takes, by asking its first layers and trying.

``model.py`` does not say what ``forward`` expects, but the first layer usually does: ``Linear(4, 10)`` takes
four numbers, an ``Embedding`` takes integers. A guess counts once the network has answered it with one
prediction per row. That gives the dtype that integers in JSON become, the shapes for error messages and the
metadata, the request for the curl line, and a warmed-up network.

Rules of the room: never fails a load; guesses for ``BUDGET_S`` at most, then needs a few forwards; two rows
of zeros at a time, so nothing large.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytorchserver.network import ANY, Network, Shape, TensorInfo
from pytorchserver.outputs import predictions

_log = logging.getLogger("modelserver.model")

BUDGET_S = 2.0
ROWS = 2
_MOST_LAYERS = 3
_MOST_INPUTS = 4

_IMAGE_SIDES = (32, 28, 64, 224, 8, 16, 96, 128, 256, 299)
_LENGTHS = (8, 16, 10, 32, 64, 128, 20, 50, 100, 4, 1)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Known:
    """What is known of a network after it has answered."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    example: Mapping[str, TensorInfo]
    """One row that works: the inputs with every size given."""
    stated: bool = False
    """The file says so itself: another shape is wrong before it is tried."""
    least_dims: int = 0
    """An input of fewer dimensions is no batch: a row was sent where rows belong. 0: not known."""
    index_limit: int = 0
    """The input holds indices below this one. 0: not known."""


NOTHING_KNOWN = Known({}, {}, {})


@dataclass(frozen=True)
class _Guess:
    """One input: the sizes of a row, and which of these may be free."""

    dtype: torch.dtype
    row: Shape
    free: frozenset[int] = frozenset()
    layer: torch.nn.Module | None = None

    def zeros(self, device: torch.device, row: Shape | None = None) -> torch.Tensor:
        return torch.zeros((ROWS, *(self.row if row is None else row)), dtype=self.dtype, device=device)


def probe(
    network: Network, floating: torch.dtype, device: torch.device, declared: Mapping[str, torch.dtype]
) -> Known:
    """Find an input that ``network`` answers.

    Args:
        network: what to ask.
        floating: the dtype of its parameters.
        device: where they are.
        declared: dtypes that the user has set, by input.

    Returns:
        What was found; ``NOTHING_KNOWN`` if no guess worked.
    """
    if network.inputs:
        return _stated(network, device)
    deadline = time.monotonic() + BUDGET_S
    try:
        for guesses in _guesses(network, floating):
            if time.monotonic() > deadline:
                break
            guesses = {
                name: replace(guess, dtype=declared.get(name, guess.dtype)) for name, guess in guesses.items()
            }
            output = _try(network.call, {name: guess.zeros(device) for name, guess in guesses.items()})
            if output is not None:
                return _known(network, guesses, output, device)
    except Exception:  # layers of the user's own may be odd in any way
        _log.debug("Looking at the layers failed", exc_info=True)
    return NOTHING_KNOWN


def _stated(network: Network, device: torch.device) -> Known:
    """The file states the inputs; the outputs and whether it runs are still to be seen."""
    inputs = network.inputs
    sizes = {
        name: network.sizes.get(name) or tuple(ROWS if size == ANY else size for size in info.shape)
        for name, info in inputs.items()
    }
    tensors = {name: torch.zeros(sizes[name], dtype=inputs[name].dtype, device=device) for name in inputs}
    rows = next((shape[0] for shape in sizes.values() if shape), 0)
    output = _try(network.call, tensors, rows)
    if output is None:
        return Known(inputs, {}, {}, stated=True)
    dynamic = all(info.shape[:1] == (ANY,) for info in inputs.values())
    outputs = {
        name: TensorInfo(info.dtype, (ANY if dynamic else rows, *info.shape[1:]))
        for name, info in _described(output).items()
    }
    example = {
        name: TensorInfo(info.dtype, (1 if dynamic else rows, *sizes[name][1:]))
        for name, info in inputs.items()
    }
    return Known(inputs, outputs, example, stated=True)


def _guesses(network: Network, floating: torch.dtype) -> Iterator[dict[str, _Guess]]:
    """Inputs to try, most likely first."""
    names = network.arguments.required or network.arguments.names[:1] or ("input",)
    layers = list(itertools.islice(_telling_layers(network.module, floating), _MOST_LAYERS + _MOST_INPUTS))
    if not layers or len(names) > _MOST_INPUTS:
        return
    if len(names) == 1:
        for guesses in layers[:_MOST_LAYERS]:
            yield from ({names[0]: guess} for guess in guesses)
        return
    first = [guesses[0] for guesses in layers]
    if len(first) >= len(names):  # forward(a, b) with a layer for each, in this order
        yield dict(zip(names, first, strict=False))
    yield dict.fromkeys(names, first[0])


def _telling_layers(module: torch.nn.Module | None, floating: torch.dtype) -> Iterator[Sequence[_Guess]]:
    for layer in module.modules() if module is not None else ():
        guesses = _guesses_for(layer, floating)
        if guesses:
            yield guesses


def _guesses_for(layer: torch.nn.Module, floating: torch.dtype) -> Sequence[_Guess]:
    """What a layer takes, by its class and the shape of its weight: a scripted layer has no more to tell."""
    kinds = {cls.__name__ for cls in type(layer).__mro__} | {getattr(layer, "original_name", "")}
    weight = getattr(layer, "weight", None)
    weight_shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
    if kinds & {"Embedding", "EmbeddingBag"}:
        rows: list[Shape] = [(length,) for length in _LENGTHS] + [()]
        return [_Guess(torch.int64, row, frozenset(range(len(row))), layer) for row in rows]
    if "Linear" in kinds and len(weight_shape) == 2:
        return [_Guess(floating, (weight_shape[1],), layer=layer)]
    for dims in (1, 2, 3):
        if f"Conv{dims}d" in kinds and len(weight_shape) == 2 + dims:
            channels = weight_shape[1] * int(getattr(layer, "groups", 1))
            return _grids(channels, dims, floating, layer)
        if f"BatchNorm{dims}d" in kinds and weight_shape:
            grids = _grids(weight_shape[0], dims, floating, layer)
            return [_Guess(floating, weight_shape, layer=layer), *grids] if dims == 1 else grids
    if kinds & {"LSTM", "GRU", "RNN"}:
        size = getattr(layer, "input_size", None)
        return [_Guess(floating, (8, int(size)), frozenset((0,)), layer)] if size else []
    if "MultiheadAttention" in kinds:
        size = getattr(layer, "embed_dim", None)
        return [_Guess(floating, (8, int(size)), frozenset((0,)), layer)] if size else []
    if "LayerNorm" in kinds and weight_shape:
        return [_Guess(floating, weight_shape, layer=layer)]
    return []


def _grids(channels: int, dims: int, floating: torch.dtype, layer: torch.nn.Module) -> list[_Guess]:
    sides = _LENGTHS if dims == 1 else _IMAGE_SIDES
    free = frozenset(range(1, dims + 1))
    return [_Guess(floating, (channels, *[side] * dims), free, layer) for side in sides]


def _try(call: Callable[..., Any], tensors: Tensors, rows: int = ROWS) -> Any:
    """The output for these inputs, or ``None`` if the network does not answer each row."""
    try:
        with torch.inference_mode():
            output = call(next(iter(tensors.values()))) if len(tensors) == 1 else call(**tensors)
        predictions(output, rows)
    except (Exception, SystemExit):  # a guess that fails in any way is a wrong guess
        return None
    return output


def _known(network: Network, guesses: dict[str, _Guess], output: Any, device: torch.device) -> Known:
    """Describe the guesses that worked; sizes that may be free are tried with another one."""
    larger = {
        name: guess.zeros(device, tuple(n * 2 if i in guess.free else n for i, n in enumerate(guess.row)))
        for name, guess in guesses.items()
    }
    free = any(guess.free for guess in guesses.values())
    other = _try(network.call, larger) if free else None
    inputs = {
        name: TensorInfo(
            guess.dtype,
            (ANY, *(ANY if other is not None and i in guess.free else n for i, n in enumerate(guess.row))),
        )
        for name, guess in guesses.items()
    }
    first, second = _described(output), _described(output if other is None else other)
    outputs = {
        name: TensorInfo(
            info.dtype,
            (
                ANY,
                *(
                    n if (n,) == second[name].shape[i : i + 1] else ANY
                    for i, n in enumerate(info.shape[1:], 1)
                ),
            ),
        )
        for name, info in first.items()
        if name in second
    }
    example = {name: TensorInfo(guess.dtype, (1, *guess.row)) for name, guess in guesses.items()}
    known = Known(inputs, outputs, example)
    guess, *others = guesses.values()
    if others or not _goes_into_layer(network, guess, device):
        return known
    if guess.dtype.is_floating_point:
        return replace(known, least_dims=1 + len(guess.row)) if max(guess.row[:1], default=1) > 1 else known
    weight = getattr(guess.layer, "weight", None)
    return replace(known, index_limit=len(weight)) if isinstance(weight, torch.Tensor) else known


def _goes_into_layer(network: Network, guess: _Guess, device: torch.device) -> bool:
    """Whether the layer that the guess was made from gets the input as it came.

    A network that reshapes its input first may well take flat rows. One that does not would answer one row of
    four numbers, sent without its outer list, as if they were four rows.
    """
    if guess.layer is None or isinstance(guess.layer, torch.jit.ScriptModule):  # runs no hooks
        return False
    tensor = guess.zeros(device)
    seen: list[bool] = []
    hook = guess.layer.register_forward_pre_hook(
        lambda _, args: seen.append(any(arg is tensor for arg in args))
    )
    try:
        _try(network.call, {"": tensor})
    finally:
        hook.remove()
    return seen[:1] == [True]


def _described(output: Any) -> dict[str, TensorInfo]:
    """The tensors of an output, by name."""
    if isinstance(output, torch.Tensor):
        return {"predictions": TensorInfo(output.dtype, tuple(output.shape))}
    if isinstance(output, Mapping):
        items = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        items = [(f"output_{index}", value) for index, value in enumerate(output)]
    else:
        items = []
    return {
        name: TensorInfo(value.dtype, tuple(value.shape))
        for name, value in items
        if isinstance(value, torch.Tensor)
    }
