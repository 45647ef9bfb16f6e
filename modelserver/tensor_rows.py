"""Requests of named arrays as rows: which of them may share one call, and whose outputs are whose.

What ``protocols.v1_rows`` is for V1 bodies. An array says less than ``instances`` do: its first size may be
anything, such as steps in time. So a model has to say that such requests may be joined: with
``Model.may_join``, or, for ``InferRequest``, by its ``max_batch_size``.

Rules of the room: requests in, requests out; numpy is imported when they are joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelserver.errors import PredictionCountError
from modelserver.infer_tensors import InferInput, InferOutput
from modelserver.messages import InferRequest, InferResponse, TensorRequest, TensorResponse

if TYPE_CHECKING:
    import numpy as np


def batch_key(request: TensorRequest | InferRequest) -> Hashable | None:
    """What two requests must have in common to be joined; ``None`` for one that must stay alone.

    The signature or the parameters, the outputs that are wanted, and of each input its name, its dtype and
    the shape of a row.
    """
    arrays = _inputs(request)
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        return None
    inputs = tuple(sorted((name, array.shape[1:], array.dtype.str) for name, array in arrays.items()))
    if isinstance(request, TensorRequest):
        return TensorRequest, request.signature_name, tuple(request.outputs), inputs
    if len(arrays) != len(request.inputs) or any(map(_has_parameters, request.inputs)):
        return None
    parameters = tuple(sorted((request.parameters or {}).items()))
    wanted = tuple(each.name for each in request.request_outputs or ())
    return InferRequest, parameters, wanted, inputs


def row_count(request: TensorRequest | InferRequest) -> int:
    """The rows of a request that has a ``batch_key``."""
    return len(next(iter(_inputs(request).values())))


def join(requests: Sequence[Any]) -> Any:
    """One request with the rows of all. They share a ``batch_key``, and so are of one class."""
    import numpy as np

    first, arrays = requests[0], [_inputs(request) for request in requests]
    inputs = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    if isinstance(first, TensorRequest):
        return replace(first, inputs=inputs)
    tensors = [
        InferInput(tensor.name, inputs[tensor.name].shape, tensor.datatype, inputs[tensor.name])
        for tensor in first.inputs
    ]
    return InferRequest(
        first.model_name,
        tensors,
        first.id,
        from_grpc=first.from_grpc,
        parameters=first.parameters,
        request_outputs=first.request_outputs,
        model_version=first.model_version,
    )


def split(response: Any, requests: Sequence[Any]) -> list[Any]:
    """Give each request its own rows, in order.

    Args:
        response: a ``TensorResponse``; to ``InferRequest`` anything that such a model may return and that
            has rows: an ``InferResponse``, an array, a list, a dictionary of V1's.
        requests: that were joined.

    Raises:
        ValueError: an output has not one row for each. Alone, each request may be answered all the same, and
            the batcher then tries that.
        PredictionCountError: the same, of an answer to ``InferRequest``: whose model has said that it does.
    """
    counts = [row_count(request) for request in requests]
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    rows = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    if isinstance(response, TensorResponse):
        for name, array in response.outputs.items():
            if not array.ndim or len(array) != ends[-1]:
                raise ValueError(
                    f"output {name} has the shape {array.shape} for {ends[-1]} rows of {len(counts)} joined "
                    "requests"
                )
        return [
            replace(response, outputs={name: array[own] for name, array in response.outputs.items()})
            for own in rows
        ]
    if isinstance(response, InferResponse):
        for tensor in response.outputs:
            _check_count(tensor.shape[0] if tensor.shape else 0, ends[-1], len(counts))
        arrays = [(tensor, tensor.as_numpy()) for tensor in response.outputs]
        return [
            InferResponse(
                request.id,
                response.model_name,
                [
                    InferOutput(tensor.name, array[own].shape, tensor.datatype, array[own], tensor.parameters)
                    for tensor, array in arrays
                ],
                response.model_version,
                parameters=response.parameters,
                use_binary_outputs=response.use_binary_outputs,
            )
            for own, request in zip(rows, requests, strict=True)
        ]
    predictions = response.get("predictions") if isinstance(response, Mapping) else response
    is_rows = hasattr(predictions, "__len__") and not isinstance(predictions, str | bytes | Mapping)
    _check_count(len(predictions) if is_rows else 0, ends[-1], len(counts))  # type: ignore[arg-type]
    if isinstance(response, Mapping):
        return [{**response, "predictions": predictions[own]} for own in rows]  # type: ignore[index]
    return [predictions[own] for own in rows]  # type: ignore[index]


def _check_count(got: int, expected: int, requests: int) -> None:
    if got != expected:
        raise PredictionCountError(
            f"predict returned {got} rows for {expected} rows of {requests} joined requests; a model with "
            "max_batch_size must return one for each"
        )


def _has_parameters(tensor: InferInput) -> bool:
    """Whether an input has parameters for the model; how it was sent is none."""
    return bool((tensor.parameters or {}).keys() - {"binary_data_size"})


def _inputs(request: TensorRequest | InferRequest) -> Mapping[str, np.ndarray]:
    if isinstance(request, TensorRequest):
        return request.inputs
    return {tensor.name: tensor.as_numpy() for tensor in request.inputs}
