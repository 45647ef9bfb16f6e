"""``ModelRepository``: the registered models, by name. KServe's class, with its method names.

Rules of the room: a dictionary with a look-up that raises the right error. It runs no model and loads none
during a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from modelserver.errors import ModelNotFound, ModelNotReady
from modelserver.model import Model

MODEL_MOUNT_DIRS = "/mnt/models"


class ModelRepository:
    """The models of one server, in the order of registration.

    Args:
        models_dir: where ``load(name)`` of a subclass looks for models. Kept for KServe's signature.
    """

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
