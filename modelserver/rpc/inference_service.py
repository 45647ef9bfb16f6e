"""``inference.GRPCInferenceService``: the Open Inference Protocol (V2) of KServe's and Triton's clients.

The three questions that probes ask need no key. To load and unload models is for administrators: from this
machine, with a token, and only where that is enabled; elsewhere there are no such calls.

Rules of the room: as in ``prediction_service``. Texts of errors are those of V2 over REST.
"""

from __future__ import annotations

from typing import Any

from modelserver.dataplane import DataPlane
from modelserver.errors import HookNotImplemented, InferenceError, InvalidInput, ModelNotReady, ServerNotReady
from modelserver.messages import InferRequest, InferResponse
from modelserver.protocols import v2_grpc
from modelserver.protocols import v2_messages as v2
from modelserver.rest.access import AdminGuard
from modelserver.rest.handlers import version_number
from modelserver.rpc.calls import OTHER, Call, Calls, remote_ip
from modelserver.rpc.whole import whole
from modelserver.v2_inference import to_payload, to_response
from modelserver.v2_metadata import model_metadata, server_metadata

NAME = "inference.GRPCInferenceService"

_RAW = "binary_data_output"
_ANSWER = v2.ModelInferResponse.DESCRIPTOR.full_name


class InferenceService:
    """The nine calls.

    Args:
        dataplane: what answers.
        admin_guard: lets calls of administrators in; ``None``: there are none.
    """

    def __init__(self, dataplane: DataPlane, admin_guard: AdminGuard | None = None) -> None:
        self._dataplane = dataplane
        self._admin_guard = admin_guard

    def handlers(self, calls: Calls) -> Any:
        """What the server takes."""
        probes = {
            "ServerLive": (v2.ServerLiveRequest, OTHER, self.server_live),
            "ServerReady": (v2.ServerReadyRequest, OTHER, self.server_ready),
            "ModelReady": (v2.ModelReadyRequest, OTHER, self.model_ready),
        }
        others = {
            "ServerMetadata": (v2.ServerMetadataRequest, OTHER, self.server_metadata),
            "ModelMetadata": (v2.ModelMetadataRequest, OTHER, self.model_metadata),
            "ModelInfer": (v2_grpc.parse_request, "predict", self.model_infer),
            "RepositoryIndex": (v2.RepositoryIndexRequest, OTHER, self.repository_index),
            "RepositoryModelLoad": (v2.RepositoryModelLoadRequest, OTHER, self.repository_model_load),
            "RepositoryModelUnload": (v2.RepositoryModelUnloadRequest, OTHER, self.repository_model_unload),
        }
        return calls.service(NAME, others, probes)

    async def server_live(self, request: Any, call: Call) -> Any:
        """The process answers."""
        return v2.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, call: Call) -> Any:
        """Whether every model is ready in every worker."""
        try:
            await self._dataplane.check_ready()
        except (ServerNotReady, ModelNotReady):
            return v2.ServerReadyResponse(ready=False)
        return v2.ServerReadyResponse(ready=True)

    async def model_ready(self, request: Any, call: Call) -> Any:
        """Whether a model, or one version of it, can take requests now."""
        call.model_name = request.name
        try:
            await self._dataplane.check_model_ready(request.name, _version(request.version))
        except ModelNotReady:
            return v2.ModelReadyResponse(ready=False)
        return v2.ModelReadyResponse(ready=True)

    async def server_metadata(self, request: Any, call: Call) -> Any:
        """Who answers."""
        metadata = server_metadata(is_managed=self._admin_guard is not None)
        return v2.ServerMetadataResponse(**metadata._asdict())

    async def model_metadata(self, request: Any, call: Call) -> Any:
        """What a model takes and gives."""
        call.model_name = request.name
        metadata = await model_metadata(self._dataplane, request.name, _version(request.version))
        response = v2.ModelMetadataResponse(
            name=metadata.name, versions=metadata.versions, platform=metadata.platform
        )
        for messages, tensors in ((response.inputs, metadata.inputs), (response.outputs, metadata.outputs)):
            for tensor in tensors:
                messages.add(
                    name=tensor["name"], datatype=tensor["datatype"], shape=map(int, tensor["shape"])
                )
        return response

    async def model_infer(self, parsed: v2_grpc.Parsed, call: Call) -> Any:
        """Tensors in, tensors out; raw ones if they came so."""
        dataplane, name = self._dataplane, parsed.message.model_name
        call.model_name = name
        version = _version(parsed.message.model_version)
        model = dataplane.model(name, version)  # before the tensors are looked at, as by REST
        request = InferRequest.of(v2_grpc.request_of(*parsed), name, from_grpc=True)
        request.id = request.id or call.request_id
        answer, model = await dataplane.answer(
            name,
            to_payload(request, model),
            version=version,
            timeout_s=call.timeout_s,
            headers={**call.fields, "x-request-id": call.request_id},
            size=call.size,
        )
        response = to_response(await whole(answer, model), request, model, name)
        if isinstance(response, InferResponse):
            wanted = request.request_outputs or response.requested_outputs
            return v2_grpc.encode_response(response.value(wanted, {_RAW: request.use_binary_outputs}))
        if _is_answer(response):
            return response
        raise InferenceError(
            f"the model's answer is {type(response).__name__}, and no tensors as gRPC needs them: return an "
            "InferResponse, or ask by REST"
        )

    async def repository_index(self, request: Any, call: Call) -> Any:
        """The models, and what state they are in."""
        response = v2.RepositoryIndexResponse()
        for entry in self._dataplane.index(request.ready):
            response.models.add(**entry._asdict())
        return response

    async def repository_model_load(self, request: Any, call: Call) -> Any:
        """Load a model, or load it again, in all workers."""
        self._check_administrator(call)
        name = call.model_name = _named(request)
        if request.parameters:
            raise InvalidInput("A model is loaded as it lies there: this call takes no parameters")
        await self._dataplane.load_model(name)
        return v2.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def repository_model_unload(self, request: Any, call: Call) -> Any:
        """Stop serving a model, in all workers."""
        self._check_administrator(call)
        name = call.model_name = _named(request)
        await self._dataplane.unload_model(name)
        return v2.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    def _check_administrator(self, call: Call) -> None:
        if self._admin_guard is None:
            raise HookNotImplemented(
                "Administrative calls are not enabled: start the server with --enable_admin"
            )
        self._admin_guard.check_call(remote_ip(call.peer), call.fields)


def _version(text: str) -> int | None:
    """The number of a version; ``None``: the newest."""
    return version_number(text) if text else None


def _named(request: Any) -> str:
    """The model to load or unload: Triton's clients name it in field 2, and KServe's in field 1."""
    name: str = request.model_name or request.repository_name
    return name


def _is_answer(value: Any) -> bool:
    """Whether a model has made the message itself, of KServe's class or ours."""
    descriptor = getattr(type(value), "DESCRIPTOR", None)
    return descriptor is not None and bool(descriptor.full_name == _ANSWER)
