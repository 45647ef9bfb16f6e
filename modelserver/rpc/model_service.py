"""``tensorflow.serving.ModelService``: the states of versions, and another configuration.

Rules of the room: as in ``prediction_service``.
"""

from __future__ import annotations

from typing import Any

from modelserver.dataplane import DataPlane, of_number
from modelserver.errors import InvalidInput, ModelLoadError, ModelServerError
from modelserver.protocols import protobuf
from modelserver.protocols import tfs_messages as tfs
from modelserver.protocols.tf_messages import ERROR_CODES
from modelserver.rpc.calls import OTHER, Call, Calls
from modelserver.wording import scrubbed

NAME = "tensorflow.serving.ModelService"


class NotApplied(ModelServerError):
    """A configuration that names what cannot be served; it is the client's to correct."""

    status = 412


class ModelService:
    """The two calls.

    Args:
        dataplane: what answers.
    """

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    def handlers(self, calls: Calls) -> Any:
        """What the server takes."""
        return calls.service(
            NAME,
            {
                "GetModelStatus": (tfs.GetModelStatusRequest, OTHER, self.get_model_status),
                "HandleReloadConfigRequest": (tfs.ReloadConfigRequest, OTHER, self.reload),
            },
        )

    async def get_model_status(self, request: Any, call: Call) -> Any:
        """The states of all versions, the newest first, or of the one with the number that is asked for."""
        if not request.HasField("model_spec"):
            raise InvalidInput("Missing ModelSpec")
        spec = request.model_spec
        call.model_name = spec.name
        found = self._dataplane.servable_statuses(spec.name)
        if spec.WhichOneof("version_choice") == "version":
            found = of_number(found, spec.version.value, spec.name)
        response = tfs.GetModelStatusResponse()
        for each in found:
            status = response.model_version_status.add(version=each.number, state=each.state.value)
            status.status.error_code = ERROR_CODES.get(each.error_code, ERROR_CODES["UNKNOWN"])
            status.status.error_message = scrubbed(each.error_message)
        return response

    async def reload(self, request: Any, call: Call) -> Any:
        """Serve what the configuration says, and nothing else; answer when that is done."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidInput(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                "currently supported"
            )
        try:
            await self._dataplane.reload(protobuf.to_text(request.config))
        except ModelLoadError as error:
            raise NotApplied(str(error)) from error
        response = tfs.ReloadConfigResponse()
        response.status.error_code = ERROR_CODES["OK"]
        return response
