"""Follows the configuration that says which folders of versions are served, while the server runs.

It may change in two ways: the file that it comes from, which each worker looks at, or a client's call, which
reaches one worker and stands on the model board for all of them.

Rules of the room: when to apply which configuration; applying it is ``version_keeper``'s business, reading it
that of the ``Configuration``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from modelserver.errors import ModelLoadError, ModelServerError
from modelserver.model_board import ModelBoard
from modelserver.publishing import Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import Configuration, ModelFolder
from modelserver.version_keeper import VersionKeeper

_log = logging.getLogger("modelserver.server")

_BOARD_S = 0.1
_SUBJECT = "configuration"


class Configurator:
    """Follows a configuration in one process, from ``start`` until ``close``.

    Args:
        configuration: says which folders there are to be.
        keeper: of this process.
        publisher: of this process.
        board: of all workers; none where there is one process.
    """

    def __init__(
        self,
        configuration: Configuration,
        keeper: VersionKeeper,
        publisher: Publisher,
        board: ModelBoard | None = None,
    ) -> None:
        self._configuration = configuration
        self._keeper = keeper
        self._publisher = publisher
        self._board = board
        self._one_at_a_time = asyncio.Lock()
        self._tasks: list[asyncio.Task[Any]] = []

    def prepare(self, repository: ModelRepository) -> None:
        """Before anything is loaded: what the configuration says now, which may not be what it said when the
        program began. One that is wrong by now changes nothing: a worker that dies must not be the last one.
        """
        try:
            folders = self._configuration.changed()
        except ModelLoadError as error:
            _log.error("The new model configuration is not applied: %s", error)
            folders = None
        if self._board is not None and self._board.generation:
            generation, text = self._board.configuration()
            folders = self._configuration.parsed(text)
            self._publisher.has_followed(_SUBJECT, generation)
        if folders is None:
            return
        for name in repository.versions.keys() - {folder.name for folder in folders}:
            repository.remove_folder(name)
        for folder in folders:
            if folder.name in repository.versions:
                repository.versions[folder.name].folder = folder
            else:
                repository.add_folder(folder)

    async def catch_up(self) -> None:
        """Follow what clients have sent to other workers since ``prepare``, before requests come here: they
        were told that all workers do."""
        if self._board is not None and self._is_behind(self._board):
            await self._follow_once(self._board)

    def start(self) -> None:
        """Begin to follow."""
        if self._configuration.poll_s > 0:
            self._tasks.append(asyncio.ensure_future(self._follow_file(self._configuration.poll_s)))
        if self._board is not None:
            self._tasks.append(asyncio.ensure_future(self._follow_board(self._board)))

    async def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reload(self, text: str) -> None:
        """Let all workers serve what a client says; return when they do.

        Args:
            text: a ``ModelServerConfig`` in text form.

        Raises:
            InvalidInput: it is wrong.
            ModelLoadError: some model of it cannot be loaded. The others are served all the same.
        """
        folders = await asyncio.to_thread(self._configuration.parsed, text)
        if self._board is None:
            await self._apply(folders)
            return
        generation = self._board.configure(text)
        errors = await self._publisher.until_followed(_SUBJECT, generation)
        if errors:
            raise ModelLoadError(errors[0])

    async def _apply(self, folders: list[ModelFolder]) -> None:
        async with self._one_at_a_time:
            await self._keeper.apply(folders)

    async def _follow_file(self, poll_s: float) -> None:
        while True:
            await asyncio.sleep(poll_s)
            try:
                folders = await asyncio.to_thread(self._configuration.changed)
                if folders is not None:
                    _log.info("The model configuration has changed")
                    await self._apply(folders)
            except ModelServerError as error:
                _log.error("The new model configuration is not, or not wholly, applied: %s", error)
            except Exception:
                _log.exception("Following the model configuration failed")

    async def _follow_board(self, board: ModelBoard) -> None:
        while True:
            await asyncio.sleep(_BOARD_S)
            if self._is_behind(board):
                await self._follow_once(board)

    def _is_behind(self, board: ModelBoard) -> bool:
        followed = self._publisher.followed.get(_SUBJECT)
        return board.generation != (0 if followed is None else followed.generation)

    async def _follow_once(self, board: ModelBoard) -> None:
        generation, text = board.configuration()
        error = ""
        try:
            await self._apply(await asyncio.to_thread(self._configuration.parsed, text))
        except ModelServerError as failure:
            error = str(failure)
        except Exception as failure:
            _log.exception("Applying the model configuration failed")
            error = type(failure).__name__
        self._publisher.has_followed(_SUBJECT, generation, error)
