"""One way to read a payload and to answer it, whether it came by V1 or V2: KServe's two helpers.

Rules of the room: values in, values out. pandas is imported where a table is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelserver import datatypes
from modelserver.errors import InvalidInput
from modelserver.infer_tensors import InferOutput
from modelserver.messages import InferRequest, InferResponse, generate_uuid

ONLY_OUTPUT = "output-0"
"""The name of the output of a model that has no name for it, as in KServe."""
_TABLE = "pd"
"""What the request parameter ``content_type`` says where a table is meant."""


def get_predict_input(payload: Any, columns: Sequence[str] | None = None) -> Any:
    """What a model computes with.

    Args:
        payload: a V1 body, a dictionary with ``instances`` or ``inputs``, or an ``InferRequest``.
        columns: of a table, for V1 rows that are objects.

    Returns:
        An array; a list of ``str`` for text; a ``pandas.DataFrame`` for V1 rows that are objects, and for a
        V2 request whose parameter ``content_type`` is ``"pd"``. Of V2's inputs the first, but for a table.

    Raises:
        InvalidInput: it is neither, or has no input.
    """
    if isinstance(payload, InferRequest):
        return _of_request(payload)
    if not isinstance(payload, Mapping):
        raise InvalidInput(f"Expected a V1 body or an InferRequest, got {type(payload).__name__}")
    rows = payload.get("inputs", payload.get("instances"))
    if not (isinstance(rows, list) or hasattr(rows, "dtype")):
        raise InvalidInput('Expected "instances" to be a list')
    first = rows[0] if len(rows) else None
    if isinstance(first, str):
        return rows
    if isinstance(first, Mapping) or (isinstance(first, list) and first and isinstance(first[0], Mapping)):
        import pandas

        tables = [pandas.DataFrame(row if isinstance(row, list) else [row], columns=columns) for row in rows]
        return pandas.concat(tables, axis=0, ignore_index=True)
    return np.asarray(rows)


def get_predict_response(payload: Any, result: Any, model_name: str) -> Any:
    """The answer to a payload, in its protocol.

    Args:
        payload: as for ``get_predict_input``.
        result: an array, a list, or a ``pandas.DataFrame``, whose columns become V2 outputs.
        model_name: of the model.

    Returns:
        ``{"predictions": ...}`` for a V1 body, an ``InferResponse`` for an ``InferRequest``.

    Raises:
        InvalidInput: the payload is neither.
        TypeError: V2 has no datatype for the result.
    """
    is_table = hasattr(result, "to_dict") and hasattr(result, "columns")
    if isinstance(payload, InferRequest):
        columns = {str(name): result[name].to_numpy() for name in result.columns} if is_table else {}
        arrays = columns if is_table else {ONLY_OUTPUT: np.asarray(result)}
        outputs = [
            InferOutput(name, array.shape, datatypes.datatype_of(array.dtype), array)
            for name, array in arrays.items()
        ]
        return InferResponse(payload.id or generate_uuid(), model_name, outputs)
    if not isinstance(payload, Mapping):
        raise InvalidInput(f"Expected a V1 body or an InferRequest, got {type(payload).__name__}")
    return {"predictions": result.to_dict("records") if is_table else result}


def _of_request(request: InferRequest) -> Any:
    if (request.parameters or {}).get("content_type") == _TABLE:
        return request.as_dataframe()
    if not request.inputs:
        raise InvalidInput("The request has no inputs.")
    tensor = request.inputs[0]
    return tensor.data if isinstance(tensor.data, list) and tensor.datatype == "BYTES" else tensor.as_numpy()
