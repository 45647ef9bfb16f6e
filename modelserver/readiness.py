"""Which models there are, and what state they are in, in this worker and in all of them.

A client asks one worker and means the service. So what is asked here is answered from what this worker has
and what the others have told (``publishing``). Nothing is read for a request that wants a prediction.

Rules of the room: questions; nothing is changed. ``DataPlane`` is one of these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from modelserver.errors import ModelNotFound, ModelNotReady, ServerNotReady, VersionNotFound
from modelserver.lifecycle import Lifecycle
from modelserver.publishing import SHUTTING_DOWN, Publisher, WorkerState
from modelserver.repository.model_repository import ModelRepository, is_healthy
from modelserver.repository.versions import State, VersionStatus, merged
from modelserver.wording import scrubbed

_NOTHING_THERE = "no version is there"
_UNLOADED = "unloaded"  # Triton's word, which its clients look for
_INDEX_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
    State.UNKNOWN: "UNAVAILABLE",
}


class IndexEntry(NamedTuple):
    """A version of a model in the repository, in Triton's words."""

    name: str
    version: str
    """Its number; 1 for a model without versions; empty: there is none."""
    state: str
    """``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``."""
    reason: str
    """Why it is not available: ``unloaded``, or what went wrong."""


class Readiness:
    """What state the models are in.

    Args:
        repository: the models.
        lifecycle: of the process that serves them.

    Attributes:
        publisher: knows what all workers have, once the process serves.
    """

    def __init__(self, repository: ModelRepository, lifecycle: Lifecycle) -> None:
        self.repository = repository
        self.lifecycle = lifecycle
        self.publisher: Publisher | None = None

    def model_names(self) -> Sequence[str]:
        """Registered models, in the order of registration, ready or not."""
        return self.repository.names()

    def version_statuses(self, name: str) -> list[VersionStatus]:
        """The states of a model's versions, the newest first: available is what every worker has.

        A model without versions is version 1.

        Raises:
            ModelNotFound: no such model.
        """
        if self.repository.get_model(name) is None:
            raise ModelNotFound(name)
        statuses = self.repository.statuses(name)
        if name not in self.repository.versions:
            return statuses
        return merged([statuses, *(each.models.get(name, ()) for each in self._published())])

    async def check_model_here(self, name: str) -> None:
        """Return if this worker can answer requests for the model now.

        Raises:
            ModelNotFound: no such model.
            ModelNotReady: it is not loaded, says it is not healthy, or the server is draining.
            Exception: what its ``healthy`` raises.
        """
        model = self.repository.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        if self.lifecycle.draining:
            raise ModelNotReady(name, SHUTTING_DOWN)
        if name in self.repository.unloaded or not await is_healthy(model):
            raise ModelNotReady(name)

    async def check_model_ready(self, name: str, version: int | str | None = None) -> None:
        """Return if all workers can answer requests for the model, or for a version of it, now.

        Args:
            name: of the model.
            version: its number or a label; default: whichever is the newest in each worker.

        Raises:
            ModelNotFound: no such model.
            VersionNotFound: no such version, or it has ended.
            UnknownLabel: no such label.
            ModelNotReady: it is not loaded in some worker, says there that it is not healthy, or the server
                is draining, or not all of it has loaded yet.
            Exception: what its ``healthy`` raises.
        """
        if version is not None:
            self._check_version(name, version)
        await self.check_model_here(name)
        if self._missing_workers:
            raise ModelNotReady(name, self._missing_workers)
        self._check_others(name, () if self.publisher is None else self.publisher.others())

    async def check_ready(self) -> None:
        """Return if all workers can answer requests for every model now.

        A model that an administrator has unloaded does not count, as in Triton.

        Raises:
            ServerNotReady: a model is not ready in some worker, a worker has not loaded its models yet, or
                the server is draining.
            Exception: what the ``healthy`` of a model raises.
        """
        if self.lifecycle.draining:
            raise ServerNotReady(SHUTTING_DOWN)
        if self._missing_workers:
            raise ServerNotReady(self._missing_workers)
        others = () if self.publisher is None else self.publisher.others()
        unloaded = self.repository.unloaded.union(*(each.unloaded for each in others))
        for name in self.repository.names():
            if name not in unloaded:
                try:
                    await self.check_model_here(name)
                    self._check_others(name, others)
                except ModelNotReady as error:
                    raise ServerNotReady(str(error)) from error

    def index(self, only_ready: bool = False) -> list[IndexEntry]:
        """The models and their versions, in the order of registration, with what all workers together have.

        Args:
            only_ready: leave out the others.
        """
        told = self._published()
        entries = []
        for name in self.repository.names():
            workers = [self.repository.statuses(name), *(each.models.get(name, ()) for each in told)]
            if self._missing_workers:
                workers.append(())
            found = [
                IndexEntry(name, str(status.number), _INDEX_STATES[status.state], _reason(status))
                for status in reversed(merged(workers))
            ]
            reason = _UNLOADED if name in self.repository.unloaded else _NOTHING_THERE
            entries += found or [IndexEntry(name, "", "UNAVAILABLE", reason)]
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    def _published(self) -> list[WorkerState]:
        return [] if self.publisher is None else self.publisher.published()

    @property
    def _missing_workers(self) -> str:
        """What to say while the workers have not all loaded their models; empty: they have."""
        if self.publisher is None:
            return ""
        loaded, workers = self.publisher.loaded_workers(), self.publisher.workers
        return "" if loaded == workers else f"{loaded} of {workers} workers have loaded their models."

    def _check_version(self, name: str, version: int | str) -> None:
        """See that a version is available in every worker."""
        versions = self.repository.versions.get(name)
        if versions is not None and isinstance(version, str):
            version = versions.folder.labels.get(version, version)
        if versions is None or isinstance(version, str):
            self.repository.version(name, version)
            return
        status = next((each for each in self.version_statuses(name) if each.number == version), None)
        if status is None or status.state in (State.END, State.UNKNOWN):
            raise VersionNotFound(name, version)
        if status.state is not State.AVAILABLE:
            raise ModelNotReady(name, f"Version {version} is {_INDEX_STATES[status.state].lower()}.")

    def _check_others(self, name: str, others: Collection[WorkerState]) -> None:
        if not all(each.has_ready(name) for each in others):
            raise ModelNotReady(name, "Another worker is not ready for it.")


def _reason(status: VersionStatus) -> str:
    """Why a version is not available, for clients to read."""
    return scrubbed(status.error_message or _UNLOADED) if status.state is State.END else ""
