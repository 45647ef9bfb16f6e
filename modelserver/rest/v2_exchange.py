"""A V2 request and its answer over REST: what ``CODECS`` are for V1, with the request kept for its answer.

Rules of the room: bytes and values; no HTTP but one header's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelserver.infer_tensors import RequestedOutput
from modelserver.messages import InferRequest, InferResponse
from modelserver.model import Model
from modelserver.protocols import v1_json, v2_rest
from modelserver.v2_inference import to_payload, to_response


class V2Exchange:
    """One request for one model.

    Args:
        model: that is asked.
        name: of the model, in the request.
        request_id: the server's name for the request, where the client gives none.
    """

    def __init__(self, model: Model, name: str, request_id: str) -> None:
        self._model = model
        self._name = name
        self._request_id = request_id
        self._request: InferRequest | None = None

    def decode_request(self, body: bytes | memoryview, header: str | None) -> Any:
        """What the model's hooks get.

        Args:
            body: of the request.
            header: the value of ``Inference-Header-Content-Length``.

        Raises:
            InvalidInput: it is no request, or not one for this model.
        """
        values = v2_rest.decode_request(body, v2_rest.header_length(header, len(body)))
        request = self._request = InferRequest.of(values, self._name)
        request.id = request.id or self._request_id
        return to_payload(request, self._model)

    def encode_response(self, result: Any) -> tuple[Any, ...]:
        """The answer's body, its Content-Type, and the binary tensors behind it.

        Raises:
            InvalidInput: the request wants an output that is not there.
            ModelServerError, TypeError: what the model returned cannot be sent.
        """
        assert self._request is not None
        request = self._request
        answer = to_response(result, request, self._model, self._name)
        if not isinstance(answer, InferResponse):
            return v1_json.encode_response(answer)
        parameters: Mapping[str, Any] | None = request.parameters
        response = answer.value(request.request_outputs or answer.requested_outputs, parameters)
        (body, *tensors), json_length = v2_rest.encode_response(response)
        return body, v1_json.JSON_TYPE if json_length is None else v2_rest.BINARY_TYPE, *tensors

    def encode_item(self, item: Any) -> tuple[bytes, str]:
        """An item of a stream, which is an answer of its own, in JSON; and its Content-Type.

        Raises:
            InvalidInput, ModelServerError, TypeError: as ``encode_response``.
        """
        assert self._request is not None
        answer = to_response(item, self._request, self._model, self._name)
        if not isinstance(answer, InferResponse):
            return v1_json.encode_response(answer)
        return encode_json(answer, self._request.request_outputs)


def encode_json(answer: InferResponse, wanted: list[RequestedOutput] | None = None) -> tuple[bytes, str]:
    """An answer in JSON, also where raw bytes were asked for, and its Content-Type.

    Args:
        answer: it.
        wanted: the outputs; none: those that the answer names itself, or all.

    Raises:
        InvalidInput: an output is wanted that is not there.
        ModelServerError, TypeError: it cannot be sent.
    """
    response = answer.value(wanted or answer.requested_outputs)
    response = response._replace(outputs=[each._replace(is_binary=False) for each in response.outputs])
    (body, *_), _ = v2_rest.encode_response(response)
    return bytes(body), v1_json.JSON_TYPE
