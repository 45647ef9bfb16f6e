"""What ``forward`` returned to one prediction per row, or to named arrays.

| ``forward`` returns | a prediction is |
|---|---|
| a tensor `(rows, ...)` | the row, ``predictions`` stays one array |
| a tuple or list of tensors | a list: the row of each |
| a dict of tensors | an object: the row of each, by name |
| a list of dicts or of plain values | the item, one per row |

Inside a tuple or dict, a single value (a number, a string, ``None``, a tensor without dimensions) belongs to
every row. As named arrays a tensor is the output ``predictions``, those of a tuple are ``output_0``,
``output_1`` and so on, those of a dict have its keys; ``None`` is no output.

Rules of the room: arrays are kept as arrays, the encoder writes them faster and shorter than lists; decided
by types only, never by a shape that happens to fit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modelserver import InferenceError
from pytorchserver.network import TensorInfo


def predictions(output: Any, rows: int) -> Any:
    """One prediction per row: an array or a list of that length.

    Raises:
        InferenceError: there is no prediction for each row; names the shapes.
    """
    if isinstance(output, torch.Tensor):
        return _array(output, rows, "")
    if _is_single(output):
        raise InferenceError(
            f"The model returned {type(output).__name__} for {rows} rows, "
            f"expected a tensor, tuple, list or dict"
        )
    return _per_row(output, rows, "")


def outputs_of(output: Any) -> dict[str, Any]:
    """The outputs by the names that they have of themselves, in order."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if is_tuple(output):
        return {f"output_{index}": value for index, value in enumerate(output)}
    return {"predictions": output}


def named_arrays(
    output: Any,
    rows: int,
    infos: Mapping[str, TensorInfo],
    names: Sequence[str] = (),
    wanted: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The outputs as arrays by name.

    Args:
        output: what ``forward`` returned.
        rows: of the inputs; 0: they have different numbers of rows. With one row, a tensor that has lost the
            dimension of the rows gets it back. Else a tensor stays as it is: it may have other rows than the
            inputs.
        infos: what is known of the outputs.
        names: the outputs' own, in the order in which they come; none: those of ``outputs_of``.
        wanted: only these; none: all.

    Raises:
        InferenceError: an output is no tensor, or they are not those that have names.
        KeyError: there is no output of that name.
    """
    values = outputs_of(output)
    if names:
        if len(values) != len(names) or (isinstance(output, Mapping) and set(values) != set(names)):
            raise InferenceError(
                f"The model returned {len(values)} outputs ({', '.join(values)}), and outputs in its class "
                f"names {len(names)}: {', '.join(names)}"
            )
        if not isinstance(output, Mapping):
            values = dict(zip(names, values.values(), strict=True))
    if output is not None:
        values = {name: value for name, value in values.items() if value is not None}
    return {name: _named_array(values[name], rows, name, infos.get(name)) for name in wanted or values}


def _named_array(value: Any, rows: int, name: str, info: TensorInfo | None) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        if not value.ndim:
            return np.repeat(_numpy(value.reshape(1)), rows or 1)
        array = _numpy(value)
        if rows == 1 and len(array) != 1 and (info is None or len(info.shape) == array.ndim + 1):
            return array[None]
        return array
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | bytes | bool | int | float | np.generic):
        value = [value] * (rows or 1)
    if isinstance(value, list):
        if value and all(isinstance(each, str | bytes) for each in value):
            return np.array([each.encode() if isinstance(each, str) else each for each in value], object)
        with contextlib.suppress(ValueError):  # rows of different lengths
            array = np.asarray(value)
            if array.dtype.kind in "fiub":
                return array
    raise InferenceError(
        f'The model returned {type(value).__name__} for output "{name}", expected a tensor: such an answer '
        "is for V1's :predict only"
    )


def _per_row(value: Any, rows: int, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        return [_scalar(value)] * rows if value.ndim == 0 else _array(value, rows, where)
    if isinstance(value, np.ndarray) and value.ndim:
        _check_length(value, rows, where)
        return value
    if isinstance(value, Mapping):
        columns = {str(key): _per_row(item, rows, f"{where}[{key!r}]") for key, item in value.items()}
        return [dict(zip(columns, row, strict=True)) for row in _transposed(columns.values(), rows)]
    if is_tuple(value):
        columns = {str(index): _per_row(item, rows, f"{where}[{index}]") for index, item in enumerate(value)}
        return [list(row) for row in _transposed(columns.values(), rows)]
    if isinstance(value, list):
        _check_length(value, rows, where)
        return [_plain(item) for item in value]
    if _is_single(value):
        return [value] * rows
    raise InferenceError(
        f"The model returned {type(value).__name__}{where and ' in output' + where}, "
        f"expected tensors, numbers, strings, lists or dicts"
    )


def _transposed(columns: Any, rows: int) -> Any:
    """The rows of the columns; without a column, as many empty rows."""
    return zip(*columns, strict=True) if columns else [()] * rows


def _array(tensor: torch.Tensor, rows: int, where: str) -> np.ndarray:
    if rows == 1 and tensor.shape[:1] != (1,):
        # `squeeze()` at the end of a forward takes the row's dimension away when there is one row.
        tensor = tensor.unsqueeze(0)
    _check_length(tensor, rows, where)
    return _numpy(tensor)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array that JSON can be written from, without a copy where it is on the CPU."""
    if tensor.dtype not in _WRITABLE:
        if tensor.is_complex():
            raise InferenceError(
                "The model returned complex numbers, and JSON has none: return torch.view_as_real(x)"
            )
        tensor = tensor.float()  # bfloat16 and the 8-bit floats
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not tensor.is_cpu:
        tensor = tensor.cpu()
    return np.ascontiguousarray(tensor.numpy())


_WRITABLE = frozenset(
    (
        torch.float64, torch.float32, torch.float16, torch.bool,
        torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    )
)  # fmt: skip


def _check_length(values: Any, rows: int, where: str) -> None:
    is_list = isinstance(values, list)
    if (len(values) if is_list else next(iter(values.shape), None)) != rows:
        returned = f"{len(values)} items" if is_list else f"shape {list(values.shape)}"
        raise InferenceError(
            f"The model returned {returned}{where and ' in output' + where} for {rows} rows, "
            f"expected [{rows}, ...]: one prediction per row"
        )


def _plain(value: Any) -> Any:
    """A value inside one row's prediction, with tensors as arrays."""
    if isinstance(value, torch.Tensor):
        return _scalar(value) if value.ndim == 0 else _numpy(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _scalar(tensor: torch.Tensor) -> Any:
    return _numpy(tensor.reshape(1))[0]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def is_tuple(value: Any) -> bool:
    """Whether these are several outputs; a list without a tensor holds one plain value for each row."""
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(_is_tensor, value)))


def _is_single(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | np.generic)
