"""How a model ends: it gets no request any more, answers what it has, stops, and its memory goes back.

Rules of the room: one model or version at a time; which one, and when, is the business of ``version_keeper``
and ``administering``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from modelserver.dataplane import DataPlane
from modelserver.loading import Loader, give_memory_back, titled
from modelserver.model import Model
from modelserver.repository.versions import ModelVersions, State

_log = logging.getLogger("modelserver.server")

_LOOK_S = 0.02
_QUIET_WITHIN_S = 10.0


class Unloader:
    """Ends models that get no request any more.

    Args:
        dataplane: knows what waits for a model.
        loader: of this process.
        drain_s: how long a model may take to answer what it has; 0: as long as it takes.
        on_end: called when one has ended.
    """

    def __init__(
        self, dataplane: DataPlane, loader: Loader, drain_s: float, on_end: Callable[[], None]
    ) -> None:
        self._dataplane = dataplane
        self._loader = loader
        self._drain_s = drain_s
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = False
        self._giving_back: asyncio.Task[None] | None = None

    def unload(self, name: str, versions: ModelVersions, number: int) -> asyncio.Task[None]:
        """From now on a version gets no request; the rest of its end comes by itself.

        Returns:
            What ends when it has stopped.
        """
        return self._begin(self._end_version(name, versions, number, versions.retire(number)))

    def replaced(self, name: str, model: Model) -> None:
        """Another model has the name now. The end of this one comes by itself."""
        self._begin(self.end(name, model))

    async def end(self, name: str, model: Model, *, detach: bool = True) -> None:
        """Let a model answer what it has, and stop it. It must get no request any more.

        Args:
            name: of the model.
            model: that is to end.
            detach: it is not loaded again, and needs no threads.
        """
        until = time.monotonic() + self._drain_s
        while self._dataplane.waiting_for(model) or not self._loader.is_idle(model):
            if self._drain_s and time.monotonic() > until:
                _log.warning("Model %s still has work and is unloaded", titled(name, model))
                break
            await asyncio.sleep(_LOOK_S)
        await self._loader.stop(model)
        if detach:
            self._loader.detach(model)
            self._dataplane.forget(model)
        self._loader.say("Model %s is unloaded", titled(name, model))
        self._give_memory_back()

    async def close(self) -> None:
        """Wait for nothing more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_version(self, name: str, versions: ModelVersions, number: int, model: Model) -> None:
        await self.end(name, model)
        versions.set_state(number, State.END)
        self._on_end()

    def _begin(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(ending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _give_memory_back(self) -> None:
        """Soon, and at once for all that end until then."""
        self._has_ended = True
        if self._giving_back is None or self._giving_back.done():
            self._giving_back = self._begin(self._in_quiet_moments())

    async def _in_quiet_moments(self) -> None:
        """Wait until nobody waits for an answer: what comes takes 60 ms with torch imported."""
        while self._has_ended:
            until = time.monotonic() + _QUIET_WITHIN_S
            await asyncio.sleep(_LOOK_S)  # whoever has ended a model still holds it
            # A request sets no event when it ends.
            while self._dataplane.lifecycle.in_flight and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            self._has_ended = False
            await give_memory_back()
