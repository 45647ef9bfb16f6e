"""``ModelRepository``: the registered models, by name. KServe's class, with its method names.

A model that comes from a folder of versions is here once for each version: under its name the newest that can
be asked, and all of them in ``versions``.

Rules of the room: a dictionary with a look-up that raises the right error. It runs no model and loads none
during a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from modelserver.errors import ModelNotFound, ModelNotReady, UnknownLabel, VersionNotFound
from modelserver.model import Model
from modelserver.repository.versions import ModelFolder, ModelVersions

MODEL_MOUNT_DIRS = "/mnt/models"


class ModelRepository:
    """The models of one server, in the order of registration.

    Args:
        models_dir: where ``load(name)`` of a subclass looks for models. Kept for KServe's signature.
    """

    versions: Mapping[str, ModelVersions] = MappingProxyType({})
    """By name, those of the models that come from a folder of versions."""

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
        versions.begin()
        self.replace_versions(versions)

    def look_again(self) -> None:
        """Look into all folders of versions once more, before anything is loaded: hours may lie between the
        supervisor's look and a worker's start.

        Raises:
            ModelLoadError: there is nothing to serve in one.
        """
        for name, versions in self.versions.items():
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

    async def is_model_ready(self, name: str) -> bool:
        """Whether the model exists and says it is healthy."""
        model = self.models.get(name)
        if model is None:
            return False
        healthy = model.healthy()
        return bool(await healthy if inspect.isawaitable(healthy) else healthy)

    def update(self, model: Model, name: str | None = None) -> None:
        """Register ``model``, replacing one of the same name."""
        self.models[name or model.name] = model

    def load(self, name: str) -> bool:
        """Load one model by name. Override it; the default knows no place to load from.

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
