"""The Open Inference Protocol over REST: bodies to values and back, as JSON and with binary tensors.

With its binary tensor data extension a body is JSON, and behind it the raw bytes of the tensors whose
``parameters`` have a ``binary_data_size``, in their order. The header ``Inference-Header-Content-Length``
says how long the JSON is; the Content-Type says nothing, since Triton's client sends none.

Rules of the room: bytes and values; no tornado, no model, no I/O. Both directions: for the server, and for
its client. Raw tensors are not copied, neither in nor out.
Source of the rules: the Open Inference Protocol, and docs/protocol-v2.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from modelserver import datatypes
from modelserver.errors import InvalidInput
from modelserver.protocols.v2_values import NO_PARAMETERS, Parameters, Request, Response, Tensor, Wanted
from modelserver.tensors import json_name

HEADER = "Inference-Header-Content-Length"
BINARY_TYPE = "application/octet-stream"

Body = bytes | bytearray | memoryview
Parts = list[bytes | memoryview]
"""A body in pieces, so that tensors need not be copied to lie behind the JSON."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_SIZE, _WISH, _ALL_WISH = "binary_data_size", "binary_data", "binary_data_output"
_EXAMPLE = '{"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}'


def header_length(value: str | None, size: int) -> int | None:
    """What the header says: bytes of JSON at the start of a body; ``None`` without the header.

    Args:
        value: of the header.
        size: of the body.

    Raises:
        InvalidInput: it is no number, or more than there is.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 15 or int(value) > size:
        raise InvalidInput(
            f"{HEADER} is {value[:40]!r}, expected a number of bytes up to {size}, the size of the body"
        )
    return int(value)


def decode_request(body: Body, json_length: int | None = None) -> Request:
    """Read the body of a request.

    Args:
        body: as it came. Binary tensors are views of it.
        json_length: bytes of JSON at its start; ``None``: it is all JSON.

    Raises:
        InvalidInput: not JSON, or not a request; a tensor whose data are missing, of another datatype, or do
            not fit its shape; too few or too many binary data.
    """
    message, binary = _split(body, json_length)
    request_id, parameters = message.get("id"), _parameters(message.get("parameters"), "the request")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInput(f'Expected "id" to be a string, got {json_name(request_id)}')
    _check_wish(parameters, _ALL_WISH, "the request")
    inputs = _tensors(message.get("inputs"), "input", binary)
    wanted = message.get("outputs")
    if wanted is not None and not isinstance(wanted, list):
        raise InvalidInput(f'Expected "outputs" to be a list, got {json_name(wanted)}')
    outputs = [_wanted(item, index) for index, item in enumerate(wanted or ())]
    version = message.get("model_version")
    return Request(
        inputs,
        outputs,
        request_id or "",
        parameters,
        model_version=version if isinstance(version, str) else "",
    )


def decode_response(body: Body, json_length: int | None = None) -> Response:
    """Read the body of an answer.

    Args:
        body: as it came. Binary tensors are views of it.
        json_length: bytes of JSON at its start; ``None``: it is all JSON.

    Raises:
        InvalidInput: it is no such answer.
    """
    message, binary = _split(body, json_length)
    return Response(
        str(message.get("model_name") or ""),
        _tensors(message.get("outputs"), "output", binary),
        str(message.get("model_version") or ""),
        str(message.get("id") or ""),
        _parameters(message.get("parameters"), "the answer"),
    )


def encode_request(request: Request, *, binary_outputs: bool = False) -> tuple[Parts, int | None]:
    """Write a request: the parts of its body, and the length of its JSON if binary data follow.

    Args:
        request: its tensors with ``is_binary`` go as raw bytes.
        binary_outputs: ask for raw bytes for all outputs.

    Raises:
        TypeError: a tensor holds what cannot be sent.
    """
    message: dict[str, Any] = {}
    if request.id:
        message["id"] = request.id
    parameters = dict(request.parameters)
    if binary_outputs:
        parameters[_ALL_WISH] = True
    if parameters:
        message["parameters"] = parameters
    if request.outputs:
        message["outputs"] = [_named(wanted.name, wanted.parameters) for wanted in request.outputs]
    return _joined(message, "inputs", request.inputs)


def encode_response(response: Response) -> tuple[Parts, int | None]:
    """Write an answer: the parts of its body, and the length of its JSON if binary data follow.

    Args:
        response: its tensors with ``is_binary`` go as raw bytes.

    Raises:
        TypeError: a tensor holds what cannot be sent.
    """
    message: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        message["model_version"] = response.model_version
    if response.id:
        message["id"] = response.id
    if response.parameters:
        message["parameters"] = dict(response.parameters)
    return _joined(message, "outputs", response.outputs)


# -- reading


def _split(body: Body, json_length: int | None) -> tuple[dict[str, Any], _Binary]:
    head = body if json_length is None else memoryview(body)[:json_length]
    try:
        message = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"Unrecognized request format: {error}") from None
    if not isinstance(message, dict):
        raise InvalidInput(f"Expected a JSON object such as {_EXAMPLE}, got {json_name(message)}")
    return message, _Binary(memoryview(body)[len(head) :])


class _Binary:
    """The raw bytes behind the JSON, taken tensor by tensor."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size: Any, name: str) -> memoryview:
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{name}: {_SIZE} is {_shown(size)}, expected a number of bytes")
        end = self._position + size
        if end > len(self._data):
            rest = len(self._data) - self._position
            raise InvalidInput(
                f"{name}: {_SIZE} is {size}, and {rest} bytes are left. {HEADER} says where the JSON ends"
            )
        data, self._position = self._data[self._position : end], end
        return data

    def check_end(self) -> None:
        rest = len(self._data) - self._position
        if rest:
            raise InvalidInput(f"{rest} bytes behind the JSON belong to no tensor: their {_SIZE} is missing")


def _tensors(items: Any, kind: str, binary: _Binary) -> list[Tensor]:
    if not isinstance(items, list):
        got = "it is missing" if items is None else f"got {json_name(items)}"
        raise InvalidInput(f'Expected "{kind}s", a list of tensors such as {_EXAMPLE}; {got}')
    tensors = [_tensor(item, kind, index, binary) for index, item in enumerate(items)]
    binary.check_end()
    return tensors


def _tensor(item: Any, kind: str, index: int, binary: _Binary) -> Tensor:
    if not isinstance(item, dict):
        raise InvalidInput(
            f"{kind}s[{index}] is {json_name(item)}, expected a tensor with name, shape and datatype"
        )
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f'{kind}s[{index}]: "name" is {_shown(name)}, expected a string')
    title = f'{kind} "{name[:80]}"'
    datatype, shape = item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str):
        raise InvalidInput(f'{title}: "datatype" is {_shown(datatype)}, expected a string such as FP32')
    datatype = datatypes.known_datatype(datatype, title)
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        got = str(shape)[:40] if isinstance(shape, list) else _shown(shape)
        raise InvalidInput(f'{title}: "shape" is {got}, expected a list of integers')
    parameters = _parameters(item.get("parameters"), title)
    size = parameters.get(_SIZE)
    if size is not None:
        if item.get("data") is not None:
            raise InvalidInput(f'{title} has both "data" and {_SIZE}, expected one of them')
        array = datatypes.unpack(binary.take(size, title), datatype, shape, title)
        return Tensor(name, datatype, shape, array, parameters, True)
    data = item.get("data")
    if data is None:
        raise InvalidInput(
            f'{title} has no data, expected "data" or, with {HEADER}, {_SIZE} among its parameters'
        )
    array = datatypes.from_values(data, datatype, shape, title)
    if array.dtype.kind == "f" and not np.isfinite(array).all():  # JSON has no infinity
        raise InvalidInput(f'{title}: "data" holds a number that is too large for {datatype}')
    return Tensor(name, datatype, shape, array, parameters)


def _wanted(item: Any, index: int) -> Wanted:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidInput(
            f'outputs[{index}] is {_shown(item)}, expected an object with the "name" of an output'
        )
    parameters = _parameters(item.get("parameters"), f'output "{name[:80]}"')
    _check_wish(parameters, _WISH, f'output "{name[:80]}"')
    return Wanted(name, parameters)


def _check_wish(parameters: Parameters, name: str, where: str) -> None:
    wish = parameters.get(name, False)
    if not isinstance(wish, bool):
        raise InvalidInput(f'parameter "{name}" of {where} is {_shown(wish)}, expected a boolean')


def _parameters(value: Any, where: str) -> Parameters:
    if value is None:
        return NO_PARAMETERS
    if not isinstance(value, dict):
        raise InvalidInput(f'"parameters" of {where} are {json_name(value)}, expected an object')
    for name, each in value.items():
        if not isinstance(each, str | int | float):  # bool is an int
            raise InvalidInput(
                f'parameter "{name[:80]}" of {where} is {json_name(each)}, expected a string, a number or a '
                "boolean"
            )
    return value


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else json_name(value)


# -- writing


def _joined(message: dict[str, Any], key: str, tensors: Sequence[Tensor]) -> tuple[Parts, int | None]:
    raw: Parts = []
    message[key] = [_written(tensor, raw) for tensor in tensors]
    head = orjson.dumps(message, option=_OPTIONS)
    if not any(tensor.is_binary for tensor in tensors):
        return [head], None
    return [head, *raw], len(head)


def _written(tensor: Tensor, raw: Parts) -> dict[str, Any]:
    array = tensor.array
    written: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}
    parameters = {name: value for name, value in tensor.parameters.items() if name != _SIZE}
    if tensor.is_binary:
        data = datatypes.pack(array, tensor.datatype)
        raw.append(data)
        parameters[_SIZE] = len(data)
    elif tensor.datatype == "BYTES":
        written["data"] = _texts(array, tensor.name)
    else:
        written["data"] = _flat(array, tensor.datatype)
    if parameters:
        written["parameters"] = parameters
    return written


def _flat(array: np.ndarray, datatype: str) -> Any:
    """An array that orjson writes as a flat list; it takes one-dimensional ones of native byte order."""
    if not array.size:
        return []
    flat = np.asarray(array, datatypes.numpy_dtype(datatype)).reshape(-1)
    return np.ascontiguousarray(flat)


def _texts(array: np.ndarray, name: str) -> list[str]:
    try:
        return [value.decode() for value in datatypes.texts(array)]
    except UnicodeDecodeError:
        raise TypeError(
            f"{name} holds bytes that are no UTF-8, which JSON has no form for: ask for binary data"
        ) from None


def _named(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "parameters": dict(parameters)} if parameters else {"name": name}
