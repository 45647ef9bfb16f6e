"""The versions of one model: which are wanted, which are there, and in what state each is.

A folder of versions holds one folder for each, named by a whole number (``0001/``), as TensorFlow Serving has
it. Newest means the highest number.

Rules of the room: numbers, names and states; nothing is loaded here and nothing waits. Who loads is
``version_keeper``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from modelserver.errors import ModelLoadError, UnknownLabel, VersionNotFound
from modelserver.model import Model
from modelserver.repository.model_folder import is_version

_log = logging.getLogger("modelserver.server")

MOST_ENDED = 16
"""Versions that have ended and are still told: a list that grows for ever is no help."""

LARGEST_VERSION = (1 << 63) - 1
"""TensorFlow Serving counts versions in 64 bits."""


class State(Enum):
    """Where a version is in its life, in TensorFlow Serving's words and numbers."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionStatus(NamedTuple):
    """The state of one version, and why it ended."""

    number: int
    state: State
    error_code: str = "OK"
    """A name of the gRPC status codes."""
    error_message: str = ""

    @classmethod
    def of(cls, number: int, state: int, error_code: str, error_message: str) -> VersionStatus:
        """As it was told by another worker."""
        return cls(number, State(state), error_code, error_message)


_LEAST_FIRST = (State.LOADING, State.START, State.UNLOADING, State.END, State.UNKNOWN, State.AVAILABLE)


def merged(workers: Sequence[Sequence[VersionStatus]]) -> list[VersionStatus]:
    """What the statuses of several workers are for all of them together, the newest first.

    A version is available if it is so in every worker. Else the state is that of the worker that is furthest
    behind.
    """
    by_number: dict[int, list[VersionStatus]] = {}
    for statuses in workers:
        for status in statuses:
            by_number.setdefault(status.number, []).append(status)
    found = []
    for number, statuses in by_number.items():
        if len(statuses) < len(workers):  # some worker has not seen it yet, or has it no longer
            unseen = (
                State.END if all(s.state in (State.UNLOADING, State.END) for s in statuses) else State.START
            )
            statuses.append(VersionStatus(number, unseen))
        found.append(min(statuses, key=lambda status: _LEAST_FIRST.index(status.state)))
    return sorted(found, reverse=True, key=lambda status: status.number)


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions in a folder are wanted.

    Args:
        latest: so many of the newest.
        everything: all that are there; ``latest`` does not count then.
        specific: these; ``latest`` does not count then.

    >>> VersionPolicy(latest=2).choose([1, 5, 3])
    {3, 5}
    >>> VersionPolicy(specific=frozenset((1, 9))).choose([1, 5, 3])
    {1}
    """

    latest: int = 1
    everything: bool = False
    specific: frozenset[int] = frozenset()

    def choose(self, numbers: Iterable[int]) -> set[int]:
        """Those that are wanted of the ``numbers`` that are there."""
        if self.specific:
            return set(self.specific & set(numbers))
        if self.everything:
            return set(numbers)
        return set(sorted(numbers)[-self.latest :])

    @property
    def takes_older(self) -> bool:
        """Whether an older version will do where none that is chosen can be loaded."""
        return not self.specific and not self.everything

    def __str__(self) -> str:
        if self.specific:
            return f"only {', '.join(map(str, sorted(self.specific)))}"
        return "all" if self.everything else f"the latest {self.latest}"


NEWEST = VersionPolicy()
"""Only the newest version, as TensorFlow Serving does it if it is told nothing."""


def _always(folder: Path) -> bool:
    return True


@dataclass(frozen=True)
class ModelFolder:
    """A folder of versions, to be served under one name.

    Args:
        name: of the model.
        path: of the folder; it holds one folder for each version, named by a whole number.
        build: makes the model of a version from its folder and number; it is loaded later.
        policy: which versions are served.
        labels: other names for versions: ``/v1/models/NAME/labels/stable``.
        is_watched: whether to look for new versions while serving.
        may_be_empty: an empty folder is waited for; else it is an error at the start.
        holds_model: looks at a version folder: is there enough of it to try and load it? Default: always.
    """

    name: str
    path: Path
    build: Callable[[Path, int], Model]
    policy: VersionPolicy = NEWEST
    labels: Mapping[str, int] = field(default_factory=dict)
    is_watched: bool = True
    may_be_empty: bool = False
    holds_model: Callable[[Path], bool] = _always

    def found(self) -> dict[int, Path]:
        """The version folders by number. Of two names for one number the last in sort order wins, as in
        TensorFlow Serving.

        Raises:
            OSError: the folder cannot be read.
        """
        numbered: dict[int, Path] = {}
        for child in sorted(self.path.iterdir()):
            if is_version(child.name) and int(child.name) <= LARGEST_VERSION and child.is_dir():
                numbered[int(child.name)] = child
        return numbered


class Configuration(Protocol):
    """Which folders are to be served, where that may change while the server runs."""

    poll_s: float
    """How often to look for a change; 0: never."""

    def changed(self) -> list[ModelFolder] | None:
        """All folders to serve, if that has changed since the last time; runs on a thread.

        Raises:
            ModelLoadError: the new configuration is wrong; what is served stays.
        """

    def parsed(self, text: str) -> list[ModelFolder]:
        """All folders that another configuration names: a ``ModelServerConfig`` as text.

        Raises:
            InvalidInput: it is wrong.
        """


class ModelVersions:
    """The versions of one model in this process.

    Attributes:
        folder: where they come from.
        models: those that can be asked, by number.
        pending: those that are yet to be loaded, by number.
        paths: the folders of all that were made.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.models: dict[int, Model] = {}
        self.pending: dict[int, Model] = {}
        self.paths: dict[int, Path] = {}
        self._statuses: dict[int, VersionStatus] = {}

    def begin(self) -> None:
        """Look into the folder, and make the models of the versions that are wanted; nothing is loaded yet.

        Also in a worker that begins later than its supervisor: what was wanted then may not be wanted now.

        Raises:
            ModelLoadError: there is nothing to serve.
            Exception: what ``build`` raised, if no version can be made.
        """
        name = self.folder.name
        try:
            found = self.folder.found()
        except OSError as error:
            if self.all_models():
                return
            raise ModelLoadError(
                f"model {name}: its folder {self.folder.path} cannot be read: {error.strerror}."
            ) from error
        complete = [number for number, path in found.items() if self.folder.holds_model(path)]
        for number in sorted(found.keys() - complete):
            _log.warning(
                "model %s: version folder %s/ holds no model and is left out", name, found[number].name
            )
        wanted = self.folder.policy.choose(complete)
        for number in self.pending.keys() - wanted if wanted else ():
            self.pending.pop(number).stop()
        failure: Exception | None = None
        older = sorted(set(complete) - wanted) if self.folder.policy.takes_older else []
        for number in (*sorted(wanted - self.pending.keys()), *reversed(older)):
            if number in older and self.pending:
                break  # only where no version that is wanted can be made
            try:
                self.prepare(number, found[number])
            except Exception as error:
                failure = failure or error
                self.set_state(number, State.END, "INTERNAL", str(error))
        if self.pending or self.folder.may_be_empty:
            if failure is not None:
                _log.error("model %s: a version cannot be made: %s", name, failure, exc_info=failure)
            return
        raise failure or ModelLoadError(
            f"model {name}: none of the versions that are wanted is there. Found: "
            f"{', '.join(map(str, sorted(complete))) or 'none'}; wanted: {self.folder.policy}."
        )

    def prepare(self, number: int, path: Path) -> Model:
        """Make the model of a version, which is to be loaded next.

        Raises:
            ModelLoadError: it cannot be made.
        """
        self.paths[number] = path
        self.set_state(number, State.START)
        model = self.folder.build(path, number)
        model.version = number
        self.pending[number] = model
        return model

    def loaded(self, number: int) -> None:
        """A version can be asked now."""
        self.models[number] = self.pending.pop(number)
        self.set_state(number, State.AVAILABLE)

    def failed(self, number: int, error_message: str) -> None:
        """A version could not be loaded."""
        self.pending.pop(number, None)
        self.set_state(number, State.END, "INTERNAL", error_message)

    def set_aside(self) -> list[Model]:
        """Take out what is pending: it is not to be loaded.

        Returns:
            The models, which may be loaded already, in another process.
        """
        numbers = list(self.pending)
        for number in numbers:
            self.set_state(number, State.END)
        return [self.pending.pop(number) for number in numbers]

    def retire(self, number: int) -> Model:
        """A version can be asked no more. It answers what it has."""
        self.set_state(number, State.UNLOADING)
        return self.models.pop(number)

    def front(self) -> Model:
        """Who is asked where no version is named: the newest that is available, or else will be."""
        for models in (self.models, self.pending):
            if models:
                return models[max(models)]
        return Model(self.folder.name)  # nobody yet: it is not ready

    def all_models(self) -> list[Model]:
        """Those that can be asked, and those that are yet to be loaded."""
        return [*self.models.values(), *self.pending.values()]

    def set_state(self, number: int, state: State, error_code: str = "OK", error_message: str = "") -> None:
        """A version is in another state now."""
        self._statuses[number] = VersionStatus(number, state, error_code, error_message)
        ended = sorted(each for each, status in self._statuses.items() if status.state is State.END)
        for each in ended[:-MOST_ENDED]:
            del self._statuses[each]

    def statuses(self) -> list[VersionStatus]:
        """Of all versions that are known, the newest first."""
        return sorted(self._statuses.values(), reverse=True, key=lambda status: status.number)

    def asked_for(self, version: int | str) -> Model:
        """The model of a number or a label.

        Raises:
            VersionNotFound: no such version, or it is not available.
            UnknownLabel: no such label, or its version is not available.
        """
        if isinstance(version, str):
            number = self.folder.labels.get(version)
            if number is None or number not in self.models:
                raise UnknownLabel(version)
            return self.models[number]
        model = self.models.get(version)
        if model is None:
            raise VersionNotFound(self.folder.name, version)
        return model
