"""Named arrays to a V1 body and back: how a request of tensors is asked of a model that knows V1 only.

Rules of the room: arrays and values; no wire format, no model. What a model gets is what it would get from a
JSON client, except that one input stays one array.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelserver.errors import InferenceError, InvalidInput

ONLY_OUTPUT = "predictions"
"""The name of the output of a model that has no name for it."""


def to_payload(inputs: Mapping[str, np.ndarray], signature_name: str = "") -> dict[str, Any]:
    """The V1 body of a request: ``{"instances": ...}``.

    Args:
        inputs: arrays with one row for each instance. One of numbers stays an array, whatever its name;
            strings become lists, and several inputs one dictionary for each instance.
        signature_name: is there too if it is not empty.

    Raises:
        InvalidInput: no input, one without rows, or inputs with different numbers of rows.
    """
    if not inputs:
        raise InvalidInput("The request has no inputs.")
    for name, array in inputs.items():
        if not array.ndim:
            raise InvalidInput(f"input {name}: a single value, expected one row for each instance")
    if len(inputs) == 1:
        [array] = inputs.values()
        payload: dict[str, Any] = {"instances": _values(array) if array.dtype.kind == "O" else array}
    else:
        counts = {name: len(array) for name, array in inputs.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InvalidInput(f"The inputs have different numbers of rows: {told}")
        columns = [_values(array) for array in inputs.values()]
        payload = {
            "instances": [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)],
        }
    if signature_name:
        payload["signature_name"] = signature_name
    return payload


def from_answer(answer: Any, names: Sequence[str] = (), wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays in a V1 answer: ``{"predictions": rows}``, ``{"outputs": columns}``, or the rows alone.

    Args:
        answer: what the model's hooks have returned.
        names: of the model's outputs, where it says.
        wanted: the outputs that were asked for; none named: all.

    Returns:
        Arrays by name. Rows that are dictionaries with equal keys give one array for each key; any others
        give one, under the model's only name or ``ONLY_OUTPUT``.

    Raises:
        InferenceError: the answer has no arrays.
        InvalidInput: there is no such output.
    """
    value = answer
    if isinstance(answer, Mapping):
        value = answer.get("predictions", answer.get("outputs"))
    if value is None or isinstance(value, str | bytes):
        raise InferenceError(
            f"the model's answer has no predictions to be sent as tensors: it is {type(answer).__name__}"
        )
    if isinstance(value, Mapping):
        columns = {str(name): _array(column, name) for name, column in value.items()}
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        columns = _columns(value)
    else:
        name = names[0] if len(names) == 1 else ONLY_OUTPUT
        columns = {name: _array(value, name)}
    for name in wanted:
        if name not in columns:
            raise InvalidInput(f"There is no output {name}. The model answers with: {', '.join(columns)}")
    return {name: columns[name] for name in wanted} if wanted else columns


def _values(array: np.ndarray) -> list[Any]:
    """Nested lists, with strings as a JSON client sends them."""
    if array.dtype.kind == "O":
        texts = np.empty(array.shape, object)
        texts.ravel()[:] = [_text(value) for value in array.ravel()]
        array = texts
    values: list[Any] = array.tolist()
    return values


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    keys = rows[0].keys()
    if any(not isinstance(row, Mapping) or row.keys() != keys for row in rows):
        raise InferenceError("the model's predictions have different keys, and so are no tensors")
    return {str(key): _array([row[key] for row in rows], key) for key in keys}


def _array(value: Any, name: object) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InferenceError(f"the model's output {name} is no tensor: {error}") from error
    if array.dtype.kind in "SU" and not isinstance(value, np.ndarray):
        array = np.asarray(value, object)  # of a fixed width, text would lose zeros at its end
    if array.dtype.kind == "O" and not all(isinstance(each, str | bytes) for each in array.flat):
        raise InferenceError(
            f"the model's output {name} is no tensor: it holds other things than numbers or text"
        )
    return array
