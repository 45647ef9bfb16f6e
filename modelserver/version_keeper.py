"""Keeps the versions that are served to what the folders hold.

    look at the folder -> what is wanted -> load what is missing -> let it take over -> unload the rest

A new version is loaded on threads of its own while the old one answers, and takes over when it is loaded and
warm. A version that cannot be loaded replaces nothing. A request is answered by the version that it began
with. Each worker does this for itself; the model board tells what all of them have.

These are TensorFlow Serving's rules, made safer in three places. A version's folder is loaded when two looks
in a row have found the same files in it, so a copy that is still being made is left alone. A folder whose
versions have all gone takes no model down: lost storage looks just like that. And a process that starts
where the newest version is broken serves the one before it, as the process did that it replaces.

Rules of the room: decides what to load and unload, and when; how is ``loading``'s business. All of it on the
event loop, except for looking at files.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from modelserver.dataplane import DataPlane
from modelserver.errors import ModelLoadError
from modelserver.failed_loads import Failures
from modelserver.fatal_loads import FatalLoads
from modelserver.loading import Loader, keep_new
from modelserver.model_board import ModelBoard
from modelserver.repository.version_files import Files, files_in, look_at
from modelserver.repository.versions import ModelFolder, ModelVersions, State
from modelserver.unloading import Unloader

_log = logging.getLogger("modelserver.server")

_SETTLE_S = 1.0
"""Between the two looks that must find the same files in a new version's folder, at most."""


@dataclass(frozen=True)
class KeepingOptions:
    """How versions are kept; times in seconds.

    Args:
        poll_s: between two looks at a folder; 0 or less: only at the start.
        drain_s: how long an old version may take to answer what it has; 0: as long as it takes.
        retries: how often a load that failed is tried again, as long as the folder does not change.
        retry_s: after which time.
        labels_may_wait: a label may be given to a version that is not available yet.
    """

    poll_s: float = 1.0
    drain_s: float = 60.0
    retries: int = 5
    retry_s: float = 60.0
    labels_may_wait: bool = False


@dataclass
class _Kept:
    """What is known of one folder, beside its versions."""

    settling: dict[int, Files] = field(default_factory=dict)
    """What the last look has found in versions that are to be loaded."""
    failures: Failures = field(default_factory=Failures)
    complaint: str = ""
    """What was logged last of the folder: it is said once."""
    task: asyncio.Task[None] | None = None
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The look of a moment and that of a new configuration would load the same versions twice."""


class VersionKeeper:
    """Keeps the versions of all models of one process, from ``start`` until ``close``.

    Args:
        dataplane: the service, and its repository.
        loader: of this process.
        options: how.
        board: what all workers have; none where there is one process.
        number: of this worker.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        loader: Loader,
        options: KeepingOptions,
        board: ModelBoard | None = None,
        number: int = 0,
    ) -> None:
        self._dataplane = dataplane
        self._repository = dataplane.repository
        self._loader = loader
        self._options = options
        self._board = board
        self._number = number
        self._fatal = FatalLoads(board, number)
        self._kept: dict[str, _Kept] = {}
        self._unloader = Unloader(dataplane, loader, options.drain_s, self.publish)
        self._is_serving = False
        self.configured = (0, "")
        """Generation of the configuration that is followed, and what is wrong with it."""

    # -- from outside

    async def load_first(self) -> None:
        """Load the versions that are pending, the newest of each model first.

        In the place of a worker that has died, a model that no worker has is done without, and looked after:
        it must not take the others along.

        Raises:
            Exception: what the newest version of a model raised, if no version of it can be loaded.
        """
        for name, versions in list(self._repository.versions.items()):
            try:
                await self._load_model(name, versions)
            except Exception as error:
                if not self._may_do_without(name):
                    raise
                _log.error("Model %s is not served, and tried again later: %s", name, error)
                continue
            try:
                self._check_labels(versions)
            except ModelLoadError as error:
                if not self._fatal.has_predecessor:
                    raise
                _log.error("%s", error)  # the version went while the server ran, and that ends no service

    def start(self) -> None:
        """From now on the models of this worker can be asked, and folders are looked at."""
        self._is_serving = True
        self.publish()
        for name in self._repository.versions:
            self._watch(name)

    async def close(self) -> None:
        """Look no more, and wait for no load."""
        self._is_serving = False
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._unloader.close()
        if self._board is not None:
            self._board.publish(self._number, b"")

    async def apply(self, folders: Collection[ModelFolder]) -> None:
        """Serve these folders and no others. Models that are no folders stay.

        Raises:
            Exception: what the first load raised that failed. The others are served all the same.
        """
        failure: Exception | None = None
        gone = self._repository.versions.keys() - {folder.name for folder in folders}
        for folder in folders:
            try:
                await self._take(folder)
            except Exception as error:
                failure = failure or error
                _log.error("Model %s is not served as the configuration says: %s", folder.name, error)
        for name in gone:
            self._drop(name)
        self.publish()
        if failure is not None:
            raise failure

    def publish(self) -> None:
        """Tell the other workers, and whoever looks at the metrics, what this one has."""
        metrics = self._dataplane.metrics
        if metrics is not None:
            for name, versions in self._repository.versions.items():
                metrics.model(name).show_versions(versions.models)
                metrics.model(name).ready.set(self._is_serving and bool(versions.models))
        if self._board is None or not self._is_serving:
            return
        generation, error = self.configured
        models = {
            name: [[status.number, status.state.value, *status[2:]] for status in versions.statuses()]
            for name, versions in self._repository.versions.items()
        }
        text = orjson.dumps({"generation": generation, "error": error, "models": models})
        try:
            self._board.publish(self._number, text)
        except ValueError as error_of_board:
            _log.warning("The states of the models are not told to the other workers: %s", error_of_board)

    def published(self) -> list[dict[str, Any]]:
        """What all workers have told."""
        return [] if self._board is None else [orjson.loads(text) for text in self._board.texts()]

    def _may_do_without(self, name: str) -> bool:
        """Whether this is no server's start, and no other worker has the model."""
        told = self.published()
        has_it = any(
            state == State.AVAILABLE.value for each in told for _, state, *_ in each["models"].get(name, ())
        )
        return not has_it and (bool(told) or self._fatal.has_predecessor)

    # -- a folder

    async def _load_model(self, name: str, versions: ModelVersions) -> None:
        """Load what is pending, or an older version."""
        kept = self._kept.setdefault(name, _Kept())
        fatal = await self._set_fatal_aside(name, versions, kept)
        failed: dict[int, Exception] = {}
        for number in sorted(versions.pending, reverse=True):
            failure = await self._load(name, versions, kept, number)
            if failure is not None:
                failed[number] = failure
        if (failed or fatal) and not versions.models:
            await self._load_an_older_one(name, versions, kept)
        for number in fatal if not versions.models else ():  # then it is that or nothing
            await self._add(name, versions, kept, number, versions.paths[number])
        if failed and not versions.models:
            raise failed[max(failed)]
        for number, failure in failed.items():
            _tell_failure(name, number, failure)

    async def _take(self, folder: ModelFolder) -> None:
        """Serve a folder that is new, or is to be served in another way."""
        known = self._repository.versions.get(folder.name)
        if known is None:
            if folder.name in self._repository.models:
                raise ModelLoadError(f"model {folder.name} is there already, and comes from no configuration")
            await asyncio.to_thread(self._repository.add_folder, folder)
            for model in self._repository.versions[folder.name].all_models():
                self._loader.attach(folder.name, model)
            try:
                await self._load_model(folder.name, self._repository.versions[folder.name])
            finally:
                if self._is_serving:
                    self._watch(folder.name)  # also one that failed: it is tried again
        elif known.folder.path != folder.path:
            await self._move(known, folder)
        elif known.folder != folder:
            kept = self._kept.setdefault(folder.name, _Kept())
            async with kept.one_at_a_time:
                known.folder = folder
                kept.failures.clear()
                await self._look(folder.name, kept, wait_until_settled=False)
            failed = [status for status in known.statuses() if status.number in kept.failures.numbers]
            if failed:
                raise ModelLoadError(f"version {failed[0].number}: {failed[0].error_message}")
        self._check_labels(self._repository.versions[folder.name])

    async def _move(self, known: ModelVersions, folder: ModelFolder) -> None:
        """Serve a model from another folder: its version 1 is not the version 1 of before."""
        name, moved = folder.name, ModelVersions(folder)
        await asyncio.to_thread(moved.begin)
        for model in moved.all_models():
            self._loader.attach(name, model)
        self._stop_watching(name)
        try:
            await self._load_model(name, moved)
        except Exception:
            for model in moved.all_models():
                self._loader.detach(model)
            del self._kept[name]
            self._watch(name)  # the folder of before, which goes on
            raise
        self._repository.replace_versions(moved)
        self._retire(name, known)
        self._watch(name)

    def _check_labels(self, versions: ModelVersions) -> None:
        """A label of a version that nobody can ask is a mistake, unless the user says that it may wait."""
        folder = versions.folder
        unavailable = [label for label, number in folder.labels.items() if number not in versions.models]
        if unavailable and not self._options.labels_may_wait:
            raise ModelLoadError(
                f"model {folder.name}: the label {unavailable[0]} is for version "
                f"{folder.labels[unavailable[0]]}, which is not available. Serve that version first "
                f"(model_version_policy), or allow it with --allow_version_labels_for_unavailable_models."
            )

    def _drop(self, name: str) -> None:
        """Serve a model no more."""
        self._stop_watching(name)
        versions = self._repository.versions[name]
        self._repository.remove_folder(name)
        self._retire(name, versions)

    def _retire(self, name: str, versions: ModelVersions) -> None:
        """End all versions of a folder that is served no more."""
        for model in versions.pending.values():  # its load cannot be stopped, and nobody waits for it
            self._loader.detach(model)
        for number in list(versions.models):
            self._unloader.unload(name, versions, number)
        self.publish()

    def _stop_watching(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()

    def _watch(self, name: str) -> None:
        if self._options.poll_s > 0 and self._repository.versions[name].folder.is_watched:
            kept = self._kept.setdefault(name, _Kept())
            if kept.task is None:
                kept.task = asyncio.ensure_future(self._keep(name, kept))

    async def _keep(self, name: str, kept: _Kept) -> None:
        """Look at one folder again and again."""
        while True:
            poll_s = self._options.poll_s
            await asyncio.sleep(min(poll_s, _SETTLE_S) if kept.settling else poll_s)
            try:
                async with kept.one_at_a_time:
                    await self._look(name, kept)
            except Exception:  # whatever it is: what is served stays, and the next look may go better
                _log.exception("Looking after the versions of model %s failed", name)

    async def _look(self, name: str, kept: _Kept, *, wait_until_settled: bool = True) -> None:
        """See what a folder holds, load what is missing, unload what is not wanted."""
        versions = self._repository.versions[name]
        try:
            found, files = await asyncio.to_thread(look_at, versions.folder, frozenset(versions.models))
        except OSError as error:
            _complain(
                kept, f"the folder of model {name} cannot be read ({error.strerror}); what is served stays"
            )
            return
        wanted = versions.folder.policy.choose(found)
        if not wanted and versions.models:
            _complain(
                kept, f"no version of model {name} that is wanted is in its folder; what is served stays"
            )
            return
        _complain(kept, "")
        missing = [number for number in sorted(wanted, reverse=True) if number in files]
        before, kept.settling = kept.settling, {}
        for number in missing:
            if kept.failures.has_given_up(number, files[number], self._options.retries):
                continue
            if wait_until_settled and before.get(number) != files[number]:
                kept.settling[number] = files[number]
                continue
            await self._add(name, versions, kept, number, found[number])
        self._release(name, versions, wanted)

    async def _add(self, name: str, versions: ModelVersions, kept: _Kept, number: int, path: Path) -> None:
        """Load a version that is not pending yet."""
        failure: Exception | None
        files = await asyncio.to_thread(files_in, path)
        try:
            model = await asyncio.to_thread(versions.prepare, number, path)
            self._loader.attach(name, model)
        except Exception as error:
            failure = error
            self._has_failed(versions, kept, number, error, files)
        else:
            failure = await self._load(name, versions, kept, number)
        if failure is not None:
            _tell_failure(name, number, failure)

    async def _set_fatal_aside(self, name: str, versions: ModelVersions, kept: _Kept) -> list[int]:
        """Take out of what is pending the versions that the last worker died of: they come later or never."""
        fatal = []
        for number in sorted(versions.pending, reverse=True):
            files = await asyncio.to_thread(files_in, versions.paths[number])
            deaths = self._fatal.deaths(name, number, files)
            if deaths and not versions.pending[number].ready:
                self._loader.detach(versions.pending[number])
                kept.failures.add(number, files, self._options.retry_s, deaths)
                versions.failed(number, "The worker process died while it loaded this version.")
                _log.error(
                    "Version %d of model %s: the worker died while it loaded this version", number, name
                )
                fatal.append(number)
        return fatal

    async def _load_an_older_one(self, name: str, versions: ModelVersions, kept: _Kept) -> None:
        """No version that is wanted can be loaded: serve the newest that can, where the latest is wanted."""
        if not versions.folder.policy.takes_older:
            return
        found, _ = await asyncio.to_thread(look_at, versions.folder, frozenset())
        for number in sorted(found.keys() - kept.failures.numbers, reverse=True):
            await self._add(name, versions, kept, number, found[number])
            if versions.models:
                _log.error("Model %s: version %d is served, since none that is newer can be", name, number)
                return

    async def _load(self, name: str, versions: ModelVersions, kept: _Kept, number: int) -> Exception | None:
        """Load a version that is pending, and let it take over if it is the newest.

        Returns:
            Why it could not be loaded.
        """
        model = versions.pending[number]
        if not model.ready:  # else the supervisor has loaded it
            versions.set_state(number, State.LOADING)
            self.publish()
            files = await asyncio.to_thread(files_in, versions.paths[number])
            try:
                self._fatal.begins(name, number, files)
                try:
                    if not await self._loader.load(name, model):
                        raise ModelLoadError("load() returned but ready is still False.")
                finally:
                    self._fatal.ended(name, number)
            except Exception as error:
                self._loader.detach(model)
                self._has_failed(versions, kept, number, error, files)
                return error
        versions.loaded(number)
        self._repository.put_in_front(name)
        kept.failures.forget(number)
        self.publish()
        keep_new()
        return None

    def _has_failed(
        self, versions: ModelVersions, kept: _Kept, number: int, error: Exception, files: Files
    ) -> None:
        """Note what was tried in vain: ``files`` as they were before, since they may be whole by now."""
        kept.failures.add(number, files, self._options.retry_s)
        versions.failed(number, str(error))
        self.publish()

    # -- the end of a version

    def _release(self, name: str, versions: ModelVersions, wanted: Set[int]) -> None:
        """Unload what is not wanted. For each version that is wanted and not there, the newest of the others
        stays."""
        extra = sorted(versions.models.keys() - wanted)
        missing = len(wanted - versions.models.keys())
        for number in extra[: max(0, len(extra) - missing)]:
            self._unload(name, versions, number)

    def _unload(self, name: str, versions: ModelVersions, number: int) -> None:
        self._unloader.unload(name, versions, number)
        self._repository.put_in_front(name)
        self.publish()


def _tell_failure(name: str, number: int, failure: Exception) -> None:
    cause = None if isinstance(failure, ModelLoadError) else failure  # which says all there is to say
    _log.error("Version %d of model %s cannot be loaded: %s", number, name, failure, exc_info=cause)


def _complain(kept: _Kept, complaint: str) -> None:
    if complaint and complaint != kept.complaint:
        _log.warning("%s", complaint)
    kept.complaint = complaint
