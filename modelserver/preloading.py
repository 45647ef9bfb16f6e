"""Loads models in the supervisor, before it forks: the workers inherit them and share their memory.

A model that each worker loads for itself is there N times: 240 MiB of weights in a TorchScript program took
469 MiB with one worker and 755 with two (measured). Inherited, it is there once, until somebody writes into
it. So a model that says ``loads_before_fork = True`` when the server starts is loaded here. Meanwhile this
process answers as a worker that is loading does, ``/`` with 200 and models with 503: a liveness probe must
not end a service whose model takes a minute.

What a fork does not take along is threads. Where loading leaves any behind, or initialises CUDA, the models
are dropped, and each worker runs the program again.

Rules of the room: from binding to the first worker, with several workers only. No request here comes near a
model: the application knows stand-ins with their names, since plans and batchers belong to one process.
"""

from __future__ import annotations

import asyncio
import enum
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from modelserver import launching, signals
from modelserver.dataplane import DataPlane
from modelserver.execution import ModelThreads
from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer
from modelserver.http.tls import Certificate
from modelserver.lifecycle import Lifecycle
from modelserver.loading import Loader
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.publishing import Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.rest.access import Access
from modelserver.rest.coding import BodySizes
from modelserver.rest.routes import Application
from modelserver.serving import Service
from modelserver.settings import Settings

_LINGER_S = 0.1  # what a client has begun to ask is answered; then its connection is closed
_THREADS_END_S = 1.0
_POLL_S = 0.002


class Outcome(enum.Enum):
    """What the supervisor can do next."""

    FORK = enum.auto()
    RUN_AGAIN = enum.auto()
    """Loading left threads behind: the models are dropped, and a fork would not work."""
    STOPPED = enum.auto()
    """There was a stop signal."""


def wanted(repository: ModelRepository) -> list[tuple[str, Model]]:
    """The models that are to be loaded here, with their names: they say so, and are not loaded yet."""
    return [
        (name, model)
        for name, model in repository.all_models()
        if not model.ready and getattr(model, "loads_before_fork", False)
    ]


def load_before_fork(
    repository: ModelRepository,
    settings: Settings,
    sockets: Sequence[socket.socket],
    access: Access,
    certificate: Certificate | None,
    metrics: Metrics | None,
) -> Outcome:
    """Load the models that are ``wanted``, and answer on ``sockets`` meanwhile.

    Raises:
        Exception: what a model's ``load`` raised.
    """
    models = wanted(repository)
    stand_ins = ModelRepository()
    for name in repository.names():
        stand_ins.update(Model(name))
    lifecycle = Lifecycle()
    dataplane = DataPlane(stand_ins, lifecycle, metrics=metrics)
    dataplane.publisher = Publisher(stand_ins, workers=settings.worker_count)  # none of them is there
    application = Application(
        dataplane,
        sizes=BodySizes.of(settings),
        access_log=settings.access_log,
        access_log_probes=settings.access_log_probes,
        access=access,
        metrics=metrics,
        monitoring_path=settings.monitoring_path,
        enable_cors=settings.enable_cors,
    )
    loader = _Loader(
        settings, stand_ins, lifecycle, application, sockets, certificate=certificate, metrics=metrics
    )
    threads = _threads()
    with asyncio.Runner() as runner:
        is_loaded = runner.run(loader.load(models))
        if metrics is not None:  # it serves no more
            metrics.worker_ended(metrics.memory.SUPERVISOR)
        if not is_loaded:
            return Outcome.STOPPED
        if _ends(threads) and launching.unforkable_runtime() is None:
            return Outcome.FORK
        runner.run(loader.drop(models))
    return Outcome.RUN_AGAIN


class _Loader(Service):
    """A serving process that loads and then stops serving, with its models still there."""

    async def load(self, models: Sequence[tuple[str, Model]]) -> bool:
        """Load ``models`` and answer meanwhile.

        Returns:
            False: there was a stop signal first.
        """
        stop = asyncio.Event()
        threads = ModelThreads("loading")
        server = HTTPServer(self.application, Limits.of(self.settings), certificate=self.certificate)
        server.is_draining = True  # each answer closes its connection: the next one reaches a worker
        await server.start([sock.dup() for sock in self.sockets])
        try:
            handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set}
            with signals.handled_on_loop(asyncio.get_running_loop(), handlers):
                loading = asyncio.ensure_future(self._load_all(models, threads))
                stopping = asyncio.ensure_future(stop.wait())
                await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if loading.done():
                    loading.result()
                    return not stop.is_set()
                loading.cancel()
                return False
        finally:
            threads.close()
            await server.stop_accepting()
            until = time.monotonic() + _LINGER_S
            while server.connections and time.monotonic() < until:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(_POLL_S)
            server.close()
            if self.application.access_log is not None:
                self.application.access_log.flush()

    async def _load_all(self, models: Sequence[tuple[str, Model]], threads: ModelThreads) -> None:
        loader = Loader(metrics=self.metrics)
        for name, model in models:
            model.attach_runner(threads)
            try:
                await loader.load(name, model)
            except Exception:
                if model.version is None:
                    raise
                # A worker tries again, and knows what to do where a version cannot be loaded.

    async def drop(self, models: Sequence[tuple[str, Model]]) -> None:
        """Give back the memory of models that nobody inherits."""
        threads, loader = ModelThreads("dropping"), Loader()
        for _, model in models:
            model.attach_runner(threads)
            await loader.stop(model)
        threads.close()


def _threads() -> frozenset[str]:
    """The threads of this process, those of libraries included."""
    return frozenset(task.name for task in Path("/proc/self/task").iterdir())


def _ends(before: frozenset[str]) -> bool:
    """Whether no other threads than those ``before`` are left. The one that loaded is about to end, and then
    its OpenMP helpers."""
    until = time.monotonic() + _THREADS_END_S
    while not _threads() <= before:
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True
