"""Loads and unloads models while the server runs, as an administrator orders, in all workers.

An order reaches one worker. It writes it on the model board, all follow, and the call returns when they have:

    {"iris": [7, "unload"]}        the last order for each model, with a generation that only grows

A worker that begins later reads the table before it loads anything. Orders for one model are done one after
the other; of two that are given at once the later one holds, and both calls return when it is done.

Rules of the room: which order, and whether all have done it. How a folder of versions is loaded is
``version_keeper``'s business, how a model ends that of ``unloading``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson

from modelserver.dataplane import DataPlane
from modelserver.errors import InvalidInput, ModelLoadError, ModelNotFound, ModelNotReady, ServerNotReady
from modelserver.fatal_loads import FatalLoads
from modelserver.loading import NOT_READY, Loader, keep_new
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.publishing import SHUTTING_DOWN, NotFollowed, Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import State
from modelserver.unloading import Unloader
from modelserver.version_keeper import VersionKeeper
from modelserver.wording import scrubbed, type_and_text

_log = logging.getLogger("modelserver.server")

WITHIN_S = 600.0
"""So long a call waits for all workers. A load has no limit of its own: a model may take minutes."""

_BOARD_S = 0.1
_MOST_DEATHS = 2
"""So many workers of a number may die of an order to load: the first may have been killed by somebody."""

_ORDER = -1  # in the place of a version, in the notes of what workers die of

Verb = Literal["load", "unload"]


class _Order(NamedTuple):
    generation: int
    verb: Verb


class Administrator:
    """Follows orders in one process, from ``start`` until ``close``.

    Args:
        dataplane: the service, and its repository.
        loader: of this process.
        unloader: of this process.
        keeper: of the folders of versions.
        publisher: of this process.
        fatal: what the workers of this number have died of.
        board: of all workers; none where there is one process.
        within_s: how long a call waits for all workers.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        loader: Loader,
        unloader: Unloader,
        keeper: VersionKeeper,
        publisher: Publisher,
        fatal: FatalLoads,
        board: ModelBoard | None = None,
        within_s: float = WITHIN_S,
    ) -> None:
        self._lifecycle = dataplane.lifecycle
        self._repository = dataplane.repository
        self._loader = loader
        self._unloader = unloader
        self._keeper = keeper
        self._publisher = publisher
        self._fatal = fatal
        self._board = board
        self._within_s = within_s
        self._looked_at = 0
        self._following: dict[str, asyncio.Task[None]] = {}
        self._obeying: set[asyncio.Task[str]] = set()
        self._one_at_a_time: dict[str, asyncio.Lock] = {}
        self._looking: asyncio.Task[None] | None = None
        self._inherited: list[tuple[str, Model]] = []
        self._made_by_repository: set[str] = set()
        """Names of the models that the user's ``ModelRepository.load`` has made, and can make again."""

    # -- the life of a worker

    def prepare(self) -> None:
        """Before anything is loaded: what has been ordered so far. What was loaded before the process was
        forked is from before the order."""
        repository = self._repository
        loop, here = asyncio.get_running_loop(), threading.get_ident()

        async def attach(name: str, model: Model) -> None:
            self._attach(name, model)

        def before_update(name: str, model: Model) -> None:
            if threading.get_ident() == here:
                self._attach(name, model)
            else:  # the user's `load` runs on a thread
                asyncio.run_coroutine_threadsafe(attach(name, model), loop).result()

        repository.before_update = before_update
        for name, order in self._orders().items():
            versions, model = repository.versions.get(name), repository.models.get(name)
            if order.verb == "unload":
                repository.unloaded |= {name}
            if versions is not None:
                aside = versions.set_aside() if order.verb == "unload" else []
                self._inherited += [(name, each) for each in aside if each.ready]
                # A folder is looked into anyway, and what it held at the order is in it or was replaced.
                self._publisher.has_followed(_subject(name), order.generation)
            elif model is not None and model.ready:
                self._inherited.append((name, model))
                model.ready = False

    def loads(self, name: str) -> bool:
        """Whether loading a model is left to ``catch_up``, or it is not to be loaded."""
        return name in self._repository.unloaded or self._next_order(name) is not None

    async def catch_up(self) -> None:
        """Follow what was ordered before requests come here: they were told that all workers do.

        What cannot be loaded does not take the others along.
        """
        inherited, self._inherited = self._inherited, []
        for name, model in inherited:
            self._attach(name, model)
            await self._unloader.end(name, model, detach=name in self._repository.versions)
        self._follow()
        await asyncio.gather(*self._following.values())

    def start(self) -> None:
        """Begin to follow."""
        if self._board is not None:
            self._looking = asyncio.ensure_future(self._follow_board(self._board))

    async def close(self) -> None:
        """Follow no more, and wait for no load."""
        self._repository.before_update = None
        tasks: list[asyncio.Task[Any]] = [*self._following.values(), *self._obeying]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- orders

    async def load(self, name: str) -> None:
        """Load a model in all workers, which have all loaded theirs. See ``DataPlane.load_model``."""
        if name not in self._repository.models and not self._can_make:
            raise ModelNotFound(name)
        try:
            await self._order("load", name)
        except (ModelNotFound, ModelNotReady):
            if name not in self._repository.models:
                self._take_back(name)
            raise

    async def unload(self, name: str) -> None:
        """Unload a model in all workers, which have all loaded theirs. See ``DataPlane.unload_model``."""
        if name not in self._repository.models:
            raise ModelNotFound(name)
        await self._order("unload", name)

    async def _order(self, verb: Verb, name: str) -> None:
        if self._lifecycle.draining:
            raise ServerNotReady(SHUTTING_DOWN)
        if self._board is None:
            error = await self._obeyed_here(verb, name)
        else:
            error = await self._obeyed_by_all(self._board, verb, name)
        unknown = ModelNotFound(name)
        if error == str(unknown):  # a repository of the user's has left the name to the server
            raise unknown
        if error:
            raise ModelNotReady(name, error)

    async def _obeyed_here(self, verb: Verb, name: str) -> str:
        task = asyncio.ensure_future(self._obey(verb, name))
        self._obeying.add(task)
        task.add_done_callback(self._obeying.discard)
        await asyncio.wait({task}, timeout=self._within_s)
        return task.result() if task.done() else self._late(NotFollowed(0, 1))

    def _late(self, late: NotFollowed) -> str:
        return (
            f"{late.done} of {late.workers} workers have done it within {self._within_s:g} s; "
            f"the others go on."
        )

    async def _obeyed_by_all(self, board: ModelBoard, verb: Verb, name: str) -> str:
        """Give an order, and wait until all workers have done it; what went wrong."""

        def written(before: bytes, generation: int) -> bytes:
            return orjson.dumps({**_table(before), name: (generation, verb)})

        there = len(self._publisher.published())
        try:
            generation = board.order(written)
        except ValueError as error:
            raise InvalidInput(f"The orders for all models have {error}.") from error
        self._follow()
        try:
            errors = await self._publisher.until_followed(
                _subject(name),
                generation,
                at_least=min(there, self._publisher.workers),
                within_s=self._within_s,
            )
        except NotFollowed as late:
            return self._late(late)
        return errors[0] if errors else ""

    def _take_back(self, name: str) -> None:
        """An order for a name that nobody knows: later workers need not try it again."""
        if self._board is not None:
            self._board.order(
                lambda before, _: orjson.dumps(
                    {other: order for other, order in _table(before).items() if other != name}
                )
            )

    # -- following

    def _orders(self) -> Mapping[str, _Order]:
        table = {} if self._board is None else _table(self._board.orders())
        return {name: _Order(*order) for name, order in table.items()}

    async def _follow_board(self, board: ModelBoard) -> None:
        while True:
            if board.orders_generation != self._looked_at:
                self._looked_at = board.orders_generation
                self._follow()
            await asyncio.sleep(_BOARD_S)

    def _follow(self) -> None:
        """Begin what is to be done and not being done."""
        for name in self._orders():
            if name not in self._following and self._next_order(name) is not None:
                self._following[name] = asyncio.ensure_future(self._follow_orders(name))

    def _next_order(self, name: str) -> _Order | None:
        order, followed = self._orders().get(name), self._publisher.followed.get(_subject(name))
        return order if order and (followed is None or followed.generation < order.generation) else None

    async def _follow_orders(self, name: str) -> None:
        try:
            while order := self._next_order(name):
                error = await self._obey_and_live(order, name)
                self._publisher.has_followed(_subject(name), order.generation, error)
        finally:
            del self._following[name]  # not a turn later, when a new order may have come

    async def _obey_and_live(self, order: _Order, name: str) -> str:
        """Do it, unless that has ended the workers before this one."""
        told = (order.generation,)
        if self._fatal.deaths(name, _ORDER, told) >= _MOST_DEATHS:
            error = "The worker process died while it loaded this model."
            if name in self._repository.models and name not in self._repository.versions:
                self._repository.set_state(name, State.END, error)
            _log.error("Model %s: %s failed: %s", name, order.verb, error)
            return error
        self._fatal.begins(name, _ORDER, told)
        try:
            return await self._obey(order.verb, name)
        finally:
            self._fatal.ended(name, _ORDER)

    async def _obey(self, verb: Verb, name: str) -> str:
        """Do it in this worker.

        Returns:
            What went wrong, for clients to read.
        """
        async with self._one_at_a_time.setdefault(name, asyncio.Lock()):
            try:
                await (self._load(name) if verb == "load" else self._unload(name))
            except Exception as error:
                is_told = isinstance(error, ModelLoadError | ModelNotFound | ModelNotReady)
                told = scrubbed(str(error)).removeprefix(f"model {name}: ")
                text = told if is_told else type_and_text(error)
                _log.error("Model %s: %s failed: %s", name, verb, text, exc_info=None if is_told else error)
                model = self._repository.models.get(name)
                if name not in self._repository.versions and model is not None and not model.ready:
                    self._repository.set_state(name, State.END, text)
                return text
            finally:
                self._publisher.publish()
        return ""

    # -- in this worker

    @property
    def _can_make(self) -> bool:
        """Whether the user's repository makes models by their names."""
        return type(self._repository).load is not ModelRepository.load

    async def _load(self, name: str) -> None:
        repository = self._repository
        if name in repository.versions:
            await self._keeper.load(name)
            return
        if name in repository.models:
            repository.set_state(name, State.LOADING)
            self._publisher.publish()
        if not (self._can_make and await self._load_by_repository(name)):
            await self._load_registered(name)
        model = repository.models.get(name)
        if model is None or not model.ready:
            raise ModelLoadError(NOT_READY)
        repository.unloaded -= {name}
        keep_new()

    async def _load_by_repository(self, name: str) -> bool:
        """Call the ``load`` that the user has written; whether it knows the model."""
        repository = self._repository
        before = repository.models.get(name)
        try:
            if inspect.iscoroutinefunction(repository.load):
                await repository.load(name)
            else:
                result = await asyncio.to_thread(repository.load, name)
                if inspect.isawaitable(result):
                    await result
        except NotImplementedError:
            return False
        for other, model in list(repository.models.items()):
            self._attach(other, model)  # what came in without `update`
        if repository.models.get(name) is not before:
            self._made_by_repository.add(name)
            if before is not None:
                self._unloader.replaced(name, before)
        return True

    async def _load_registered(self, name: str) -> None:
        """Load a model once more: another one from the same files where that can be made, which takes over
        when it is loaded; else the same object, whose ``load`` is called again."""
        model = self._repository.models.get(name)
        if model is None:
            raise ModelNotFound(name)
        if model.replacement is None:
            await self._loader.load(name, model)
            return
        new = await asyncio.to_thread(model.replacement)
        new.replacement = model.replacement
        self._attach(name, new)
        try:
            if not await self._loader.load(name, new):
                raise ModelLoadError(NOT_READY)
        except Exception:
            self._loader.detach(new)
            raise
        self._repository.update(new, name)
        self._unloader.replaced(name, model)

    async def _unload(self, name: str) -> None:
        repository = self._repository
        if name in repository.versions:
            await self._keeper.unload(name)
            return
        model = repository.models.get(name)
        repository.unloaded |= {name}
        if model is not None and model.ready:
            model.ready = False
            repository.set_state(name, State.UNLOADING)
            self._publisher.publish()
            is_made_again = name in self._made_by_repository
            await self._unloader.end(name, model, detach=is_made_again)
            if is_made_again:
                repository.models[name] = Model(name)  # so that its memory is free, whatever `stop` does
        elif model is None and self._can_make:
            repository.models[name] = Model(name)  # in the place of a worker that had it
        repository.set_state(name, State.END)

    def _attach(self, name: str, model: Model) -> None:
        """Give a model its threads, if it has none."""
        if id(model) not in self._loader.threads:
            self._loader.attach(name, model)


def _subject(name: str) -> str:
    return f"model {name}"


def _table(text: bytes) -> dict[str, Any]:
    return orjson.loads(text) if text else {}
