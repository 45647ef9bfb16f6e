"""V2 requests to what a model's hooks get, and what they return to V2 answers, whatever the door.

    a model that ...                            gets
    takes rows of numbers (``instances_dtype``) {"instances": array}, as a V1 client's: both share a batch
    takes named arrays (``takes_tensors``)      TensorRequest
    says neither                                InferRequest, as in KServe

Rules of the room: values in, values out; no wire format, no I/O. What a model says of its inputs is checked
here, for models of the first two kinds.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from modelserver import datatypes
from modelserver.errors import InferenceError, InvalidInput
from modelserver.infer_tensors import InferInput, InferOutput
from modelserver.messages import InferRequest, InferResponse, TensorRequest, TensorResponse
from modelserver.model import Model
from modelserver.payloads import ONLY_OUTPUT
from modelserver.protocols import v1_rows, v1_tensors
from modelserver.signatures import known_inputs_and_outputs

_SIGNATURE = "signature_name"
_NOT_PLAIN = ("BYTES", "BF16", "FP16")


class _Said(NamedTuple):
    """What a model says of its inputs and outputs."""

    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    has_plain_output: bool
    """One, of numbers, with a row for each row of the input: as V1's predictions."""


def to_payload(request: InferRequest, model: Model) -> Any:
    """What the hooks of a model get of a request.

    Raises:
        InvalidInput: the inputs are not those that the model says it takes.
    """
    if not model.takes_tensors and model.instances_dtype is None:
        return request
    said = _said(model)
    signature = (request.parameters or {}).get(_SIGNATURE, "")
    if not isinstance(signature, str):
        raise InvalidInput(f'parameter "{_SIGNATURE}" is no string')
    if said.inputs and not signature:
        _check(request.inputs, said.inputs)
    if not model.takes_tensors:
        return v1_tensors.to_payload(_arrays(request), signature)
    if len(request.inputs) == 1 and said.has_plain_output and not signature and model.max_batch_size > 1:
        rows = request.inputs[0].as_numpy()
        if rows.size and v1_rows.is_read_as(rows, model.instances_dtype):
            return {"instances": rows}
    wanted = tuple(each.name for each in request.request_outputs or ())
    inputs = _arrays(request)
    for tensor in request.inputs:
        if tensor.datatype == "BF16":
            inputs[tensor.name] = datatypes.as_bfloat16(inputs[tensor.name])
    return TensorRequest(inputs, signature, wanted)


def to_response(answer: Any, request: InferRequest, model: Model, model_name: str) -> Any:
    """The V2 answer that a model's hooks have given.

    Args:
        answer: what they returned: an ``InferResponse``, a ``TensorResponse``, a dictionary as V1 or V2 has
            it, a list or an array.
        request: what they were asked.
        model: that was asked.
        model_name: in the request.

    Returns:
        An ``InferResponse``; text, ``bytes`` and other dictionaries as they are.

    Raises:
        InferenceError: the answer cannot be made of tensors.
    """
    if isinstance(answer, InferResponse):
        response = copy.copy(answer)  # the model may return the same one again
        response.id = response.id or request.id
        response.model_version = response.model_version or _version(model)
        return response
    if isinstance(answer, TensorResponse):
        arrays = answer.outputs
    elif isinstance(answer, Mapping) and _is_v2(answer):
        try:
            response = InferResponse.from_rest({"id": request.id, "model_name": model_name, **answer})
        except InvalidInput as error:
            raise InferenceError(f"the model's answer cannot be sent: {error}") from error
        response.model_version = response.model_version or _version(model)
        return response
    elif isinstance(answer, Mapping) and not ("predictions" in answer or "outputs" in answer):
        return answer
    elif isinstance(answer, Mapping | list | tuple | np.ndarray):
        said = _said(model)
        arrays = v1_tensors.from_answer(answer, tuple(said.outputs))
        if not isinstance(answer, Mapping) and v1_tensors.ONLY_OUTPUT in arrays and not said.outputs:
            arrays = {ONLY_OUTPUT: arrays[v1_tensors.ONLY_OUTPUT]}
        arrays = {name: _as_said(array, said.outputs.get(name)) for name, array in arrays.items()}
    else:
        return answer
    outputs = [_output(name, array) for name, array in arrays.items()]
    return InferResponse(request.id, model_name, outputs, _version(model))


def only_input(model: Model) -> Mapping[str, Any] | None:
    """The input that a V1 body of bytes is for (``v1_raw``): of a model that takes rows or tensors, says that
    it has one input, and does not read bodies itself, in a ``preprocess`` of its own."""
    if not model.takes_tensors and model.instances_dtype is None:
        return None
    reads_itself = getattr(model.preprocess, "__func__", None) is not Model.preprocess
    if reads_itself or type(model).__call__ is not Model.__call__:
        return None
    inputs = _said(model).inputs
    return next(iter(inputs.values())) if len(inputs) == 1 else None


def _arrays(request: InferRequest) -> dict[str, np.ndarray]:
    arrays = {tensor.name: _array(tensor) for tensor in request.inputs}
    if len(arrays) != len(request.inputs):
        counts = Counter(tensor.name for tensor in request.inputs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise InvalidInput(f'input "{twice[:80]}" is there twice')
    return arrays


def _array(tensor: InferInput) -> np.ndarray:
    """Of BYTES, ``bytes``, however they came."""
    array = tensor.as_numpy()
    if tensor.datatype != "BYTES":
        return array
    encoded = np.empty(array.size, object)
    encoded[:] = datatypes.texts(array)
    return encoded.reshape(array.shape)


def _output(name: str, array: np.ndarray) -> InferOutput:
    try:
        datatype = datatypes.datatype_of(array.dtype)
    except TypeError as error:
        raise InferenceError(f"the model's output {name} cannot be sent: {error}") from error
    return InferOutput(name, array.shape, datatype, array)


def _as_said(array: np.ndarray, said: Mapping[str, Any] | None) -> np.ndarray:
    """Numbers from lists, which numpy has made 64 bits wide, in the datatype that the model says."""
    if said is None or array.dtype.kind not in "fiu":
        return array
    try:
        dtype = datatypes.numpy_dtype(str(said["datatype"]))
    except InvalidInput:
        return array
    if dtype == array.dtype or dtype.kind not in "fiu" or (array.dtype.kind == "f" and dtype.kind != "f"):
        return array
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            return array
    return array.astype(dtype)


def _is_v2(answer: Mapping[str, Any]) -> bool:
    outputs = answer.get("outputs")
    return isinstance(outputs, list) and all(
        isinstance(each, Mapping) and {"name", "shape", "datatype"} <= each.keys() for each in outputs
    )


def _version(model: Model) -> str:
    return str(model.version or 1)


def _check(inputs: Sequence[InferInput], said: Mapping[str, Mapping[str, Any]]) -> None:
    names = [tensor.name for tensor in inputs]
    unknown = [name for name in names if name not in said]
    missing = [name for name, each in said.items() if name not in names and not each.get("optional")]
    if unknown or missing:
        wrong = f'unexpected input "{unknown[0][:80]}"' if unknown else f'input "{missing[0]}" is missing'
        raise InvalidInput(f"{wrong}; the model takes {', '.join(map(_described, said.values()))}")
    for tensor in inputs:
        expected = said[tensor.name]
        if tensor.datatype != expected["datatype"]:
            raise InvalidInput(
                f'input "{tensor.name}" has the datatype {tensor.datatype}, expected {expected["datatype"]}'
            )
        shape = expected["shape"]
        if not _fits(tensor.shape, shape):
            raise InvalidInput(f'input "{tensor.name}" has the shape {list(tensor.shape)}, expected {shape}')


def _fits(shape: Sequence[int], expected: list[int]) -> bool:
    """Whether a shape is the expected one, where -1 is any size; ``[-1]`` alone says nothing."""
    if expected == [-1]:
        return True
    return len(shape) == len(expected) and all(
        want in (-1, size) for size, want in zip(shape, expected, strict=True)
    )


def _described(said: Mapping[str, Any]) -> str:
    return f'"{said["name"]}" {said["datatype"]} {said["shape"]}'


def _said(model: Model) -> _Said:
    """What a model says; asked once for each load."""
    said: _Said | None = model.__dict__.get("_said")
    if said is None:
        inputs, outputs = (
            {str(each["name"]): {**each, "shape": [int(size) for size in each["shape"]]} for each in some}
            for some in known_inputs_and_outputs(model)
        )
        only = next(iter(outputs.values())) if len(outputs) == 1 else None
        has_plain_output = (
            only is not None and list(only["shape"])[:1] == [-1] and only["datatype"] not in _NOT_PLAIN
        )
        said = model.__dict__["_said"] = _Said(inputs, outputs, has_plain_output)
    return said
