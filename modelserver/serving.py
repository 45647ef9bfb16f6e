"""The life of one serving process, in order: listen, load, answer, drain.

Rules of the room: one process and its event loop; other processes are ``workers``' business. Runs in the
user's own process with one worker, and in each worker otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from tornado import httpserver

from modelserver.errors import NoModelReady
from modelserver.execution import ModelThreads
from modelserver.lifecycle import Lifecycle
from modelserver.model import Model
from modelserver.repository.model_repository import ModelRepository
from modelserver.rest.routes import Application
from modelserver.settings import Settings

_log = logging.getLogger("modelserver.server")

LINGER_S = 0.5
"""How long a draining process goes on accepting: a request that was sent before the client could know is
answered (with ``Connection: close``), not reset."""

_POLL_S = 0.02
_MAX_CURL_LINE = 2000


@dataclass
class Service:
    """What one process serves, and with what."""

    settings: Settings
    repository: ModelRepository
    lifecycle: Lifecycle
    application: Application
    sockets: Sequence[socket.socket]
    announce: bool = True
    """Log the models and their curl lines; one worker of several does."""

    def run(self, on_ready: Callable[[], None], orphaned: socket.socket | None = None) -> None:
        """Serve until told to stop, in a new event loop.

        Args:
            on_ready: called when every model is loaded.
            orphaned: becomes readable when the supervisor is gone; the process then stops as on SIGTERM.

        Raises:
            Exception: what a model's ``load`` raised.
            NoModelReady: nothing to serve after loading.
        """
        asyncio.run(self._serve(on_ready, orphaned))

    async def _serve(self, on_ready: Callable[[], None], orphaned: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        if self.settings.max_asyncio_workers:
            loop.set_default_executor(ThreadPoolExecutor(self.settings.max_asyncio_workers))
        threads = self._attach_threads()
        http_server = httpserver.HTTPServer(
            self.application,
            # The door bounds bodies itself, to answer 413 where tornado would close.
            max_body_size=2**62,
            idle_connection_timeout=self.settings.timeout_keep_alive,
        )
        http_server.add_sockets(self.sockets)
        try:
            with _stop_signals(loop, orphaned) as (stop, stop_now):
                loading = asyncio.ensure_future(self._load(on_ready))
                stopping = asyncio.ensure_future(stop.wait())
                await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    loading.result()
                    await stopping
                else:
                    loading.cancel()
                await self._drain(http_server, stop_now)
        finally:
            http_server.stop()
            await http_server.close_all_connections()
            for model in self.repository.get_models().values():
                await self._stop_model(model)
            for model_threads in threads:
                model_threads.close()

    def _attach_threads(self) -> list[ModelThreads]:
        """Give every model its threads, in this process: a fork copies no thread."""
        threads = []
        for name, model in self.repository.get_models().items():
            model_threads = ModelThreads(name, self.settings.model_threads)
            model.attach_runner(model_threads)
            threads.append(model_threads)
        return threads

    async def _load(self, on_ready: Callable[[], None]) -> None:
        for name, model in self.repository.get_models().items():
            if not model.ready:
                await self._load_model(name, model)
        ready = [model for model in self.repository.get_models().values() if model.ready]
        if not ready:
            raise NoModelReady(self.repository.names())
        # Models are garbage collector's ballast: with torch imported, a full collection takes 60 ms and
        # decoding JSON triggers one every other request (measured in the design notes).
        gc.collect()
        gc.freeze()
        self.lifecycle.loaded = True
        if self.announce:
            self._announce(ready)
        on_ready()

    async def _load_model(self, name: str, model: Model) -> None:
        started = time.perf_counter()
        loaded = await model.run_hook(model.load)
        if loaded is True:
            model.ready = True
        if model.ready:
            elapsed = time.perf_counter() - started
            (_log.info if self.announce else _log.debug)(
                "Model %s loaded in %.2f s%s", name, elapsed, _described(model)
            )
        else:
            _log.warning(
                "Model %s: load() returned but ready is still False, so requests for it get 503. End "
                "load() with `self.ready = True` or `return True`.",
                name,
            )

    def _announce(self, models: Sequence[Model]) -> None:
        port = self.sockets[0].getsockname()[1]
        for model in models:
            example = model.example_request()
            if example is None:
                continue
            body = orjson.dumps(example, option=orjson.OPT_SERIALIZE_NUMPY).decode()
            if len(body) > _MAX_CURL_LINE:
                body = "@request.json"
            body = body.replace("'", "'\\''")
            _log.info("Try: curl localhost:%d/v1/models/%s:predict -d '%s'", port, model.name, body)

    async def _drain(self, http_server: httpserver.HTTPServer, stop_now: asyncio.Event) -> None:
        """Answer what is in flight, refuse nothing that was sent in time, close the rest."""
        self.lifecycle.draining = True
        http_server.conn_params.no_keep_alive = True  # each answer from now on closes its connection
        deadline = time.monotonic() + self.settings.grace_period
        accept_until = min(time.monotonic() + LINGER_S, deadline)
        _log.info("Stopping: %d requests in flight", len(self.lifecycle.in_flight))
        accepting = True
        while not stop_now.is_set() and time.monotonic() < deadline:
            if accepting and time.monotonic() >= accept_until:
                http_server.stop()
                accepting = False
            if not accepting and not self.lifecycle.in_flight:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop_now.wait(), _POLL_S)
        _log.warning("Stopped with %d requests unanswered", len(self.lifecycle.in_flight))

    async def _stop_model(self, model: Model) -> None:
        try:
            await model.run_hook(model.stop)
        except Exception:
            _log.exception("stop() of model %s failed", model.name)


@contextlib.contextmanager
def _stop_signals(
    loop: asyncio.AbstractEventLoop, orphaned: socket.socket | None
) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Events that SIGTERM, SIGINT and the supervisor's end set: stop, and on the second call stop now."""
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    def on_orphaned() -> None:
        assert orphaned is not None
        loop.remove_reader(orphaned)
        _log.error("The supervisor is gone; stopping")
        stop.set()
        stop_now.set()

    on_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if on_main_thread else ()
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    if orphaned is not None:
        loop.add_reader(orphaned, on_orphaned)
    try:
        yield stop, stop_now
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        if orphaned is not None:
            loop.remove_reader(orphaned)


def _described(model: Model) -> str:
    """Framework, inputs and outputs of a model that knows them, for the line at start-up."""
    parts = [model.platform] if model.platform else []
    for label, types in (("inputs", model.get_input_types()), ("outputs", model.get_output_types())):
        shown = ", ".join(_described_type(item) for item in types)
        if shown:
            parts.append(f"{label} {shown}")
    return f" ({'; '.join(parts)})" if parts else ""


def _described_type(item: Any) -> str:
    return f"{item['name']} {item['datatype']}{list(item['shape'])}"
