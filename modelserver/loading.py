"""Loads and stops the models of one process, each on threads of its own, and says how that went.

Rules of the room: one model at a time; which one, and when, is decided by ``serving`` at the start and by
``version_keeper`` and ``administering`` later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import time
from typing import Any

from modelserver.errors import ModelLoadError
from modelserver.execution import ModelThreads
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.signatures import inputs_and_outputs
from modelserver.wording import type_and_text

_log = logging.getLogger("modelserver.server")

NOT_READY = "load() returned but ready is still False."
"""Why a model is not ready whose ``load`` has not failed."""

_STOP_MODEL_S = 2.0
_FREED_LATER_S = 1.0


class Loader:
    """Loads and stops models.

    Args:
        model_threads: for each model's synchronous hooks.
        metrics: of this process.
        announce: log each load; one worker of several does.

    Attributes:
        threads: of the models that were attached, by the model's identity.
    """

    def __init__(
        self, model_threads: int = 1, metrics: Metrics | None = None, *, announce: bool = True
    ) -> None:
        self.threads: dict[int, ModelThreads] = {}
        self._model_threads = model_threads
        self._metrics = metrics
        self._announce = announce

    def say(self, message: str, *values: object) -> None:
        """Log what every worker does; one of several is enough."""
        (_log.info if self._announce else _log.debug)(message, *values)

    def attach(self, name: str, model: Model) -> None:
        """Give a model its threads, in the process that serves it: a fork copies no thread."""
        threads = ModelThreads(
            titled(name, model),
            self._model_threads,
            inline=model.never_waits,
            metrics=None if self._metrics is None else self._metrics.model(name),
        )
        model.attach_runner(threads)
        self.threads[id(model)] = threads

    def detach(self, model: Model) -> None:
        """Let a model's threads end, if it has some yet."""
        threads = self.threads.pop(id(model), None)
        if threads is not None:
            threads.close()

    def is_idle(self, model: Model) -> bool:
        """Whether no call of a model runs or waits; of one that was never attached, none does."""
        threads = self.threads.get(id(model))
        return threads is None or threads.is_idle

    async def load(self, name: str, model: Model) -> bool:
        """Run a model's ``load``.

        Returns:
            Whether it is ready.

        Raises:
            Exception: what ``load`` raised; a ``ModelLoadError`` with the model's name in front.
        """
        started = time.perf_counter()
        metrics = None if self._metrics is None else self._metrics.model(name)
        try:
            is_ready = await model.run_load()
        except Exception as error:
            if metrics is not None:
                metrics.load_failed(error)
                if model.version is not None:
                    metrics.version_failed(model.version, error)
            if isinstance(error, ModelLoadError):
                raise ModelLoadError(f"model {titled(name, model)}: {error}") from error
            raise
        threads = self.threads.get(id(model))
        if threads is not None:
            threads.inline = model.never_waits  # which `load` may have found out
        if is_ready:
            elapsed = time.perf_counter() - started
            if metrics is not None:
                metrics.loaded(elapsed)
                if model.version is not None:
                    metrics.version_loaded(model.version, elapsed)
                if model.warm_up_s is not None:
                    metrics.warmed_up(model.warm_up_s)
            self.say("Model %s loaded in %.2f s%s", titled(name, model), elapsed, await _described(model))
        else:
            _log.warning(
                "Model %s: load() returned but ready is still False, so requests for it get 503. End "
                "load() with `self.ready = True` or `return True`.",
                name,
            )
        return is_ready

    async def stop(self, model: Model) -> None:
        """Call the model's ``stop``, which waits for its thread; one that hangs is left behind."""
        try:
            await asyncio.wait_for(model.run_hook(model.stop), _STOP_MODEL_S)
        except TimeoutError:
            _log.warning("stop() of model %s did not end within %g s", model.name, _STOP_MODEL_S)
        except Exception:
            _log.exception("stop() of model %s failed", model.name)

    def close(self) -> None:
        """Let all threads end."""
        for threads in self.threads.values():
            threads.close()


def titled(name: str, model: Model) -> str:
    """A model's name, and its version if it is one of several."""
    return name if model.version is None else f"{name} version {model.version}"


def keep_for_good() -> None:
    """Tell the garbage collector to look no more at what is there now.

    What is loaded now lives as long as the process: with torch imported, a full collection takes 60 ms, and
    decoding nested JSON triggers one every other request (measured; frozen: none).
    """
    gc.collect()
    gc.freeze()


def keep_new() -> None:
    """The same for what was loaded meanwhile, at no cost; what was garbage by then is found by
    ``give_memory_back``."""
    gc.collect(1)
    gc.freeze()


async def give_memory_back() -> None:
    """Return to the system what an unloaded model had: cycles that were frozen, and free blocks of malloc."""
    gc.unfreeze()
    keep_for_good()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        for _ in range(2):  # a framework's own threads may free the last of it a moment later
            await asyncio.to_thread(ctypes.CDLL(None).malloc_trim, 0)
            await asyncio.sleep(_FREED_LATER_S)


async def _described(model: Model) -> str:
    """Framework, inputs and outputs of a model that knows them, for the line at start-up."""
    parts = [model.platform] if model.platform else []
    try:
        described = await inputs_and_outputs(model)
        for label, types in zip(("inputs", "outputs"), described, strict=True):
            shown = ", ".join(_described_type(item) for item in types)
            if shown:
                parts.append(f"{label} {shown}")
    except Exception as error:  # no reason not to serve it; who asks for them is told
        _log.warning("Model %s does not say its inputs and outputs: %s", model.name, type_and_text(error))
    return f" ({'; '.join(parts)})" if parts else ""


def _described_type(item: Any) -> str:
    return f"{item['name']} {item['datatype']}{list(item['shape'])}"
