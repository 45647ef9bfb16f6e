"""What a signature takes and gives, and the table of dtypes.

Rules of the room: facts only; imports no TensorFlow. Type names are those of TensorFlow's own messages
(``float``, ``double``, ``half``), datatypes those of the open inference protocol (``FP32``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

DEFAULT_SIGNATURE = "serving_default"


class Family(Enum):
    """Which JSON values a dtype takes."""

    FLOAT = "any number"
    INTEGER = "an integer"
    BOOL = "true or false"
    STRING = 'a string or {"b64": ...}'
    NONE = "nothing: TensorFlow Serving's REST API has no JSON form for it"


@dataclass(frozen=True, slots=True)
class DType:
    """One TensorFlow dtype, as requests and answers see it."""

    name: str
    """TensorFlow's name in messages: ``float``."""
    datatype: str
    """The open inference protocol's name: ``FP32``."""
    family: Family
    numpy: np.dtype
    """What is fed; strings are arrays of objects."""
    lowest: int = 0
    """For integers: the smallest JSON integer taken. For int8, int16 and uint8 that is int32's, because
    TensorFlow Serving reads them as int32 and lets them wrap (300 -> 44)."""
    highest: int = 0


def _integer(name: str, limits: str | None = None) -> DType:
    bounds = np.iinfo(limits or name)
    return DType(name, name.upper(), Family.INTEGER, np.dtype(name), int(bounds.min), int(bounds.max))


_KNOWN = {
    dtype.name: dtype
    for dtype in (
        DType("float", "FP32", Family.FLOAT, np.dtype(np.float32)),
        DType("double", "FP64", Family.FLOAT, np.dtype(np.float64)),
        _integer("int8", limits="int32"),
        _integer("int16", limits="int32"),
        _integer("uint8", limits="int32"),
        _integer("int32"),
        _integer("int64"),
        _integer("uint32"),
        _integer("uint64"),
        DType("bool", "BOOL", Family.BOOL, np.dtype(np.bool_)),
        DType("string", "BYTES", Family.STRING, np.dtype(object)),
        DType("half", "FP16", Family.NONE, np.dtype(np.float16)),
        DType("bfloat16", "BF16", Family.NONE, np.dtype(object)),
        DType("uint16", "UINT16", Family.NONE, np.dtype(np.uint16)),
    )
}

WRITABLE = frozenset(dtype.numpy for dtype in _KNOWN.values() if dtype.family is not Family.NONE)
"""The numpy dtypes an answer may hold: the same list as for requests."""


def dtype_named(name: str) -> DType:
    """The dtype of that TensorFlow name; one that takes nothing when JSON has no form for it."""
    return _KNOWN.get(name) or DType(name, name.upper(), Family.NONE, np.dtype(object))


def tensorflow_name(dtype: np.dtype) -> str:
    """TensorFlow's name of a numpy dtype in messages."""
    if dtype.kind in "OSU":
        return "string"
    names = {"float32": "float", "float64": "double", "float16": "half"}
    names |= {"void8": "qint8", "void16": "qint16", "void32": "qint32"}
    return names.get(dtype.name, dtype.name)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature."""

    name: str
    """The key in the signature, and in requests and answers."""
    tensor_name: str
    """The tensor in the graph: ``x:0``."""
    dtype: DType
    shape: tuple[int, ...] | None
    """As exported, -1 for any size; ``None`` when not even the rank is known. Requests are not checked
    against it: TensorFlow Serving feeds ``[2]`` where a signature says ``[-1, 1]``, and so do its clients."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of the SavedModel: named inputs, named outputs, both in order of name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    method_name: str = ""
    """What it says that it is for: ``tensorflow/serving/predict``."""

    defaults: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    """What is fed to inputs that a request of named arrays leaves out. JSON requests give all inputs."""
