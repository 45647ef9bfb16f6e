"""What the server and its models say of themselves in V2's words, for both doors: REST and gRPC.

Rules of the room: asks the dataplane and the model, and makes plain values. No wire format.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from modelserver.dataplane import DataPlane
from modelserver.repository.versions import State
from modelserver.signatures import inputs_and_outputs

SERVER_NAME = "modelserver"
_EXTENSIONS = ("binary_tensor_data", "parameters")
# The first is Triton's name for it, the second KServe's.
_OF_REPOSITORY = ("model_repository", "model_repository_extension")


class ServerMetadata(NamedTuple):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]
    """Those of the protocol that are served here."""


class ModelMetadata(NamedTuple):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    """Those that can be asked for by their number, the newest last, as Triton has them."""
    platform: str
    """What runs the model: ``pytorch_torchscript``, ``tensorflow_savedmodel``; empty: not said."""
    inputs: list[Any]
    """``{"name": str, "datatype": str, "shape": [int, ...]}`` for each, -1 for any size. Empty: not known."""
    outputs: list[Any]
    """The same."""


def server_metadata(*, is_managed: bool) -> ServerMetadata:
    """Who answers.

    Args:
        is_managed: models can be loaded and unloaded by requests (``--enable_admin``).
    """
    version: str = sys.modules["modelserver"].__version__  # not imported: it is above every floor
    return ServerMetadata(SERVER_NAME, version, [*_EXTENSIONS, *(_OF_REPOSITORY if is_managed else ())])


async def model_metadata(dataplane: DataPlane, name: str, version: int | str | None = None) -> ModelMetadata:
    """What a model takes and gives.

    Args:
        dataplane: the service.
        name: of the model.
        version: number or label; default: the newest that is available.

    Raises:
        ModelNotFound, VersionNotFound, UnknownLabel, ModelNotReady: as ``DataPlane.model``. A model knows
            its inputs when it is loaded.
        Exception: what ``get_input_types`` or ``get_output_types`` raises.
    """
    model = dataplane.model(name, version)
    statuses = dataplane.version_statuses(name)
    versions = [str(status.number) for status in reversed(statuses) if status.state is State.AVAILABLE]
    inputs, outputs = await inputs_and_outputs(model)
    return ModelMetadata(name, versions, model.platform, list(inputs), list(outputs))
