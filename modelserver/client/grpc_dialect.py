"""What the Open Inference Protocol says over gRPC.

Rules of the room: as in ``dialects``; messages are bytes here already. It needs protobuf, and not ``grpc``.
"""

from __future__ import annotations

from typing import Any

from modelserver.client.calls import Call, Question, Reply, Steps
from modelserver.client.dialects import V2, Version
from modelserver.client.failures import CallTimeout, ServerUnreachable
from modelserver.client.http_messages import checked
from modelserver.protocols import protobuf, v2_grpc, v2_messages
from modelserver.protocols.v2_values import Request, Response

_SERVICE = "/inference.GRPCInferenceService/"
_READY = (200, 503)


class V2Grpc(V2):
    """The Open Inference Protocol over gRPC. What is inherited asks the methods below.

    Args:
        url: of the server, for messages.
    """

    def is_live(self) -> Steps[bool]:
        """As ``Client.is_live``."""
        return (yield from self._says("ServerLive", "live"))

    def is_ready(self, model: str | None, version: Version) -> Steps[bool]:
        """As ``Client.is_ready``."""
        if model is None:
            return (yield from self._says("ServerReady", "ready"))
        return (yield from self._says("ModelReady", "ready", **_named(model, version)))

    def metadata(self, model: str, version: Version) -> Steps[dict[str, Any]]:
        """As ``Client.metadata``."""
        message = yield from self._ask("ModelMetadata", **_named(model, version))
        return {
            "name": message.name,
            "versions": list(message.versions),
            "platform": message.platform,
            "inputs": [_tensor(each) for each in message.inputs],
            "outputs": [_tensor(each) for each in message.outputs],
        }

    def models(self) -> Steps[list[str]]:
        """As ``Client.models``."""
        message = yield from self._ask("RepositoryIndex")
        return list(dict.fromkeys(each.name for each in message.models))

    def _says(self, method: str, field: str, **fields: str) -> Steps[bool]:
        try:
            call = _call(method, **fields)._replace(answers=_READY)
            reply = yield call
        except (ServerUnreachable, CallTimeout):
            return False
        return reply.status == 200 and bool(getattr(self._message(call, method, reply), field))

    def _ask(self, method: str, **fields: str) -> Steps[Any]:
        call = _call(method, **fields)
        return self._message(call, method, (yield call))

    def _message(self, call: Call, method: str, reply: Reply) -> Any:
        assert isinstance(reply.body, bytes)
        return self._read(call, protobuf.parse, getattr(v2_messages, f"{method}Response"), reply.body)

    def _asking(self, question: Question, request: Request) -> Call:
        inputs = [each._replace(is_binary=True) for each in request.inputs]
        body = v2_grpc.encode_request(request._replace(inputs=inputs))
        return Call("POST", f"{_SERVICE}ModelInfer", [body], checked(question.headers, is_grpc=True))

    def _response(self, reply: Reply) -> Response:
        assert isinstance(reply.body, bytes)
        return v2_grpc.decode_response(reply.body)


def _call(method: str, **fields: str) -> Call:
    message = getattr(v2_messages, f"{method}Request")(**fields)
    return Call("POST", _SERVICE + method, [message.SerializeToString()])


def _named(model: str, version: Version) -> dict[str, str]:
    return {"name": model, "version": "" if version is None else str(version)}


def _tensor(message: Any) -> dict[str, Any]:
    return {"name": message.name, "datatype": message.datatype, "shape": list(message.shape)}
