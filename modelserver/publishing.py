"""What this worker has, written for the others and for whoever looks at the metrics; and what they have.

    {"number": 0, "models": {"iris": [[1, 30, "OK", ""]]}, "unloaded": [], "unhealthy": [],
     "followed": {"configuration": [3, ""], "model iris": [7, "model iris: weights are bad"]}}

What a client has told one worker stands on the model board with a generation. A worker that has done it
writes that generation down here, beside what went wrong, and so whoever was asked knows when all have.

Rules of the room: states in, texts out, and back. It changes no model, and decides nothing of what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import orjson

from modelserver.errors import ServerNotReady
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.repository.model_repository import ModelRepository, is_healthy
from modelserver.repository.versions import State, VersionStatus

_log = logging.getLogger("modelserver.server")

_HEALTH_S = 1.0
"""Between two looks at what the models say of themselves, for the other workers to know."""

_FOLLOWED_S = 0.02
SHUTTING_DOWN = "The server is shutting down."


class Followed(NamedTuple):
    """What a worker has done of what it was told last."""

    generation: int = 0
    error: str = ""


class WorkerState(NamedTuple):
    """What one worker has told."""

    number: int
    models: Mapping[str, Sequence[VersionStatus]]
    """By name, the versions; a model without versions is version 1."""
    unloaded: Collection[str]
    """Names of the models that an administrator has unloaded."""
    unhealthy: Collection[str]
    """Names of the models that are loaded and say that they are not healthy."""
    followed: Mapping[str, Followed]
    """By subject."""

    def has_ready(self, name: str) -> bool:
        """Whether requests for a model can be answered in that worker."""
        statuses = self.models.get(name, ())
        return name not in self.unhealthy and any(each.state is State.AVAILABLE for each in statuses)

    @classmethod
    def of(cls, text: bytes) -> WorkerState:
        """As it was written."""
        told = orjson.loads(text)
        models = {
            name: [VersionStatus.of(*each) for each in statuses] for name, statuses in told["models"].items()
        }
        followed = {subject: Followed(*each) for subject, each in told["followed"].items()}
        return cls(told["number"], models, told["unloaded"], told["unhealthy"], followed)


class NotFollowed(Exception):
    """Some workers have not done in time what they were told.

    Args:
        done: how many have.
        workers: how many there are.
    """

    def __init__(self, done: int, workers: int) -> None:
        super().__init__(done, workers)
        self.done, self.workers = done, workers


class Publisher:
    """Tells what this worker has, from ``start`` until ``close``.

    Args:
        repository: the models.
        metrics: of this process.
        board: what all workers have; none where there is one process.
        number: of this worker.
        workers: how many there are to be.

    Attributes:
        is_serving: everything is loaded, and the process does not leave.
        followed: what this worker has done of what it was told, by subject.
        unhealthy: names of the models that are loaded and say that they are not healthy, as of the last look.
    """

    def __init__(
        self,
        repository: ModelRepository,
        metrics: Metrics | None = None,
        board: ModelBoard | None = None,
        number: int = 0,
        workers: int = 1,
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._board = board
        self._number = number
        self.workers = workers
        self.is_serving = False
        self.followed: dict[str, Followed] = {}
        self.unhealthy: frozenset[str] = frozenset()
        self._text = b""
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on the models of this worker can be asked."""
        self.is_serving = True
        self.publish()
        self.loaded_workers()  # if this is the last one, that is worth knowing for good
        if self._board is not None and self._looking is None:
            self._looking = asyncio.ensure_future(self._look_after_health())

    async def close(self) -> None:
        """From now on this worker has nothing."""
        self.is_serving = False
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._board is not None:
            self._board.publish(self._number, b"")

    def publish(self) -> None:
        """Something has changed: tell it."""
        if self._metrics is not None:
            self._show(self._metrics)
        if self._board is None or not self.is_serving:
            return
        text = self._written()
        if text == self._text:
            return
        try:
            self._board.publish(self._number, text)
            self._text = text
        except ValueError as error:
            _log.warning("The states of the models are not told to the other workers: %s", error)

    def has_followed(self, subject: str, generation: int, error: str = "") -> None:
        """This worker has done what it was told."""
        self.followed[subject] = Followed(generation, error)
        self.publish()

    def published(self) -> list[WorkerState]:
        """What all workers have told, this one among them."""
        return [] if self._board is None else [WorkerState.of(text) for text in self._board.texts()]

    def others(self) -> list[WorkerState]:
        """What the other workers have told."""
        return [each for each in self.published() if each.number != self._number]

    def loaded_workers(self) -> int:
        """How many workers have what they are to have.

        Once they all had it, a worker that is missing is being replaced, takes no connection and counts as
        loaded; not so this one.
        """
        if self._board is None:
            return int(self.is_serving)
        told = len(self._board.texts())
        if self.is_serving and told >= self.workers and not self._board.has_started:
            self._board.started()
        if self.is_serving and self._board.has_started:
            return self.workers
        return min(told, self.workers - 1)

    async def until_followed(
        self, subject: str, generation: int, *, at_least: int = 0, within_s: float = math.inf
    ) -> list[str]:
        """Wait until all workers have done what stands on the board with a generation.

        Args:
            subject: what it is about.
            generation: its number.
            at_least: so many must have; then one that dies meanwhile is waited for, until its successor has.
            within_s: how long to wait.

        Returns:
            What went wrong in the workers, unless what they were told later has taken its place.

        Raises:
            NotFollowed: that time is over.
            ServerNotReady: this process is told to stop.
        """
        until = time.monotonic() + within_s
        while True:
            told = [each.followed.get(subject, Followed()) for each in self.published()]
            done = [each for each in told if each.generation >= generation]
            if len(done) == len(told) >= at_least:
                return [each.error for each in done if each.error and each.generation == generation]
            if not self.is_serving:
                raise ServerNotReady(SHUTTING_DOWN)
            if time.monotonic() > until:
                raise NotFollowed(len(done), max(len(told), at_least))
            await asyncio.sleep(_FOLLOWED_S)

    def _show(self, metrics: Metrics) -> None:
        for name, versions in self._repository.versions.items():
            metrics.model(name).show_versions(versions.models)
        for name, model in self._repository.get_models().items():
            metrics.model(name).ready.set(self.is_serving and model.ready)

    def _written(self) -> bytes:
        repository = self._repository
        models = {
            name: [[status.number, status.state.value, *status[2:]] for status in repository.statuses(name)]
            for name in repository.names()
        }
        return orjson.dumps(
            {
                "number": self._number,
                "models": models,
                "unloaded": sorted(repository.unloaded),
                "unhealthy": sorted(self.unhealthy),
                "followed": {subject: list(each) for subject, each in self.followed.items()},
            }
        )

    async def _look_after_health(self) -> None:
        """Ask the models of themselves again and again: the other workers cannot."""
        while True:
            await asyncio.sleep(_HEALTH_S)
            models = list(self._repository.get_models().items())
            self.unhealthy = frozenset(
                [name for name, model in models if model.ready and not await _says_healthy(model)]
            )
            self.publish()


async def _says_healthy(model: Model) -> bool:
    """What a model says of itself. One that fails to, or takes long, is not healthy."""
    if type(model).healthy is Model.healthy:
        return model.ready
    with contextlib.suppress(Exception):  # a request for its readiness is answered with what is wrong
        async with asyncio.timeout(_HEALTH_S):
            return await is_healthy(model)
    return False
