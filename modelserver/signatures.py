"""What a model says of its inputs and outputs, in TensorFlow Serving's words.

Rules of the room: plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TENSORFLOW_DTYPES = {
    "BOOL": "DT_BOOL",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "FP16": "DT_HALF",
    "BF16": "DT_BFLOAT16",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}


def signature_definition(
    inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Inputs and outputs as a TensorFlow ``SignatureDef``, in the JSON form of protocol buffers.

    Args:
        inputs: ``{"name": str, "datatype": str, "shape": list[int]}`` each, -1 for any size.
        outputs: the same.
    """
    return {
        "inputs": {each["name"]: _tensor_info(each) for each in inputs},
        "outputs": {each["name"]: _tensor_info(each) for each in outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def _tensor_info(tensor: Mapping[str, Any]) -> dict[str, Any]:
    sizes = [{"size": str(size), "name": ""} for size in tensor["shape"]]
    return {
        "dtype": _TENSORFLOW_DTYPES.get(tensor["datatype"], "DT_INVALID"),
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": tensor["name"],
    }
