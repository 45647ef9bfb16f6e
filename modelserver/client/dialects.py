"""What the protocols say over HTTP: what is asked as requests, and their replies as arrays.

    V1   {"instances": rows}; the answer's predictions
    V2   named tensors, as raw bytes behind the JSON or as JSON

Rules of the room: no I/O; a method is a generator, as ``calls`` says. Formats are those of ``protocols``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import numpy as np
import orjson

from modelserver import datatypes
from modelserver.client.calls import Answer, Call, Question, Reply, Steps
from modelserver.client.failures import CallFailed, CallTimeout, ServerUnreachable, UnreadableAnswer
from modelserver.client.http_messages import checked
from modelserver.errors import InferenceError, InvalidInput
from modelserver.messages import InferRequest
from modelserver.protocols import tfs_json, v1_tensors, v2_rest
from modelserver.protocols.v2_values import Request, Response, Tensor, Wanted
from modelserver.tensors import array_from_json

_JSON = {"Content-Type": "application/json"}
_READY = (200, 503)
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What JSON of another form than expected gives."""
_UNNAMED = "input-0"
"""The input of a model that does not say what it takes; KServe's documentation calls it so."""

Version = int | str | None
P = ParamSpec("P")
T = TypeVar("T")


class _OverHTTP:
    """What both protocols do alike.

    Args:
        url: of the server, for messages.
    """

    live_path = models_path = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def is_live(self) -> Steps[bool]:
        """As ``Client.is_live``."""
        return (yield from self._is_well(self.live_path))

    def models(self) -> Steps[list[str]]:
        """As ``Client.models``."""
        call = Call("GET", self.models_path)
        value = self._json(call, (yield call))
        return self._read(call, lambda: [str(name) for name in value["models"]])

    def _is_well(self, path: str) -> Steps[bool]:
        try:
            reply = yield Call("GET", path, answers=_READY)
        except (ServerUnreachable, CallTimeout):
            return False
        return reply.status == 200

    def _json(self, call: Call, reply: Reply) -> Any:
        return self._read(call, _parsed, reply)

    def _read(self, call: Call, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (*_UNREADABLE, InferenceError, InvalidInput) as error:
            raise UnreadableAnswer(f"{self.url}{call.path}", f"the answer cannot be read: {error}") from error


class V1(_OverHTTP):
    """KServe's V1 protocol, which is TensorFlow Serving's REST as well."""

    live_path, models_path = "/", "/v1/models"

    def infer(self, question: Question) -> Steps[Answer]:
        """As ``Client.infer``."""
        call = self._asking(question, "predict")
        reply = yield call
        columns = self._read(call, lambda: v1_tensors.from_answer(_parsed(reply, str.encode)))
        for name in question.outputs:
            if name not in columns:
                raise InvalidInput(
                    f"model {question.model} has no output {name}, it answers with: {', '.join(columns)}"
                )
        wanted = question.outputs or columns
        outputs = self._read(call, lambda: {name: _as_bytes(columns[name]) for name in wanted})
        return Answer(outputs, question.model, id=reply.headers.get("x-request-id", ""))

    def explain(self, question: Question) -> Steps[Any]:
        """As ``Client.explain``."""
        call = self._asking(question, "explain")
        return self._json(call, (yield call))

    def is_ready(self, model: str | None, version: Version) -> Steps[bool]:
        """As ``Client.is_ready``."""
        try:
            names = [model] if model is not None else (yield from self.models())
            for name in names:
                call = Call("GET", _v1_path(name, version), answers=_READY)
                reply = yield call
                if reply.status != 200 or not self._read(call, _is_available, reply):
                    return False
        except (ServerUnreachable, CallTimeout):
            return False
        return True

    def metadata(self, model: str, version: Version) -> Steps[dict[str, Any]]:
        """As ``Client.metadata``."""
        call = Call("GET", f"{_v1_path(model, version)}/metadata")
        value: dict[str, Any] = self._json(call, (yield call))
        return value

    def _asking(self, question: Question, verb: str) -> Call:
        inputs = question.inputs
        if isinstance(inputs, InferRequest):
            inputs = {tensor.name: tensor.as_numpy() for tensor in inputs.inputs}
        elif isinstance(inputs, np.ndarray):
            inputs = {_UNNAMED: inputs}
        if isinstance(inputs, Mapping):
            payload = v1_tensors.to_payload({name: _array(name, value) for name, value in inputs.items()})
        else:
            payload = {"instances": inputs}
        payload |= question.parameters
        try:
            body = _as_json(payload)
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidInput(f"the request has no JSON form: {error}") from error
        named = {"X-Request-ID": question.id} if question.id else {}
        headers = checked({**_JSON, **named, **question.headers})
        return Call("POST", f"{_v1_path(question.model, question.version)}:{verb}", [body], headers)


class V2(_OverHTTP):
    """The Open Inference Protocol over REST.

    Args:
        url: of the server, for messages.
        binary: tensors are sent and asked for as raw bytes.
    """

    live_path, models_path = "/v2/health/live", "/v2/models"

    def __init__(self, url: str, *, binary: bool = True) -> None:
        super().__init__(url)
        self._binary = binary
        self._inputs: dict[tuple[str, Version], dict[str, str]] = {}

    def infer(self, question: Question) -> Steps[Answer]:
        """As ``Client.infer``."""
        model, inputs = question.model, question.inputs
        if isinstance(inputs, InferRequest):
            request = inputs.value()
        else:
            request = Request((yield from self._tensors(question)))
        request = request._replace(
            outputs=[Wanted(name) for name in question.outputs] or request.outputs,
            id=question.id or request.id,
            parameters={**request.parameters, **question.parameters},
            model_name=model,
            model_version="" if question.version is None else str(question.version),
        )
        try:
            call = self._asking(question, request)
        except (TypeError, UnicodeEncodeError) as error:
            raise _unsendable(request.inputs, error) from error
        try:
            reply = yield call
        except CallFailed:
            self._inputs.pop((model, question.version), None)  # it may be another model now
            raise
        response = self._read(call, self._response, reply)
        outputs = {each.name: _as_bytes(each.array) for each in response.outputs}
        version, answer_id = response.model_version, response.id
        return Answer(outputs, response.model_name, version, answer_id, response.parameters)

    def explain(self, question: Question) -> Steps[Any]:
        """As ``Client.explain``."""
        raise ValueError('protocol V2 has no explain: ask with protocol="v1"')

    def is_ready(self, model: str | None, version: Version) -> Steps[bool]:
        """As ``Client.is_ready``."""
        path = "/v2/health/ready" if model is None else f"{_v2_path(model, version)}/ready"
        return (yield from self._is_well(path))

    def metadata(self, model: str, version: Version) -> Steps[dict[str, Any]]:
        """As ``Client.metadata``."""
        call = Call("GET", _v2_path(model, version))
        value: dict[str, Any] = self._json(call, (yield call))
        return value

    def _asking(self, question: Question, request: Request) -> Call:
        binary = self._binary
        request = request._replace(inputs=[each._replace(is_binary=binary) for each in request.inputs])
        parts, json_length = v2_rest.encode_request(request, binary_outputs=binary)
        headers = {**_JSON, **checked(question.headers)}
        if json_length is not None:
            headers |= {"Content-Type": v2_rest.BINARY_TYPE, v2_rest.HEADER: str(json_length)}
        return Call("POST", f"{_v2_path(question.model, question.version)}/infer", parts, headers)

    def _response(self, reply: Reply) -> Response:
        body = _plain(reply)
        json_length = v2_rest.header_length(reply.headers.get(v2_rest.HEADER.lower()), len(body))
        return v2_rest.decode_response(body, json_length)

    def _tensors(self, question: Question) -> Steps[list[Tensor]]:
        """The inputs as tensors. What the model takes is asked once, and only if the arrays do not say it."""
        inputs, key = question.inputs, (question.model, question.version)
        declared: dict[str, str] = {}
        if not isinstance(inputs, Mapping) or any(not isinstance(v, np.ndarray) for v in inputs.values()):
            if key not in self._inputs:
                call = Call("GET", _v2_path(*key))
                metadata = yield from self.metadata(*key)
                self._inputs[key] = self._read(
                    call, lambda: {each["name"]: each["datatype"] for each in metadata.get("inputs") or ()}
                )
            declared = self._inputs[key]
        if not isinstance(inputs, Mapping):
            if len(declared) > 1:
                raise InvalidInput(
                    f"model {question.model} has {len(declared)} inputs, expected a dictionary with: "
                    f"{', '.join(declared)}"
                )
            inputs = {next(iter(declared), _UNNAMED): inputs}
        return [_tensor(name, value, declared.get(name, "")) for name, value in inputs.items()]


def _tensor(name: str, value: Any, declared: str) -> Tensor:
    """An input. Arrays go as they are, lists become what the model takes, where it says so."""
    if declared and declared != "BYTES" and not isinstance(value, np.ndarray):
        array = array_from_json(value, datatypes.numpy_dtype(declared), name=f'input "{name}"')
        return Tensor(name, declared, array.shape, array)
    array = _array(name, value)
    try:
        return Tensor(name, datatypes.datatype_of(array.dtype), array.shape, array)
    except TypeError as error:
        raise InvalidInput(f'input "{name}": {error}') from error


def _array(name: str, value: Any) -> np.ndarray:
    """An array of native byte order; of text ``object``, as one of a fixed width loses zeros at its end.

    Raises:
        InvalidInput: it is none.
    """
    try:
        array = np.asarray(value)
    except UnicodeDecodeError:  # text beside bytes that are none
        array = np.asarray(value, object)
    except (TypeError, ValueError, OverflowError) as error:
        reason = "rows of different lengths" if "inhomogeneous" in str(error) else error
        raise InvalidInput(f'input "{name}": {reason}') from error
    if array.dtype.kind in "SU":
        return np.asarray(value, object)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _unsendable(inputs: Iterable[Tensor], error: Exception) -> InvalidInput:
    """What is raised for an error of the encoding: it does not say of which input."""
    for each in inputs:
        if each.array.dtype.kind == "O":
            try:
                datatypes.texts(each.array)
            except (TypeError, UnicodeEncodeError) as reason:
                return InvalidInput(f'input "{each.name}": {reason}')
    return InvalidInput(str(error))


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """Text as ``bytes``, whatever the protocol."""
    if array.dtype.kind not in "OSU":
        return array
    texts = np.empty(array.size, object)
    texts[:] = datatypes.texts(array)
    return texts.reshape(array.shape)


def _plain(reply: Reply) -> memoryview:
    """The body of an answer that is not coded in any way."""
    coding = reply.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise ValueError(f"it is coded as {coding}, which was not asked for")
    assert isinstance(reply.body, memoryview)
    return reply.body


def _as_json(payload: dict[str, Any]) -> bytes:
    """A V1 body. Bytes in it are written as in arrays of text."""
    try:
        return tfs_json.encode_response(payload)[0]
    except TypeError:
        return tfs_json.encode_response(_wrapped(payload))[0]


def _wrapped(value: Any) -> Any:
    """Bytes as text, or as ``{"b64": ...}`` if they are none."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {name: _wrapped(each) for name, each in value.items()}
    return [_wrapped(each) for each in value] if isinstance(value, list | tuple) else value


def _parsed(reply: Reply, text: Callable[[str], Any] = str) -> Any:
    """The JSON of an answer. If there are bytes in it, ``text`` says what becomes of the strings beside."""
    data = bytes(_plain(reply))
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = json.loads(data)  # TensorFlow Serving writes NaN and Infinity
    return _unwrapped(value, text) if b'"b64"' in data else value


def _unwrapped(value: Any, text: Callable[[str], Any]) -> Any:
    """Bytes that are no text come as ``{"b64": ...}``."""
    if isinstance(value, list):
        return [_unwrapped(each, text) for each in value]
    if isinstance(value, str):
        return text(value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"b64"}:
        return base64.b64decode(value["b64"])
    return {name: _unwrapped(each, text) for name, each in value.items()}


def _is_available(reply: Reply) -> bool:
    """What the page of a model says: KServe's ``ready``, or TensorFlow Serving's states of versions."""
    value = _parsed(reply)
    if "ready" in value:
        return bool(value["ready"])
    return any(each["state"] == "AVAILABLE" for each in value.get("model_version_status", ()))


@lru_cache(maxsize=1024)
def _v1_path(model: str, version: Version) -> str:
    path = f"/v1/models/{quote(model, safe='')}"
    if version is None:
        return path
    kind = "versions" if str(version).isdecimal() else "labels"
    return f"{path}/{kind}/{quote(str(version), safe='')}"


@lru_cache(maxsize=1024)
def _v2_path(model: str, version: Version) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(str(version), safe='')}"
