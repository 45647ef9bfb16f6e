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
from modelserver.metrics.counting import Metrics
from modelserver.model import Model, ModelType
from modelserver.repository.model_repository import ModelRepository
from modelserver.waiting import Backlog, Deadlines


class DataPlane:
    """The verbs of the service over one repository.

    Args:
        repository: the models.
        lifecycle: of the process that serves them.
        timeout_s: how long a request may wait for its answer; 0: for ever.
        max_queue_size: most requests for one model that are not answered yet.
        metrics: of this process.

    Attributes:
        deadlines: of the requests that wait.
    """

    def __init__(
        self,
        repository: ModelRepository,
        lifecycle: Lifecycle,
        *,
        timeout_s: float = 0.0,
        max_queue_size: int = 1000,
        metrics: Metrics | None = None,
    ) -> None:
        self.repository = repository
        self.lifecycle = lifecycle
        self.deadlines = Deadlines(timeout_s)
        self.metrics = metrics
        self._max_queue_size = max_queue_size
        self._backlogs: dict[str, Backlog] = {}

    def model(self, name: str) -> Model:
        """The model of that name, ready to be called.

        Raises:
            ModelNotFound, ModelNotReady: as ``ModelRepository.ready_model``.
        """
        return self.repository.ready_model(name)

    def backlog(self, name: str) -> Backlog:
        """The requests that wait for the model of that name, which is registered."""
        backlog = self._backlogs.get(name)
        if backlog is None:
            metrics = None if self.metrics is None else self.metrics.model(name)
            backlog = Backlog(self._max_queue_size, self.deadlines.timeout_s, metrics)
            self._backlogs[name] = backlog
        return backlog

    def look(self, now: float) -> None:
        """Learn how fast the models answer, and show what waits; to be called a few times in a second.

        Args:
            now: seconds, from any start.
        """
        for backlog in self._backlogs.values():
            backlog.look(now)
        if self.metrics is not None:
            self.metrics.in_flight.set(len(self.lifecycle.in_flight))

    def timed_out(self, name: str) -> None:
        """A request for the model of that name was not answered in its time."""
        if self.metrics is not None:
            self.metrics.model(name).timed_out.inc()

    def infer(
        self,
        model: Model,
        payload: Any,
        headers: Headers,
        response_headers: ResponseHeaders,
        model_type: ModelType = ModelType.PREDICTOR,
        size: int = 0,
        request_id: str = "",
    ) -> Any:
        """Run the model's hooks on one request of ``size`` bytes; raises what they raise.

        Returns:
            The answer, or an awaitable of it if it must be waited for.
        """
        return model.begin(payload, model_type, headers, response_headers, size, request_id)

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
