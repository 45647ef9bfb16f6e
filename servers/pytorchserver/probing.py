"""Finds out what a network takes, by asking its first layers and trying.

``model.py`` need not say what ``forward`` expects: the first layer usually does. ``Linear(4, 10)`` takes
four numbers, an ``Embedding`` takes integers. A guess counts once the network has answered it with one
prediction per row. Where file or class say it, what is left to find out are the outputs. That gives the
dtype that integers in JSON become, the shapes for error messages and the metadata, the request for the curl
line, and a warmed-up network.

Rules of the room: never fails a load; guesses for ``BUDGET_S`` at most, then needs a few forwards; two rows
of zeros at a time, so nothing large.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytorchserver.declared import Declared
from pytorchserver.network import ANY, Network, Shape, TensorInfo
from pytorchserver.outputs import is_tuple, outputs_of, predictions

_log = logging.getLogger("modelserver.model")

BUDGET_S = 2.0
ROWS = 2
_MOST_LAYERS = 3
_MOST_INPUTS = 4

_IMAGE_SIDES = (32, 28, 64, 224, 8, 16, 96, 128, 256, 299)
_SIDES = (8, 16, 32, 224, 64, 28, 1)
"""Tried for the sizes that an author leaves free."""
_TIMES = (1, 2)
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
    """The file or its author says so: another shape is wrong before it is tried."""
    is_tuple: bool = False
    """``forward`` returns a tuple: V1's predictions are lists then, also with one tensor in it."""
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


def probe(network: Network, floating: torch.dtype, device: torch.device, declared: Declared) -> Known:
    """Find an input that ``network`` answers.

    Args:
        network: what to ask.
        floating: the dtype of its parameters.
        device: where they are.
        declared: what the author says of it.

    Returns:
        What was found, with outputs as they were seen; ``NOTHING_KNOWN`` if no guess worked.
    """
    names = tuple(declared.outputs)
    if network.inputs:
        return _stated(network, network.inputs, names, device)
    if declared.inputs:
        return _stated(network, declared.inputs, names, device)
    deadline = time.monotonic() + BUDGET_S
    try:
        for guesses in _guesses(network, floating):
            if time.monotonic() > deadline:
                break
            guesses = {
                name: replace(guess, dtype=declared.dtypes.get(name, guess.dtype))
                for name, guess in guesses.items()
            }
            output = _try(network, {name: guess.zeros(device) for name, guess in guesses.items()})
            if output is not None:
                return _known(network, guesses, output, names, device)
    except Exception:  # layers of the user's own may be odd in any way
        _log.debug("Looking at the layers failed", exc_info=True)
    return NOTHING_KNOWN


def _stated(
    network: Network,
    inputs: Mapping[str, TensorInfo],
    names: Sequence[str],
    device: torch.device,
) -> Known:
    """File or author state the inputs; the outputs and whether it runs are still to be seen."""
    seen = _answers(network, inputs, device)
    if not seen:
        return Known(inputs, {}, {}, stated=True)
    (tensors, output), (_, other) = seen[0], seen[-1]
    is_dynamic = all(info.shape[:1] == (ANY,) for info in inputs.values())
    counts = {len(tensor) if tensor.ndim else 0 for tensor in tensors.values()}
    rows = counts.pop() if len(counts) == 1 else 0
    outputs = merged(described(output, names), described(other, names))
    if is_dynamic:
        outputs = {name: _with_open_rows(info, rows) for name, info in outputs.items()}
    example = {
        name: TensorInfo(tensor.dtype, (1 if is_dynamic else rows, *tensor.shape[1:]))
        for name, tensor in tensors.items()
    }
    if not rows or not _has_prediction_per_row(output, rows):
        example = {}
    return Known(inputs, outputs, example, stated=True, is_tuple=is_tuple(output))


def _answers(
    network: Network, inputs: Mapping[str, TensorInfo], device: torch.device
) -> list[tuple[Tensors, Any]]:
    """What the network answers to zeros: twice, with different numbers where sizes are free, which tells the
    free sizes of the outputs. With all inputs or, if it answers none of these, with those that it needs."""
    required = {name: info for name, info in inputs.items() if name in network.arguments.required}
    is_open = any(ANY in info.shape for info in inputs.values())
    until = time.monotonic() + BUDGET_S
    seen: list[tuple[Tensors, Any]] = []
    for some in [inputs, *([required] if 0 < len(required) < len(inputs) else [])]:
        for side in (_TIMES if network.sizes else _SIDES) if is_open else (1,):
            if time.monotonic() > until or len(seen) == 2:
                break
            shapes = {name: _shape(info, side, network.sizes.get(name)) for name, info in some.items()}
            tensors = {
                name: torch.zeros(shape, dtype=some[name].dtype, device=device)
                for name, shape in shapes.items()
            }
            output = _answer(network, tensors)
            if output is not None:
                seen.append((tensors, output))
        if seen:
            break
    return seen


def _shape(info: TensorInfo, side: int, made_with: Shape | None) -> Shape:
    """A choice for the free sizes: ``side``, or so many times what the file was made with."""
    if made_with is not None:
        return tuple(
            size * side if want == ANY else size for want, size in zip(info.shape, made_with, strict=True)
        )
    return tuple(size if size != ANY else side if place else ROWS for place, size in enumerate(info.shape))


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


def _answer(network: Network, tensors: Tensors) -> Any:
    """The output for these inputs, or ``None`` if the network fails on them."""
    try:
        with torch.inference_mode():
            return network.run(tensors)
    except (Exception, SystemExit):  # a guess that fails in any way is a wrong guess
        return None


def _try(network: Network, tensors: Tensors, rows: int = ROWS) -> Any:
    """The output for these inputs, or ``None`` if the network does not answer each row."""
    output = _answer(network, tensors)
    return output if _has_prediction_per_row(output, rows) else None


def _has_prediction_per_row(output: Any, rows: int) -> bool:
    try:
        predictions(output, rows)
    except Exception:  # whatever looking at an odd output ends in
        return False
    return True


def _known(
    network: Network,
    guesses: dict[str, _Guess],
    output: Any,
    names: Sequence[str],
    device: torch.device,
) -> Known:
    """Describe the guesses that worked; sizes that may be free are tried with another one."""
    larger = {
        name: guess.zeros(device, tuple(n * 2 if i in guess.free else n for i, n in enumerate(guess.row)))
        for name, guess in guesses.items()
    }
    free = any(guess.free for guess in guesses.values())
    other = _try(network, larger) if free else None
    inputs = {
        name: TensorInfo(
            guess.dtype,
            (ANY, *(ANY if other is not None and i in guess.free else n for i, n in enumerate(guess.row))),
        )
        for name, guess in guesses.items()
    }
    seen = merged(described(output, names), described(output if other is None else other, names))
    outputs = {name: _with_open_rows(info, ROWS) for name, info in seen.items()}
    example = {name: TensorInfo(guess.dtype, (1, *guess.row)) for name, guess in guesses.items()}
    known = Known(inputs, outputs, example, is_tuple=is_tuple(output))
    (name, guess), *others = guesses.items()
    if others or not _goes_into_layer(network, name, guess, device):
        return known
    if guess.dtype.is_floating_point:
        return replace(known, least_dims=1 + len(guess.row)) if max(guess.row[:1], default=1) > 1 else known
    weight = getattr(guess.layer, "weight", None)
    return replace(known, index_limit=len(weight)) if isinstance(weight, torch.Tensor) else known


def _goes_into_layer(network: Network, name: str, guess: _Guess, device: torch.device) -> bool:
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
        _answer(network, {name: tensor})
    finally:
        hook.remove()
    return seen[:1] == [True]


def described(output: Any, names: Sequence[str] = ()) -> dict[str, TensorInfo]:
    """The tensors of an output, by their names: those of ``model.py`` where they are as many."""
    values = outputs_of(output)
    if len(names) == len(values) and not isinstance(output, Mapping):
        values = dict(zip(names, values.values(), strict=True))
    return {
        name: TensorInfo(value.dtype, tuple(value.shape))
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def merged(one: Mapping[str, TensorInfo], other: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """What two calls have in common: sizes that differ are free. A tensor is left out if only one has it, or
    if they differ in more than sizes."""
    return {
        name: TensorInfo(info.dtype, tuple(map(_common, info.shape, other[name].shape)))
        for name, info in one.items()
        if name in other and (info.dtype, len(info.shape)) == (other[name].dtype, len(other[name].shape))
    }


def _common(size: int, other: int) -> int:
    return size if size == other else ANY


def _with_open_rows(info: TensorInfo, rows: int) -> TensorInfo:
    """An output with a free first size, if it has a row for each row of the input. A single value belongs to
    every row."""
    if info.shape[:1] not in ((), (rows,), (ANY,)):
        return info
    return replace(info, shape=(ANY, *info.shape[1:]))
