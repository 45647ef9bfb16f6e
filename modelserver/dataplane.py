"""What the service can do, whatever the door: answer, explain, say what is there and what is ready.

Rules of the room: values in, values out, errors raised; no wire format, no tornado, no thread. Every door
calls this and nothing beneath it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple, Protocol

from modelserver.errors import (
    HookNotImplemented,
    ModelNotFound,
    ModelNotReady,
    ModelTimeout,
    ServableNotFound,
    VersionNotFound,
)
from modelserver.hooks import Headers, ResponseHeaders
from modelserver.lifecycle import Lifecycle
from modelserver.metrics.counting import Metrics
from modelserver.model import Model, ModelType
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import State, VersionStatus, merged
from modelserver.waiting import Backlog, Deadlines


class Keeper(Protocol):
    """Who keeps the versions of this process, and knows those of the other workers."""

    def published(self) -> list[dict[str, Any]]:
        """What each worker has: ``{"models": {name: [[number, state, error_code, error_message], ...]}}``."""


class Configurator(Protocol):
    """Who follows the configuration of this process."""

    async def reload(self, text: str) -> None:
        """Serve what a ``ModelServerConfig`` in text form says, in all workers; return when that is done.

        Raises:
            InvalidInput: the configuration is wrong.
            ModelServerError: it could not be applied.
        """


class _Waiting(NamedTuple):
    """What waits for one model."""

    name: str
    model: Model
    """Kept, so that nobody else gets its identity."""
    backlog: Backlog


def of_number(statuses: Sequence[VersionStatus], number: int, name: str) -> list[VersionStatus]:
    """The status of one version, alone.

    Raises:
        ServableNotFound: it is not among them.
    """
    found = [status for status in statuses if status.number == number]
    if not found:
        raise ServableNotFound(name, f"Could not find version {number} of model {name}")
    return found


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
        keeper: of the versions, once the process serves.
        configurator: of the folders of versions, if there is a configuration.
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
        self.keeper: Keeper | None = None
        self.configurator: Configurator | None = None
        self._backlogs: dict[int, _Waiting] = {}

    def model(self, name: str, version: int | str | None = None) -> Model:
        """The model of that name, ready to be called.

        Args:
            name: of the model.
            version: the number or a label of the version; default: the newest that is available.

        Raises:
            ModelNotFound, ModelNotReady: as ``ModelRepository.ready_model``.
            VersionNotFound, UnknownLabel: as ``ModelRepository.version``.
        """
        return (
            self.repository.ready_model(name) if version is None else self.repository.version(name, version)
        )

    def backlog(self, name: str, model: Model) -> Backlog:
        """The requests that wait for a model, which is registered under this name."""
        waiting = self._backlogs.get(id(model))
        if waiting is None:
            metrics = None if self.metrics is None else self.metrics.model(name)
            backlog = Backlog(self._max_queue_size, self.deadlines.timeout_s, metrics)
            waiting = self._backlogs[id(model)] = _Waiting(name, model, backlog)
        return waiting.backlog

    def waiting_for(self, model: Model) -> int:
        """How many requests wait for a model."""
        waiting = self._backlogs.get(id(model))
        return 0 if waiting is None else waiting.backlog.waiting

    def forget(self, model: Model) -> None:
        """A model is gone."""
        self._backlogs.pop(id(model), None)

    def look(self, now: float) -> None:
        """Learn how fast the models answer, and show what waits; to be called a few times in a second.

        Args:
            now: seconds, from any start.
        """
        queues: dict[str, int] = {}  # versions of a model share a name
        for name, _, backlog in self._backlogs.values():
            backlog.look(now)
            queues[name] = queues.get(name, 0) + backlog.waiting
        if self.metrics is not None:
            for name, waiting in queues.items():
                self.metrics.model(name).queue.set(waiting)
            self.metrics.in_flight.set(len(self.lifecycle.in_flight))

    def timed_out(self, name: str) -> None:
        """A request for the model of that name was not answered in its time."""
        if self.metrics is not None:
            self.metrics.model(name).timed_out.inc()

    def answered_examples(self, name: str, answer: Any) -> None:
        """The model of that name has answered a request about examples, with ``{"results": [...]}``."""
        results = answer.get("results") if isinstance(answer, dict) else None
        if self.metrics is not None and isinstance(results, Sized):
            self.metrics.model(name).examples(len(results))

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

    async def answer(
        self,
        name: str,
        payload: Any,
        model_type: ModelType = ModelType.PREDICTOR,
        *,
        version: int | str | None = None,
        timeout_s: float | None = None,
        headers: Headers | None = None,
        size: int = 0,
    ) -> tuple[Any, Model]:
        """Answer one request, for a door that leaves waiting, deadlines and counting to this method.

        Args:
            name: of the model.
            payload: what its hooks get.
            model_type: what is asked of it.
            version: number or label; default: the newest.
            timeout_s: how long the client waits, if that is less than ``--timeout``.
            headers: for hooks.
            size: of the request, in bytes.

        Returns:
            The answer, and the model that gave it.

        Raises:
            ModelOverloaded: too many requests wait for the model.
            ModelTimeout: it took too long.
            Exception: what ``model`` and the hooks raise.
        """
        model = self.model(name, version)
        backlog = self.backlog(name, model)
        if backlog.is_full:
            raise backlog.refusal()
        limits = [limit for limit in (timeout_s, self.deadlines.timeout_s) if limit is not None and limit > 0]
        time_out = asyncio.timeout(min(limits, default=None))
        request, is_answered = object(), False
        self.lifecycle.in_flight.add(request)
        backlog.enter()
        try:
            async with time_out:
                answer = model.begin(payload, model_type, headers, {}, size)
                if hasattr(answer, "__await__"):
                    answer = await answer
            is_answered = True
            return answer, model
        except TimeoutError:
            if not time_out.expired():
                raise  # the model's own
            self.timed_out(name)
            raise ModelTimeout(name, min(limits)) from None
        finally:
            backlog.leave(is_answered)
            self.lifecycle.in_flight.discard(request)

    def version_statuses(self, name: str) -> list[VersionStatus]:
        """The states of a model's versions, the newest first: available is what every worker has.

        A model without versions is version 1.

        Raises:
            ModelNotFound: no such model.
        """
        model = self.repository.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        versions = self.repository.versions.get(name)
        if versions is None:
            return [VersionStatus(1, State.AVAILABLE if model.ready else State.LOADING)]
        told = (
            [] if self.keeper is None else [each["models"].get(name, []) for each in self.keeper.published()]
        )
        return merged([versions.statuses(), *([VersionStatus.of(*each) for each in one] for one in told)])

    def servable(self, name: str, version: int | str | None = None) -> Model:
        """The model for a call of TensorFlow Serving's: ``model``, with its words for one that is unknown.

        Raises:
            ServableNotFound: no such model.
            VersionNotFound, UnknownLabel, ModelNotReady: as ``model``.
        """
        try:
            return self.model(name, version)
        except VersionNotFound:
            raise
        except ModelNotFound as error:
            raise ServableNotFound(name) from error

    def servable_statuses(self, name: str) -> list[VersionStatus]:
        """``version_statuses`` for a call of TensorFlow Serving's.

        Raises:
            ServableNotFound: no such model.
        """
        try:
            return self.version_statuses(name)
        except ModelNotFound as error:
            raise ServableNotFound(name, f"Could not find any versions of model {name}") from error

    async def reload(self, text: str) -> None:
        """Serve what a ``ModelServerConfig`` in text form says, in all workers; return when that is done.

        Raises:
            InvalidInput: the configuration is wrong.
            ModelServerError: it could not be applied; 501 where models come from a program.
        """
        if self.configurator is None:
            raise HookNotImplemented("This server's models come from a program, not from a configuration.")
        await self.configurator.reload(text)

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
