"""Upgrade after upgrade under load: nothing may grow, and no request may be lost.

The versions are copies of one model, so every answer must stay the same.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from load import Connection, Load, Request, get

VERSION = "/v1/models/model"
REQUESTS_EACH = 500
"""Asked during and after each upgrade, at least."""


@dataclass
class Folder:
    """A folder of versions, in which one takes the place of another.

    Args:
        path: of the folder.
        model: a folder that holds the model.
        number: of the version that is there.
    """

    path: Path
    model: Path
    number: int = 0

    @classmethod
    def of(cls, archive: Path, where: Path) -> Folder:
        """The first version of a packaged model."""
        with tarfile.open(archive) as packed:
            packed.extractall(where / "unpacked", filter="data")
        model = where / "unpacked"
        if (model / "0001").is_dir():
            model /= "0001"
        folder = cls(where / "model", model)
        folder.path.mkdir()
        folder.upgrade()
        return folder

    def upgrade(self) -> None:
        """Let the next version appear."""
        self.number += 1
        shutil.copytree(self.model, self.path.parent / "incoming")
        (self.path.parent / "incoming").rename(self.path / str(self.number))

    def forget(self) -> None:
        """Remove the version before."""
        shutil.rmtree(self.path / str(self.number - 1))


async def upgraded(port: int, folder: Folder, load: Load) -> None:
    """Upgrade once while the load goes on; return when the version before has ended in every worker.

    Raises:
        WrongAnswer: an answer was not right.
    """
    folder.upgrade()
    wanted = {str(folder.number): "AVAILABLE", str(folder.number - 1): "END"}
    connection = Connection(port)
    try:
        while not wanted.items() <= (await _states(connection)).items():
            await load.run(REQUESTS_EACH // 5)
    finally:
        connection.leave()
    folder.forget()
    await load.run(REQUESTS_EACH)


async def _states(connection: Connection) -> dict[str, str]:
    body = await connection.ask(Request("states", get(VERSION), 200))
    return {each["version"]: each["state"] for each in json.loads(body)["model_version_status"]}
