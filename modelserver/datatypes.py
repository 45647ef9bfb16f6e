"""The datatypes of the Open Inference Protocol as numpy arrays: JSON values in, raw bytes in and out.

Rules of the room: values and bytes in, arrays out, and the other way round; no message, no I/O. Numbers are
not copied where their bytes lie as numpy wants them.

BF16 numbers are ``float32`` arrays, since numpy has no such dtype: every BF16 number is one of float32. BYTES
are ``object`` arrays, of ``bytes``; those that came in JSON hold ``str``, as in KServe.
Source of the names and the layout: the Open Inference Protocol and its binary tensor data extension.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from modelserver.errors import InvalidInput
from modelserver.tensors import array_from_json, json_name

_FIXED = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_BY_DTYPE = {np.dtype(code): name for name, code in _FIXED.items()}
_DTYPES = MappingProxyType(
    {
        **{name: np.dtype(code) for name, code in _FIXED.items()},
        "BF16": np.dtype("<f4"),
        "BYTES": np.dtype(object),
    }
)
DATATYPES = tuple(_DTYPES)
_MOST_EMPTY = 1 << 20
"""Rows in a tensor without elements: as nested lists they would take memory, and a request none."""
_MOST_DIMENSIONS = 32
_LENGTH = struct.Struct("<I")


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The dtype of arrays of a datatype.

    Raises:
        InvalidInput: there is no such datatype.
    """
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInput(f"Unknown datatype {datatype[:40]!r}, expected one of {', '.join(DATATYPES)}")
    return dtype


def known_datatype(text: str, name: str) -> str:
    """The datatype that a tensor's message names, in capitals.

    Args:
        text: in the message.
        name: what messages of errors call the tensor.

    Raises:
        InvalidInput: there is no such datatype.
    """
    datatype = text.upper()
    if datatype not in _DTYPES:
        try:
            numpy_dtype(datatype)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from None
    return datatype


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The datatype of arrays of a dtype: ``FP32`` for ``float32``. Text, ``bytes`` and objects are BYTES.

    Raises:
        TypeError: the protocol has none.
    """
    datatype = _BY_DTYPE.get(dtype)
    if datatype is not None:
        return datatype
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name == "bfloat16":  # of ml_dtypes
        return "BF16"
    datatype = _BY_DTYPE.get(dtype.newbyteorder("<"))
    if datatype is None:
        raise TypeError(f"there are no tensors of {dtype}")
    return datatype


def element_size(datatype: str) -> int:
    """Bytes of one element; 0 for BYTES, whose elements have any length.

    Raises:
        InvalidInput: there is no such datatype.
    """
    dtype = numpy_dtype(datatype)
    return {"BYTES": 0, "BF16": 2}.get(datatype, dtype.itemsize)


def element_count(shape: Sequence[int], name: str) -> int:
    """How many elements a tensor of this shape has.

    Raises:
        InvalidInput: no array can have that shape.
    """
    if len(shape) > _MOST_DIMENSIONS:
        raise InvalidInput(f"{name}: {len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
    if shape and min(shape) < 0:
        raise InvalidInput(f"{name}: shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if not count and math.prod(size for size in shape if size) > _MOST_EMPTY:
        raise InvalidInput(f"{name}: shape {list(shape)} has too many rows without a value")
    return count


def from_values(values: Any, datatype: str, shape: Sequence[int], name: str) -> np.ndarray:
    """The array of a tensor's JSON ``data``.

    Args:
        values: the numbers, booleans or strings in row order, flat or nested as the shape says.
        datatype: of the tensor.
        shape: of the tensor.
        name: what messages of errors call it.

    Raises:
        InvalidInput: the values are not of the datatype, or not as many as the shape says.
    """
    count = element_count(shape, name)
    if not isinstance(values, list):
        raise InvalidInput(f'{name}: "data" is {json_name(values)}, expected a list')
    if datatype == "BYTES":
        array = _texts(values, name)
    elif values:
        array = array_from_json(values, numpy_dtype(datatype), name=f'{name}: "data"')
    else:
        array = np.empty(0, numpy_dtype(datatype))
    if array.size != count or (array.ndim > 1 and array.shape != tuple(shape)):
        got = f"shape {list(array.shape)}" if array.ndim > 1 else f"{array.size} values"
        raise InvalidInput(f'{name}: "data" has {got}, and shape {list(shape)} has {count} values')
    return array.reshape(shape)


def cast(array: np.ndarray, datatype: str, name: str) -> np.ndarray:
    """An array as one of a datatype, where that changes no number but by rounding floats.

    Args:
        array: as it is, if it is one already.
        datatype: of the tensor.
        name: what messages of errors call it.

    Raises:
        InvalidInput: there is no such datatype, or the array holds what does not fit it.
    """
    dtype = numpy_dtype(datatype)
    if array.dtype == dtype or (datatype == "BF16" and array.dtype.name == "bfloat16"):
        return array
    if datatype == "BYTES":
        if array.dtype.kind not in "OSU":
            raise InvalidInput(f"{name} holds {array.dtype}, expected text or bytes as datatype is BYTES")
        return array
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"{name} holds {array.dtype}, expected numbers as datatype is {datatype}")
    return array_from_json(array, dtype, name=name)


def unpack(
    buffer: bytes | bytearray | memoryview, datatype: str, shape: Sequence[int], name: str
) -> np.ndarray:
    """The array of a tensor's raw bytes: little-endian, in row order.

    Args:
        buffer: the bytes. The array is a view of them, writable where they are, except for BF16 and BYTES.
        datatype: of the tensor.
        shape: of the tensor.
        name: what messages of errors call it.

    Raises:
        InvalidInput: the bytes are not those of such a tensor.
    """
    count = element_count(shape, name)
    if datatype == "BYTES":
        return _unpack_texts(buffer, count, name).reshape(shape)
    dtype = numpy_dtype(datatype)
    needed = count * element_size(datatype)
    if len(buffer) != needed:
        raise InvalidInput(
            f"{name}: {len(buffer)} bytes of binary data, and shape {list(shape)} of {datatype} has {needed}"
        )
    if not count:
        return np.empty(shape, dtype)
    if datatype == "BF16":
        flat = (np.frombuffer(buffer, "<u2").astype("<u4") << 16).view("<f4")
    elif datatype == "BOOL":
        flat = np.frombuffer(buffer, np.uint8)
        # A byte of 2 would be a boolean that is neither.
        flat = flat.view(np.bool_) if int(flat.max()) < 2 else flat != 0
    else:
        flat = np.frombuffer(buffer, dtype)
    return flat.reshape(shape)


def pack(array: np.ndarray, datatype: str) -> bytes | memoryview:
    """The raw bytes of an array: little-endian, in row order, each of BYTES behind its length (uint32).

    Args:
        array: its memory is used where it lies so already.
        datatype: of the tensor. An array of other numbers is cast; float32 is rounded to BF16, to even.

    Raises:
        TypeError: BYTES with something in it that is neither text nor ``bytes``.
    """
    if not array.size:
        return b""
    if datatype == "BYTES":
        parts = []
        for value in texts(array):
            parts += [_LENGTH.pack(len(value)), value]
        return b"".join(parts)
    array = _bf16(array) if datatype == "BF16" else np.asarray(array, _DTYPES[datatype])
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    """BF16 numbers, which are ``float32`` here, as what frameworks know: ``bfloat16`` of ``ml_dtypes``.

    Without that package they stay what they are; TensorFlow brings it.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ModuleNotFoundError:
        return array
    return _bf16(array).view(dtype).reshape(array.shape)


def texts(array: np.ndarray) -> list[bytes]:
    """The elements of an array of BYTES, in row order, as ``bytes``.

    Raises:
        TypeError: one is neither text nor ``bytes``.
    """
    return [_as_bytes(value) for value in array.reshape(-1).tolist()]


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"there are no tensors of {type(value).__name__}")


def _texts(values: Any, name: str) -> np.ndarray:
    """Strings in JSON, flat or nested; ``str`` objects."""
    shape: list[int] = []
    level = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    flat: list[Any] = values
    for _ in shape[1:]:
        if any(not isinstance(item, list) for item in flat):
            break
        flat = [value for item in flat for value in item]
    for value in flat:
        if not isinstance(value, str):
            raise InvalidInput(
                f'{name}: "data" holds {json_name(value)}, expected strings as datatype is BYTES'
            )
    array = np.empty(len(flat), object)
    array[:] = flat
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidInput(f'{name}: "data" has rows of different lengths') from None


def _unpack_texts(buffer: bytes | bytearray | memoryview, count: int, name: str) -> np.ndarray:
    # Each has four bytes at least: a large shape and few bytes take no memory.
    if count > len(buffer) // 4:
        raise InvalidInput(
            f"{name}: {len(buffer)} bytes of binary data do not hold {count} elements of BYTES"
        )
    view = memoryview(buffer)
    values: list[bytes] = []
    position = 0
    for _ in range(count):
        start = position + 4
        if start > len(view):
            break
        position = start + _LENGTH.unpack_from(view, position)[0]
        if position > len(view):
            break
        values.append(bytes(view[start:position]))
    if len(values) != count or position != len(view):
        raise InvalidInput(
            f"{name}: {len(view)} bytes of binary data do not hold {count} elements of BYTES: each is its "
            "length, as four bytes, and its bytes"
        )
    array = np.empty(count, object)
    array[:] = values
    return array


def _bf16(array: np.ndarray) -> np.ndarray:
    if array.dtype.name == "bfloat16":
        return np.ascontiguousarray(array).view("<u2")
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000  # rounding up would make an infinity of some
    return np.where(is_nan, (bits >> 16) | 0x40, rounded).astype("<u2")
