"""What the service can do, whatever the door: answer, explain, say what is there and what is ready.

Rules of the room: values in, values out, errors raised; no wire format, no tornado, no thread. Every door
calls this and nothing beneath it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple, Protocol

from modelserver.errors import (
    HookNotImplemented,
    ModelNotFound,
    ModelTimeout,
    ServableNotFound,
    ServerNotReady,
    VersionNotFound,
)
from modelserver.hooks import Headers, ResponseHeaders
from modelserver.lifecycle import Lifecycle
from modelserver.metrics.counting import Metrics
from modelserver.model import Model, ModelType
from modelserver.readiness import IndexEntry as IndexEntry
from modelserver.readiness import Readiness
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import VersionStatus
from modelserver.waiting import Backlog, Deadlines


class Administrator(Protocol):
    """Who loads and unloads models in all workers."""

    async def load(self, name: str) -> None:
        """See ``DataPlane.load_model``."""

    async def unload(self, name: str) -> None:
        """See ``DataPlane.unload_model``."""


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


class DataPlane(Readiness):
    """The verbs of the service over one repository, beside what is said of its models.

    Args:
        repository: the models.
        lifecycle: of the process that serves them.
        timeout_s: how long a request may wait for its answer; 0: for ever.
        max_queue_size: most requests for one model that are not answered yet.
        metrics: of this process.

    Attributes:
        deadlines: of the requests that wait.
        administrator: of the models, once the process serves.
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
        super().__init__(repository, lifecycle)
        self.deadlines = Deadlines(timeout_s)
        self.metrics = metrics
        self._max_queue_size = max_queue_size
        self.administrator: Administrator | None = None
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
        time_out: asyncio.Timeout | None = None
        request, is_answered = object(), False
        self.lifecycle.in_flight.add(request)
        backlog.enter()
        try:
            answer = model.begin(payload, model_type, headers, {}, size)
            if hasattr(answer, "__await__"):
                async with asyncio.timeout(min(limits, default=None)) as time_out:
                    answer = await answer
            is_answered = True
            return answer, model
        except TimeoutError:
            if time_out is None or not time_out.expired():
                raise  # the model's own
            self.timed_out(name)
            raise ModelTimeout(name, min(limits)) from None
        finally:
            backlog.leave(is_answered)
            self.lifecycle.in_flight.discard(request)

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

    async def load_model(self, name: str) -> None:
        """Load a model, or load it again, in all workers; return when they have.

        What that means for which model: docs/protocol-v2.md.

        Raises:
            ModelNotFound: no such model, and the repository's ``load`` makes none.
            ModelNotReady: a worker could not load it, or has not in time.
            ServerNotReady: the workers have not all loaded their models yet, or the server is draining.
        """
        await self._administered().load(name)

    async def unload_model(self, name: str) -> None:
        """Let a model answer what it has and no more, stop it, and give its memory back, in all workers;
        return when they have. It stays registered, and can be loaded again.

        Raises:
            ModelNotFound: no such model.
            ModelNotReady: a worker could not, or has not in time.
            ServerNotReady: the workers have not all loaded their models yet, or the server is draining.
        """
        await self._administered().unload(name)

    def _administered(self) -> Administrator:
        if self._missing_workers:
            raise ServerNotReady(self._missing_workers)
        if self.administrator is None:
            raise HookNotImplemented("Models are loaded and unloaded where ModelServer.start() serves them.")
        return self.administrator
