"""Models to load and unload while the server runs; what each does is told by files, as in ``versions.py``.

Each folder in $FOLDERS is a model with versions, each in $PLAIN a model without, and each in $SHELF one
that is loaded when an administrator asks for it.
"""

import os
from pathlib import Path

from versions import Scale, folder

import modelserver


class Shelf(modelserver.ModelRepository):
    """As users of KServe write it."""

    async def load(self, name):
        path = Path(os.environ["SHELF"]) / name
        if not path.is_dir():
            return super().load(name)
        model = Scale(name, path)
        model.load()
        self.update(model)
        return model.ready


def children(variable):
    return sorted(Path(os.environ[variable]).iterdir())


if __name__ == "__main__":
    versioned = [folder(path) for path in children("FOLDERS")]
    plain = [Scale(path.name, path) for path in children("PLAIN")]
    modelserver.ModelServer(registered_models=Shelf()).start([*versioned, *plain])
