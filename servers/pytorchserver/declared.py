"""What the class in ``model.py`` says of its inputs and outputs: ``inputs``, ``outputs``, ``input_dtype``.

    class Net(torch.nn.Module):
        inputs = [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}]
        outputs = [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]

Rules of the room: reads attributes of the class, at load; calls no network. What is wrong is refused here,
with what was expected: else a request would meet it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from modelserver import ModelLoadError
from pytorchserver.datatypes import TORCH_DTYPES
from pytorchserver.network import ANY, Arguments, TensorInfo

_KEYS = ("name", "datatype", "shape")
_FORM = '{"name": "x", "datatype": "FP32", "shape": [-1, 4]}'
_SHOWN = 80


@dataclass(frozen=True)
class Declared:
    """What ``model.py`` says; empty where it says nothing."""

    inputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    outputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    """In the order that ``forward`` returns them."""
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    """Of inputs: what ``input_dtype`` says."""


def declared(cls: type | None, arguments: Arguments) -> Declared:
    """Read what the class says.

    Args:
        cls: of the network; ``None``: there is none to ask.
        arguments: of its ``forward``.

    Raises:
        ModelLoadError: it says what no network can take or return, or what is not so.
    """
    inputs = _tensors("inputs", getattr(cls, "inputs", None))
    outputs = _tensors("outputs", getattr(cls, "outputs", None))
    dtypes = _dtypes(getattr(cls, "input_dtype", None), arguments)
    if inputs:
        unknown = [name for name in inputs if name not in arguments.names]
        if unknown and not arguments.takes_any:
            raise ModelLoadError(
                f'inputs in the model\'s class names "{unknown[0]}", which is no argument of forward. It '
                f"takes: {arguments.text() or 'none by name'}"
            )
        missing = [name for name in arguments.required if name not in inputs]
        if missing:
            raise ModelLoadError(f'inputs in the model\'s class lacks "{missing[0]}", which forward needs')
    for name, info in inputs.items():
        if dtypes.get(name, info.dtype) != info.dtype:
            raise ModelLoadError(
                f'inputs in the model\'s class says {info.datatype} for "{name}", and input_dtype says '
                f"{_shown(dtypes[name])}"
            )
    for name, info in outputs.items():
        if info.datatype == "BF16":
            raise ModelLoadError(
                f'outputs in the model\'s class says BF16 for "{name}". bfloat16 is answered as FP32: say so'
            )
    return Declared(inputs, outputs, dtypes)


def check_outputs(outputs: Mapping[str, TensorInfo], seen: Mapping[str, TensorInfo]) -> None:
    """Compare what ``outputs`` says with what ``forward`` was seen to return.

    Args:
        outputs: as the class has them.
        seen: what came, under the names that it goes by.

    Raises:
        ModelLoadError: they differ.
    """
    if list(outputs) != list(seen) and set(outputs) != set(seen):
        raise ModelLoadError(
            f"outputs in the model's class names {_listed(outputs)}, and forward returns {len(seen)} "
            f"tensors: {_listed(seen)}"
        )
    for name, info in outputs.items():
        got = seen[name]
        fits = len(got.shape) == len(info.shape) and all(
            ANY in (want, size) or want == size for want, size in zip(info.shape, got.shape, strict=True)
        )
        if got.datatype != info.datatype or not fits:
            raise ModelLoadError(
                f'outputs in the model\'s class says {info.datatype} {list(info.shape)} for "{name}", and '
                f"forward returns {got.datatype or _shown(got.dtype)} {list(got.shape)}"
            )


def _tensors(attribute: str, value: Any) -> dict[str, TensorInfo]:
    if not isinstance(value, list | tuple | dict):  # a method or a number is the author's own
        return {}
    if isinstance(value, dict) or not all(isinstance(each, Mapping) for each in value):
        raise ModelLoadError(
            f"{attribute} in the model's class is {str(value)[:_SHOWN]}. Expected a list of objects such as "
            f"{_FORM}; an attribute that means something else needs another name"
        )
    found: dict[str, TensorInfo] = {}
    for index, each in enumerate(value):
        if sorted(map(str, each)) != sorted(_KEYS) or not isinstance(each["name"], str) or not each["name"]:
            raise ModelLoadError(
                f"{attribute}[{index}] in the model's class is {str(dict(each))[:_SHOWN]}. Expected {_FORM}"
            )
        name = each["name"]
        if name in found:
            raise ModelLoadError(f'{attribute} in the model\'s class names "{name}" twice')
        found[name] = TensorInfo(*_dtype_and_shape(attribute, name, each), each["datatype"])
    return found


def _dtype_and_shape(
    attribute: str, name: str, each: Mapping[str, Any]
) -> tuple[torch.dtype, tuple[int, ...]]:
    datatype, shape = each["datatype"], each["shape"]
    dtype = TORCH_DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise ModelLoadError(
            f'{attribute} in the model\'s class has the datatype {datatype!r} for "{name}". Expected one of: '
            f"{', '.join(TORCH_DTYPES)}"
        )
    if not _is_shape(shape):
        raise ModelLoadError(
            f'{attribute} in the model\'s class has the shape {str(shape)[:_SHOWN]} for "{name}". Expected a '
            "list of sizes with the rows in front, such as [-1, 4]; -1 is any size"
        )
    return dtype, tuple(shape)


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, Sequence)
        and len(shape) > 0
        and all(type(size) is int and (size > 0 or size == ANY) for size in shape)
    )


def _dtypes(value: Any, arguments: Arguments) -> dict[str, torch.dtype]:
    """``input_dtype``: a dtype for all inputs, or a dict by name."""
    if value is None:
        return {}
    by_name = value if isinstance(value, dict) else dict.fromkeys(arguments.names or ("input",), value)
    return {str(name): _dtype(each) for name, each in by_name.items()}


def _dtype(value: Any) -> torch.dtype:
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    known = TORCH_DTYPES.values()
    if not isinstance(dtype, torch.dtype) or dtype not in known:
        raise ModelLoadError(
            f"input_dtype is {value!r} in the model's class. Expected one of: {', '.join(map(_shown, known))}"
        )
    return dtype


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "none"
