"""``ModelRepository``: the registered models, by name. KServe's class, with its method names.

A model that comes from a folder of versions is here once for each version: under its name the newest that can
be asked, and all of them in ``versions``.

Rules of the room: a dictionary with a look-up that raises the right error, and notes of what an administrator
has unloaded. It runs no model and loads none during a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modelserver.errors import ModelNotFound, ModelNotReady, UnknownLabel, VersionNotFound
from modelserver.model import Model
from modelserver.repository.versions import ModelFolder, ModelVersions, State, VersionStatus

MODEL_MOUNT_DIRS = "/mnt/models"


async def is_healthy(model: Model) -> bool:
    """What a model says of itself; raises what its ``healthy`` raises."""
    healthy = model.healthy()
    return bool(await healthy if inspect.isawaitable(healthy) else healthy)


class ModelRepository:
    """The models of one server, in the order of registration.

    Args:
        models_dir: where ``load(name)`` of a subclass looks for models. Kept for KServe's signature.
    """

    versions: Mapping[str, ModelVersions] = MappingProxyType({})
    """By name, those of the models that come from a folder of versions."""

    unloaded: frozenset[str] = frozenset()
    """Names of the models that an administrator has unloaded: not loaded, and not to be."""

    _states: Mapping[str, VersionStatus] = MappingProxyType({})
    """Of models without versions that are not ready: what else they are."""

    before_update: Callable[[str, Model], object] | None = None
    """Called by ``update`` before anybody can ask the model; the server's."""

    def __init__(self, models_dir: str = MODEL_MOUNT_DIRS) -> None:
        self.models: dict[str, Model] = {}
        self.models_dir = models_dir

    def get_model(self, name: str) -> Model | None:
        """The model of that name, or ``None``."""
        return self.models.get(name)

    def get_models(self) -> Mapping[str, Model]:
        """All models by name, in the order of registration."""
        return self.models

    def names(self) -> Sequence[str]:
        """The names, in the order of registration."""
        return list(self.models)

    def ready_model(self, name: str) -> Model:
        """The model of that name, if it can take requests.

        Raises:
            ModelNotFound: no such model.
            ModelNotReady: it is not loaded (yet).
        """
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(name)
        if not model.ready:
            raise ModelNotReady(name)
        return model

    def version(self, name: str, version: int | str) -> Model:
        """A version of a model, by its number or by a label, if it can take requests.

        A model without versions is version 1.

        Raises:
            VersionNotFound: no such model or version, or it is not available.
            UnknownLabel: no such label.
            ModelNotReady: a model without versions is not loaded (yet).
        """
        versions = self.versions.get(name)
        if versions is not None:
            return versions.asked_for(version)
        if isinstance(version, str):
            if name not in self.models:
                raise ModelNotFound(name)
            raise UnknownLabel(version)
        if name not in self.models or version != 1:
            raise VersionNotFound(name, version)
        return self.ready_model(name)

    def add_folder(self, folder: ModelFolder) -> None:
        """Register a folder of versions, and make the models of those that are wanted. Nothing is loaded yet.

        Raises:
            ModelLoadError: the folder cannot be read, or there is nothing in it to serve.
        """
        versions = ModelVersions(folder)
        if folder.name not in self.unloaded:
            versions.begin()
        self.replace_versions(versions)

    def look_again(self) -> None:
        """Look into all folders of versions once more, before anything is loaded: hours may lie between the
        supervisor's look and a worker's start.

        Raises:
            ModelLoadError: there is nothing to serve in one.
        """
        for name, versions in self.versions.items():
            if name not in self.unloaded:
                versions.begin()
            self.put_in_front(name)

    def put_in_front(self, name: str) -> None:
        """Let requests that name no version go to the newest that is available."""
        versions = self.versions.get(name)
        if versions is not None:
            self.models[name] = versions.front()

    def replace_versions(self, versions: ModelVersions) -> None:
        """Serve a model from another folder."""
        name = versions.folder.name
        self.versions = {**self.versions, name: versions}
        self.models[name] = versions.front()

    def remove_folder(self, name: str) -> None:
        """Forget a model that comes from a folder of versions."""
        self.versions = {other: versions for other, versions in self.versions.items() if other != name}
        self.models.pop(name, None)

    def all_models(self) -> Iterator[tuple[str, Model]]:
        """Every model with its name, and each version that is loaded or yet to be loaded."""
        for name, model in self.models.items():
            versions = self.versions.get(name)
            if versions is None:
                yield name, model
            else:
                for version in versions.all_models():
                    yield name, version

    def statuses(self, name: str) -> list[VersionStatus]:
        """The states of the versions of a registered model, the newest first. One without versions is 1."""
        versions = self.versions.get(name)
        if versions is not None:
            return versions.statuses()
        if self.models[name].ready:
            return [VersionStatus(1, State.AVAILABLE)]
        return [self._states.get(name, VersionStatus(1, State.LOADING))]

    def set_state(self, name: str, state: State, error_message: str = "") -> None:
        """What a model without versions is while it is not ready; at first: loading."""
        code = "INTERNAL" if error_message else "OK"
        self._states = {**self._states, name: VersionStatus(1, state, code, error_message)}

    async def is_model_ready(self, name: str) -> bool:
        """Whether the model exists and says it is healthy."""
        model = self.models.get(name)
        return model is not None and await is_healthy(model)

    def update(self, model: Model, name: str | None = None) -> None:
        """Register ``model``, replacing one of the same name."""
        name = name or model.name
        if self.before_update is not None:
            self.before_update(name, model)
        self.models[name] = model

    def load(self, name: str) -> Any:
        """Load one model by name, when an administrator asks for it. Override it; the default knows no place.

        An override, ``def`` or ``async def``, makes the model, loads it, and registers it with ``update``. It
        runs in every worker, on a thread if it is ``def``. One that calls this method leaves the model to the
        server: a model that is registered has its own ``load`` called.

        Returns:
            Anything: whether the model is ready decides.

        Raises:
            NotImplementedError: always, here.
        """
        raise NotImplementedError("Override ModelRepository.load to load models by name.")

    def unload(self, name: str) -> None:
        """Stop the model and forget it.

        Raises:
            KeyError: no such model.
        """
        self.models.pop(name).stop()
