"""torch's dtypes, numpy's and the V2 protocol's, side by side.

Rules of the room: tables and look-ups; no tensor is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

DATATYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "FP32",  # JSON and numpy know no bfloat16: it is read and answered as float32
    torch.float32: "FP32",
    torch.float64: "FP64",
}
"""What V2 calls the inputs and outputs of a dtype. BF16 is only said where ``model.py`` says it."""

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
"""The dtypes that V2's datatypes become: those that both JSON and arrays can be read as."""

JSON_DTYPES: Mapping[torch.dtype, np.dtype[Any]] = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    # numpy's float16 is slow and it has no bfloat16: these are made by torch, from float32.
    torch.float16: np.dtype(np.float32),
    torch.bfloat16: np.dtype(np.float32),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
    torch.int16: np.dtype(np.int16),
    torch.int8: np.dtype(np.int8),
    torch.uint8: np.dtype(np.uint8),
    torch.bool: np.dtype(np.bool_),
}
"""What JSON numbers are read as, on their way to a dtype."""

ARRAY_DTYPES: Mapping[torch.dtype, np.dtype[Any]] = {**JSON_DTYPES, torch.float16: np.dtype(np.float16)}
"""The arrays that become tensors of a dtype as they are; bfloat16 is sent as float32."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """What V2 calls arrays of a dtype, for a message; numpy's word where V2 has none.

    >>> datatype_of(np.dtype("uint16"))
    'UINT16'
    """
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.kind == "b":
        return "BOOL"
    if dtype.name == "bfloat16":  # of ml_dtypes
        return "BF16"
    name = {"i": "INT", "u": "UINT", "f": "FP"}.get(dtype.kind)
    return f"{name}{8 * dtype.itemsize}" if name else str(dtype)
