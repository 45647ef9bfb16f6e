"""What the service can do, whatever the door: answer, explain, say what is there and what is ready.

Rules of the room: values in, values out, errors raised; no wire format, no tornado, no thread. Every door
calls this and nothing beneath it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from modelserver.errors import ModelNotFound, ModelNotReady
from modelserver.hooks import Headers, ResponseHeaders
from modelserver.lifecycle import Lifecycle
from modelserver.model import Model, ModelType
from modelserver.repository.model_repository import ModelRepository


class DataPlane:
    """The verbs of the service over one repository."""

    def __init__(self, repository: ModelRepository, lifecycle: Lifecycle) -> None:
        self.repository = repository
        self.lifecycle = lifecycle

    def model(self, name: str) -> Model:
        """The model of that name, ready to be called.

        Raises:
            ModelNotFound, ModelNotReady: as ``ModelRepository.ready_model``.
        """
        return self.repository.ready_model(name)

    def infer(
        self,
        model: Model,
        payload: Any,
        headers: Headers,
        response_headers: ResponseHeaders,
        model_type: ModelType = ModelType.PREDICTOR,
        size: int = 0,
    ) -> Any:
        """Run the model's hooks on one request of ``size`` bytes; raises what they raise.

        Returns:
            The answer, or an awaitable of it if it must be waited for.
        """
        return model.begin(payload, model_type, headers, response_headers, size)

    def model_names(self) -> Sequence[str]:
        """Registered models, in the order of registration, ready or not."""
        return self.repository.names()

    async def check_model_ready(self, name: str) -> None:
        """Return if the model can take requests now.

        Raises:
            ModelNotFound: no such model.
            ModelNotReady: it is not loaded, says it is not healthy, or the server is draining.
        """
        model = self.repository.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        if self.lifecycle.draining:
            raise ModelNotReady(name, "The server is shutting down.")
        healthy = model.healthy()
        if not (await healthy if inspect.isawaitable(healthy) else healthy):
            raise ModelNotReady(name)
