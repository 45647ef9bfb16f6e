"""How a version ends: it gets no request any more, answers what it has, stops, and its memory goes back.

Rules of the room: one version at a time; which one, and when, is ``version_keeper``'s business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from modelserver.dataplane import DataPlane
from modelserver.loading import Loader, give_memory_back
from modelserver.model import Model
from modelserver.repository.versions import ModelVersions, State

_log = logging.getLogger("modelserver.server")

_LOOK_S = 0.02
_QUIET_WITHIN_S = 10.0


class Unloader:
    """Ends versions that were retired.

    Args:
        dataplane: knows what waits for a model.
        loader: of this process.
        drain_s: how long a version may take to answer what it has; 0: as long as it takes.
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

    def unload(self, name: str, versions: ModelVersions, number: int) -> None:
        """From now on a version gets no request; the rest of its end comes by itself."""
        task = asyncio.ensure_future(self._end(name, versions, number, versions.retire(number)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for nothing more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, name: str, versions: ModelVersions, number: int, model: Model) -> None:
        until = time.monotonic() + self._drain_s
        while self._dataplane.waiting_for(model) or not self._loader.is_idle(model):
            if self._drain_s and time.monotonic() > until:
                _log.warning("Version %d of model %s still has work and is unloaded", number, name)
                break
            await asyncio.sleep(_LOOK_S)
        await self._loader.stop(model)
        self._loader.detach(model)
        self._dataplane.forget(model)
        versions.set_state(number, State.END)
        self._on_end()
        self._loader.say("Version %d of model %s is unloaded", number, name)
        del model
        await self._quiet_moment()
        await give_memory_back()

    async def _quiet_moment(self) -> None:
        """Wait until nobody waits for an answer: what comes takes 60 ms with torch imported."""
        until = time.monotonic() + _QUIET_WITHIN_S
        # A request sets no event when it ends.
        while self._dataplane.lifecycle.in_flight and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
