"""Whose fault is it that ``forward`` raised: the request's (400) or the model's (500)?

Rules of the room: reads torch's error texts, which have no codes; calls nothing. An error is the request's
if the input is not of a shape that the network is known to take, or if torch itself (not a ``raise`` in the
user's code) complains of a shape, a dtype or the range of an index. The words below were collected from over
fifty layers and functions of torch 2.13, each fed with thirty wrong inputs.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from modelserver import InvalidInput
from pytorchserver.network import ANY, TensorInfo

FORWARD_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, AssertionError)
"""What torch raises about its arguments."""

_DTYPE = re.compile(
    r"dtype|data ?type|scalar type|not implemented for '|floating.point|Type promoting|Long|Float"
    r"|used as ind(ices|exes) must be|long tensor|Input type"
)
_SHAPE = re.compile(
    r"shape|size|dimension|\d-?D\b|channel|matrix|vector|columns|values to unpack|subscript|divisible"
    r"|broadcast|number of (elements|data points)|Expected a value of type"
)
_VALUE = re.compile(
    r"index out of range in self|out of bounds|index_size|out of range: tried|Class values must be"
    r"|Guard failed"  # of a torch.export program: sizes that it was not exported for
)
_TORCH = Path(torch.__file__).parent


def is_about_dtype(error: BaseException) -> bool:
    """Whether the tensors may work in another dtype."""
    return _DTYPE.search(str(error)) is not None


def refusal(
    error: BaseException,
    tensors: Mapping[str, torch.Tensor],
    known: Mapping[str, TensorInfo],
    is_named: bool = False,
) -> InvalidInput | None:
    """The 400 for an error of ``forward``, or ``None`` if it is the model's own.

    Args:
        error: what ``forward`` raised.
        tensors: what it was given, by name.
        known: inputs that it is known to take.
        is_named: they came as named arrays, not as ``instances``.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    odd = misfit(tensors, known, is_named)
    if odd:
        return InvalidInput(f"{odd} ({text})")
    if _is_raised_by_user(error):
        return None
    # An input just like the one that was answered at load cannot be of a wrong shape: then the model fails.
    as_tried = known.keys() >= tensors.keys() and not any(ANY in info.shape[1:] for info in known.values())
    if _VALUE.search(text) or (not as_tried and (_SHAPE.search(text) or _DTYPE.search(text))):
        came = ", ".join(
            f"{name} has shape {list(tensor.shape)} and dtype {str(tensor.dtype).removeprefix('torch.')}"
            for name, tensor in tensors.items()
        )
        return InvalidInput(f"The model refuses the input: {text} ({came})")
    return None


def misfit(
    tensors: Mapping[str, torch.Tensor], known: Mapping[str, TensorInfo], is_named: bool = False
) -> str | None:
    """The first input that is not of the known shape, told in words: V2's for named arrays."""
    for name, tensor in tensors.items():
        info = known.get(name)
        if info is not None and not info.fits(tuple(tensor.shape)):
            if is_named:
                return f'input "{name}" has the shape {list(tensor.shape)}, expected {list(info.shape)}'
            what = '"instances" have' if len(tensors) == 1 else f'"{name}" of "instances" has'
            return f"{what} shape {list(tensor.shape)}, expected {info.text()}"
    return None


def _is_raised_by_user(error: BaseException) -> bool:
    """Whether the error comes from a ``raise`` or ``assert`` outside torch. Slow path only."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).is_relative_to(_TORCH):
        return False
    return (frames[-1].line or "").startswith(("raise", "assert"))
