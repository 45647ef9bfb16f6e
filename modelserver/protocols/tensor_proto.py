"""TensorFlow's ``TensorProto`` to ``numpy.ndarray``, and back.

Rules of the room: messages in, arrays out, and the other way round; what is wrong with a message is
``InvalidInput``, in words that name the tensor. No framework: DT_BFLOAT16 takes ``ml_dtypes``, which
TensorFlow brings, and is refused without.

A tensor comes as ``tensor_content``, the bytes of its elements in row order, or as a list of values, of which
the last counts for all that are not there (``tensorflow/core/framework/tensor.proto``); with no value at all,
they are zero. Numbers in ``tensor_content`` are not copied: such an array is read-only.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from modelserver.errors import InvalidInput
from modelserver.protocols.tf_messages import DATA_TYPES, TensorProto

MOST_BYTES = (1 << 31) - 1
"""Of a tensor, unless told: a message of protocol buffers can have no more, and so no tensor that is sent in
full. Without a bound twenty bytes, a large shape and one value, could fill the memory."""


_MOST_EMPTY = 1 << 20
"""Rows in a tensor without elements: as nested lists they would take memory, and a message none."""


class _Kind(NamedTuple):
    """How one DataType is sent."""

    dtype: np.dtype[Any] | str
    """Of the array; a string: the name of one of ``ml_dtypes``."""
    values: str
    """The field with the list of values."""
    parts: np.dtype[Any]
    """What the values of that field are."""


_KINDS = {
    DATA_TYPES[f"DT_{name}"]: _Kind(dtype, values, parts)
    for name, dtype, values, parts in (
        ("FLOAT", np.dtype("<f4"), "float_val", np.dtype("<f4")),
        ("DOUBLE", np.dtype("<f8"), "double_val", np.dtype("<f8")),
        ("HALF", np.dtype("<f2"), "half_val", np.dtype("<i4")),
        ("BFLOAT16", "bfloat16", "half_val", np.dtype("<i4")),
        ("INT8", np.dtype("i1"), "int_val", np.dtype("<i4")),
        ("INT16", np.dtype("<i2"), "int_val", np.dtype("<i4")),
        ("INT32", np.dtype("<i4"), "int_val", np.dtype("<i4")),
        ("INT64", np.dtype("<i8"), "int64_val", np.dtype("<i8")),
        ("UINT8", np.dtype("u1"), "int_val", np.dtype("<i4")),
        ("UINT16", np.dtype("<u2"), "int_val", np.dtype("<i4")),
        ("UINT32", np.dtype("<u4"), "uint32_val", np.dtype("<u4")),
        ("UINT64", np.dtype("<u8"), "uint64_val", np.dtype("<u8")),
        ("BOOL", np.dtype("?"), "bool_val", np.dtype("?")),
        ("COMPLEX64", np.dtype("<c8"), "scomplex_val", np.dtype("<f4")),
        ("COMPLEX128", np.dtype("<c16"), "dcomplex_val", np.dtype("<f8")),
        ("STRING", np.dtype("O"), "string_val", np.dtype("O")),
    )
}
_STRING = DATA_TYPES["DT_STRING"]
_BOOL = DATA_TYPES["DT_BOOL"]
_NAMES = {number: name for name, number in DATA_TYPES.items()}
_NUMBERS = {kind.dtype: number for number, kind in _KINDS.items() if number != _STRING}


def to_array(tensor: Any, name: str = "tensor", most_bytes: int = MOST_BYTES) -> np.ndarray:
    """The array that a ``TensorProto`` describes.

    Args:
        tensor: the message.
        name: what the messages of errors call it.
        most_bytes: of the array, where values are left out.

    Returns:
        An array of the same dtype and shape; DT_STRING as ``object``, with ``bytes`` inside.

    Raises:
        InvalidInput: the dtype cannot be sent; the shape is not known, or not that of the values.
    """
    number = tensor.dtype
    kind = _KINDS.get(number)
    if kind is None:
        known = _NAMES.get(number, str(number))
        raise InvalidInput(f"{name}: tensors of dtype {known} cannot be sent")
    dtype = _known_dtype(kind.dtype, name)
    shape = _shape(tensor.tensor_shape, name)
    count = math.prod(shape)
    content = tensor.tensor_content
    if content:
        flat = (
            _read_strings(content, count, name) if number == _STRING else _read(content, dtype, count, name)
        )
    else:
        flat = _listed(getattr(tensor, kind.values), kind, dtype, count, name, most_bytes)
    try:
        return flat.reshape(shape)
    except ValueError as error:  # more dimensions, or larger ones, than an array can have
        raise InvalidInput(f"{name}: {error}") from error


def from_array(array: Any) -> Any:
    """The ``TensorProto`` of an array: numbers as ``tensor_content``, text as ``string_val``.

    Args:
        array: or what ``numpy.asarray`` makes one of.

    Raises:
        TypeError: TensorFlow has no such dtype.
    """
    tensor = TensorProto()
    set_array(tensor, array)
    return tensor


def set_array(tensor: Any, array: Any) -> None:
    """Make an empty ``TensorProto`` that of an array, as ``from_array``."""
    array = np.asarray(array)
    sizes = tensor.tensor_shape.dim
    for size in array.shape:
        sizes.add().size = size
    if array.dtype.kind in "OSU":
        tensor.dtype = _STRING
        tensor.string_val.extend([_as_bytes(each) for each in array.ravel().tolist()])
        return
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    tensor.dtype = data_type(array.dtype)
    tensor.tensor_content = array.tobytes()


def data_type(dtype: np.dtype[Any]) -> int:
    """The number of TensorFlow's name for a dtype.

    Raises:
        TypeError: it has none.
    """
    number = _NUMBERS.get(dtype)
    if number is None and dtype.name == "bfloat16":
        return DATA_TYPES["DT_BFLOAT16"]
    if number is None:
        raise TypeError(f"TensorFlow has no tensors of {dtype}")
    return number


def _known_dtype(dtype: np.dtype[Any] | str, name: str) -> np.dtype[Any]:
    if not isinstance(dtype, str):
        return dtype
    try:
        known: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), dtype))
        return known
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{name}: DT_{dtype.upper()} takes the package ml_dtypes on the server") from error


def _shape(shape: Any, name: str) -> tuple[int, ...]:
    if shape.unknown_rank:
        raise InvalidInput(f"{name}: the shape of a tensor that is sent must be known")
    sizes = tuple([dimension.size for dimension in shape.dim])
    if sizes and min(sizes) < 0:
        raise InvalidInput(f"{name}: shape {list(sizes)} has a negative size")
    if 0 in sizes and math.prod(sizes[: sizes.index(0)]) > _MOST_EMPTY:
        raise InvalidInput(f"{name}: shape {list(sizes)} has too many rows without a value")
    return sizes


def _read(content: bytes, dtype: np.dtype[Any], count: int, name: str) -> np.ndarray:
    if len(content) != count * dtype.itemsize:
        raise InvalidInput(
            f"{name}: tensor_content has {len(content)} bytes, and {count} elements of {dtype.name} have "
            f"{count * dtype.itemsize}"
        )
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 is no numpy boolean
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, dtype)


def _read_strings(content: bytes, count: int, name: str) -> np.ndarray:
    """Strings as ``Tensor::AsProtoTensorContent`` writes them: all lengths as varints, then all bytes."""
    lengths = []
    position = 0
    try:
        for _ in range(min(count, len(content) + 1)):
            length = shift = 0
            while True:
                byte = content[position]
                position += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            lengths.append(length)
    except IndexError:
        raise InvalidInput(f"{name}: tensor_content does not hold the lengths of {count} strings") from None
    if position + sum(lengths) != len(content):
        raise InvalidInput(f"{name}: tensor_content does not hold {count} strings")
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return _objects(values)


def _listed(
    values: Sequence[Any], kind: _Kind, dtype: np.dtype[Any], count: int, name: str, most_bytes: int
) -> np.ndarray:
    per_element = 2 if dtype.kind == "c" else 1
    given, rest = divmod(len(values), per_element)
    if rest:
        raise InvalidInput(f"{name}: {kind.values} has a real part without its imaginary part")
    if given > count:
        raise InvalidInput(f"{name}: {kind.values} has {given} values, and the shape has {count} elements")
    if given < count and count * dtype.itemsize > most_bytes:
        raise InvalidInput(
            f"{name}: the shape has {count} elements and the message has {given} values; more than "
            f"{most_bytes} bytes must be sent in full"
        )
    if dtype.kind == "O":
        strings = list(values)
        strings += [strings[-1] if strings else b""] * (count - given)
        return _objects(strings)
    flat = np.array(values, kind.parts)
    if dtype != kind.parts:
        if kind.values == "half_val":
            flat = flat.astype(np.uint16).view(dtype)
        else:
            flat = flat.view(dtype) if per_element == 2 else flat.astype(dtype)
    if given == count:
        return flat
    if not given:
        return np.zeros(count, dtype)
    return np.concatenate((flat, np.broadcast_to(flat[-1:], count - given)))


def _objects(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"TensorFlow has no tensors of {type(value).__name__}")
