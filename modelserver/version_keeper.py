"""Keeps the versions that are served to what the folders hold.

    look at the folder -> what is wanted -> load what is missing -> let it take over -> unload the rest

A new version is loaded on threads of its own while the old one answers, and takes over when it is loaded and
warm. A version that cannot be loaded replaces nothing. A request is answered by the version that it began
with. Each worker does this for itself; the model board tells what all of them have.

These are TensorFlow Serving's rules, made safer in three places. A version's folder is loaded when two looks
in a row have found the same files in it, so a copy that is still being made is left alone. A folder whose
versions have all gone takes no model down: lost storage looks just like that. And a process that starts
where the newest version is broken serves the one before it, as the process did that it replaces.

Rules of the room: decides what to load and unload, and when; how is the business of ``version_loading`` and
``unloading``. All of it on the event loop, except for looking at files.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Set
from dataclasses import dataclass, field

from modelserver.dataplane import DataPlane
from modelserver.errors import ModelLoadError
from modelserver.failed_loads import Failures
from modelserver.fatal_loads import FatalLoads
from modelserver.loading import Loader
from modelserver.publishing import Publisher
from modelserver.repository.version_files import Files, look_at
from modelserver.repository.versions import ModelFolder, ModelVersions, State
from modelserver.unloading import Unloader
from modelserver.version_loading import VersionLoader

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
    """The look of a moment and that which somebody has asked for would load the same versions twice."""


class VersionKeeper:
    """Keeps the versions of all models of one process, from ``start`` until ``close``.

    Args:
        dataplane: the service, and its repository.
        loader: of this process.
        unloader: of this process.
        publisher: is told of what has changed, and knows what all workers have.
        fatal: what the workers of this number have died of.
        options: how.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        loader: Loader,
        unloader: Unloader,
        publisher: Publisher,
        fatal: FatalLoads,
        options: KeepingOptions,
    ) -> None:
        self._repository = dataplane.repository
        self._loader = loader
        self._unloader = unloader
        self._publisher = publisher
        self._fatal = fatal
        self._options = options
        self._versions = VersionLoader(self._repository, loader, publisher, fatal, options.retry_s)
        self._kept: dict[str, _Kept] = {}
        self._changing: dict[str, asyncio.Lock] = {}

    # -- from outside

    async def load_first(self) -> None:
        """Load the versions that are pending, the newest of each model first.

        In the place of a worker that has died, a model that no worker has is done without, and looked after:
        it must not take the others along.

        Raises:
            Exception: what the newest version of a model raised, if no version of it can be loaded.
        """
        for name, versions in list(self._repository.versions.items()):
            if name in self._repository.unloaded:
                continue
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
        """From now on folders are looked at."""
        for name in self._repository.versions:
            self._watch(name)

    async def close(self) -> None:
        """Look no more, and wait for no load."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def load(self, name: str) -> None:
        """Look at a folder now and load what is wanted of it; also of a model that was unloaded.

        Raises:
            ModelLoadError: a version that is wanted cannot be loaded, or there is none. Those that can be
                loaded are served all the same.
        """
        async with self._alone(name):
            versions = self._repository.versions[name]
            try:
                await self._look_now(versions, versions.folder)
            finally:
                if versions.models:
                    self._repository.unloaded -= {name}
                    self._watch(name)
                    self._publisher.publish()
            if not versions.models:
                raise ModelLoadError("None of the versions that are wanted is there.")

    async def unload(self, name: str) -> None:
        """Serve no version of a model, and look at its folder no more; return when all have ended."""
        async with self._alone(name):
            self._stop_watching(name)
            versions = self._repository.versions[name]
            self._repository.unloaded |= {name}
            ended = self._end_all(name, versions)
            self._repository.put_in_front(name)
            self._publisher.publish()
            await asyncio.gather(*ended)

    async def apply(self, folders: Collection[ModelFolder]) -> None:
        """Serve these folders and no others. Models that are no folders stay.

        Raises:
            Exception: what the first load raised that failed. The others are served all the same.
        """
        failure: Exception | None = None
        gone = self._repository.versions.keys() - {folder.name for folder in folders}
        for folder in folders:
            try:
                async with self._alone(folder.name):
                    await self._take(folder)
            except Exception as error:
                failure = failure or error
                _log.error("Model %s is not served as the configuration says: %s", folder.name, error)
        for name in gone:
            async with self._alone(name):
                self._drop(name)
        self._publisher.publish()
        if failure is not None:
            raise failure

    def _alone(self, name: str) -> asyncio.Lock:
        """Held by whoever changes how a model is served."""
        return self._changing.setdefault(name, asyncio.Lock())

    def _may_do_without(self, name: str) -> bool:
        """Whether this is no server's start, and no other worker has the model."""
        told = self._publisher.published()
        has_it = any(status.state is State.AVAILABLE for each in told for status in each.models.get(name, ()))
        return not has_it and (bool(told) or self._fatal.has_predecessor)

    # -- a folder

    async def _load_model(self, name: str, versions: ModelVersions) -> None:
        """Load what is pending, or an older version."""
        kept = self._kept.setdefault(name, _Kept())
        await self._versions.load_pending(name, versions, kept.failures)

    async def _take(self, folder: ModelFolder) -> None:
        """Serve a folder that is new, or is to be served in another way."""
        known = self._repository.versions.get(folder.name)
        if folder.name in self._repository.unloaded and (known or folder.name not in self._repository.models):
            self._repository.replace_versions(ModelVersions(folder))  # until an administrator loads it
            return
        if known is None:
            if folder.name in self._repository.models:
                raise ModelLoadError(f"model {folder.name} is there already, and comes from no configuration")
            await asyncio.to_thread(self._repository.add_folder, folder)
            for model in self._repository.versions[folder.name].all_models():
                self._loader.attach(folder.name, model)
            try:
                await self._load_model(folder.name, self._repository.versions[folder.name])
            finally:
                if self._publisher.is_serving:
                    self._watch(folder.name)  # also one that failed: it is tried again
        elif known.folder.path != folder.path:
            await self._move(known, folder)
        elif known.folder != folder:
            await self._look_now(known, folder)
        self._check_labels(self._repository.versions[folder.name])

    async def _look_now(self, versions: ModelVersions, folder: ModelFolder) -> None:
        """Load what is wanted, also what has failed before, and settled or not."""
        kept = self._kept.setdefault(folder.name, _Kept())
        async with kept.one_at_a_time:
            versions.folder = folder
            kept.failures.clear()
            await self._look(folder.name, kept, wait_until_settled=False)
        failed = [status for status in versions.statuses() if status.number in kept.failures.numbers]
        if failed:
            raise ModelLoadError(f"version {failed[0].number}: {failed[0].error_message}")

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
        self._end_all(name, versions)
        self._publisher.publish()

    def _end_all(self, name: str, versions: ModelVersions) -> list[asyncio.Task[None]]:
        for model in versions.set_aside():  # its load cannot be stopped, and nobody waits for it
            self._loader.detach(model)
        return [self._unloader.unload(name, versions, number) for number in list(versions.models)]

    def _stop_watching(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()

    def _watch(self, name: str) -> None:
        if name in self._repository.unloaded:
            return
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
            await self._versions.add(name, versions, kept.failures, number, found[number])
        self._release(name, versions, wanted)

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
        self._publisher.publish()


def _complain(kept: _Kept, complaint: str) -> None:
    if complaint and complaint != kept.complaint:
        _log.warning("%s", complaint)
    kept.complaint = complaint
