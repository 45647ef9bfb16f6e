"""What a model says of its inputs and outputs, asked for and in TensorFlow Serving's words.

Rules of the room: plain values. ``get_input_types`` and ``get_output_types`` may be ``async def``: KServe's
are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Types = Sequence[Mapping[str, Any]]


class Describes(Protocol):
    """A model that says what it takes and gives."""

    def get_input_types(self) -> Any:
        """``{"name": str, "datatype": str, "shape": list[int]}`` for each input, or an awaitable of that."""

    def get_output_types(self) -> Any:
        """The same of the outputs."""


async def inputs_and_outputs(model: Describes) -> tuple[Types, Types]:
    """What a model says of both.

    Raises:
        Exception: what the hooks raise.
    """
    inputs, outputs = model.get_input_types(), model.get_output_types()
    return (
        (await inputs if inspect.isawaitable(inputs) else inputs) or [],
        (await outputs if inspect.isawaitable(outputs) else outputs) or [],
    )


def known_inputs_and_outputs(model: Describes) -> tuple[Types, Types]:
    """The same where nothing can be waited for: a coroutine says nothing."""
    return _known(model.get_input_types()), _known(model.get_output_types())


def _known(types: Any) -> Types:
    if inspect.isawaitable(types):
        if inspect.iscoroutine(types):
            types.close()
        return []
    return types or []


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
