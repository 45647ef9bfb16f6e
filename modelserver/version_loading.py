"""Loads versions of a model, the one it is told to or the best that can be had, and notes those that fail.

Rules of the room: one call, one model; when to call, and which versions are wanted, is ``version_keeper``'s
business. What is served stays until something better is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from modelserver.errors import ModelLoadError
from modelserver.failed_loads import Failures
from modelserver.fatal_loads import FatalLoads
from modelserver.loading import NOT_READY, Loader, keep_new
from modelserver.publishing import Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.version_files import Files, files_in, look_at
from modelserver.repository.versions import ModelVersions, State

_log = logging.getLogger("modelserver.server")


class VersionLoader:
    """Loads versions.

    Args:
        repository: the models.
        loader: of this process.
        publisher: is told of what has changed.
        fatal: what the workers of this number have died of.
        retry_s: after which time a load that failed is tried again.
    """

    def __init__(
        self,
        repository: ModelRepository,
        loader: Loader,
        publisher: Publisher,
        fatal: FatalLoads,
        retry_s: float,
    ) -> None:
        self._repository = repository
        self._loader = loader
        self._publisher = publisher
        self._fatal = fatal
        self._retry_s = retry_s

    async def load_pending(self, name: str, versions: ModelVersions, failures: Failures) -> None:
        """Load what is pending, the newest first, or an older version.

        Raises:
            Exception: what the newest version raised, if no version can be loaded.
        """
        fatal = await self._set_fatal_aside(name, versions, failures)
        failed: dict[int, Exception] = {}
        for number in sorted(versions.pending, reverse=True):
            failure = await self._load(name, versions, failures, number)
            if failure is not None:
                failed[number] = failure
        if (failed or fatal) and not versions.models:
            await self._load_an_older_one(name, versions, failures)
        for number in fatal if not versions.models else ():  # then it is that or nothing
            await self.add(name, versions, failures, number, versions.paths[number])
        if failed and not versions.models:
            raise failed[max(failed)]
        for number, failure in failed.items():
            _tell_failure(name, number, failure)

    async def add(
        self, name: str, versions: ModelVersions, failures: Failures, number: int, path: Path
    ) -> None:
        """Load a version that is not pending yet."""
        failure: Exception | None
        files = await asyncio.to_thread(files_in, path)
        try:
            model = await asyncio.to_thread(versions.prepare, number, path)
            self._loader.attach(name, model)
        except Exception as error:
            failure = error
            self._has_failed(versions, failures, number, error, files)
        else:
            failure = await self._load(name, versions, failures, number)
        if failure is not None:
            _tell_failure(name, number, failure)

    async def _set_fatal_aside(self, name: str, versions: ModelVersions, failures: Failures) -> list[int]:
        """Take out of what is pending the versions that the last worker died of: they come later or never."""
        fatal = []
        for number in sorted(versions.pending, reverse=True):
            files = await asyncio.to_thread(files_in, versions.paths[number])
            deaths = self._fatal.deaths(name, number, files)
            if deaths and not versions.pending[number].ready:
                self._loader.detach(versions.pending[number])
                failures.add(number, files, self._retry_s, deaths)
                versions.failed(number, "The worker process died while it loaded this version.")
                _log.error(
                    "Version %d of model %s: the worker died while it loaded this version", number, name
                )
                fatal.append(number)
        return fatal

    async def _load_an_older_one(self, name: str, versions: ModelVersions, failures: Failures) -> None:
        """No version that is wanted can be loaded: serve the newest that can, where the latest is wanted."""
        if not versions.folder.policy.takes_older:
            return
        found, _ = await asyncio.to_thread(look_at, versions.folder, frozenset())
        for number in sorted(found.keys() - failures.numbers, reverse=True):
            await self.add(name, versions, failures, number, found[number])
            if versions.models:
                _log.error("Model %s: version %d is served, since none that is newer can be", name, number)
                return

    async def _load(
        self, name: str, versions: ModelVersions, failures: Failures, number: int
    ) -> Exception | None:
        """Load a version that is pending, and let it take over if it is the newest.

        Returns:
            Why it could not be loaded.
        """
        model = versions.pending[number]
        if not model.ready:  # else the supervisor has loaded it
            versions.set_state(number, State.LOADING)
            self._publisher.publish()
            files = await asyncio.to_thread(files_in, versions.paths[number])
            try:
                self._fatal.begins(name, number, files)
                try:
                    if not await self._loader.load(name, model):
                        raise ModelLoadError(NOT_READY)
                finally:
                    self._fatal.ended(name, number)
            except Exception as error:
                self._loader.detach(model)
                self._has_failed(versions, failures, number, error, files)
                return error
        versions.loaded(number)
        self._repository.put_in_front(name)
        failures.forget(number)
        self._publisher.publish()
        keep_new()
        return None

    def _has_failed(
        self, versions: ModelVersions, failures: Failures, number: int, error: Exception, files: Files
    ) -> None:
        """Note what was tried in vain: ``files`` as they were before, since they may be whole by now."""
        failures.add(number, files, self._retry_s)
        versions.failed(number, str(error))
        self._publisher.publish()


def _tell_failure(name: str, number: int, failure: Exception) -> None:
    cause = None if isinstance(failure, ModelLoadError) else failure  # which says all there is to say
    _log.error("Version %d of model %s cannot be loaded: %s", number, name, failure, exc_info=cause)
