"""The life of one serving process, in order: listen, load, answer, drain.

Rules of the room: one process and its event loop; other processes are ``workers``' business. Runs in the
user's own process with one worker, and in each worker otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from modelserver import signals
from modelserver.administering import Administrator
from modelserver.configuring import Configurator
from modelserver.errors import NoModelReady
from modelserver.fatal_loads import FatalLoads
from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer
from modelserver.http.tls import Certificate
from modelserver.lifecycle import Lifecycle
from modelserver.load_board import Slot
from modelserver.loading import NOT_READY, Loader, keep_for_good
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.publishing import Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import Configuration, State
from modelserver.rest import streaming
from modelserver.rest.routes import Application
from modelserver.rpc.server import MOST_RECEIVED, GrpcServer
from modelserver.settings import Settings
from modelserver.unloading import Unloader
from modelserver.version_keeper import KeepingOptions, VersionKeeper
from modelserver.watching import Watch, hung_after_s

_log = logging.getLogger("modelserver.server")

LINGER_S = 0.5
"""How long a draining process goes on accepting, and then how long it waits for idle connections to ask."""

_POLL_S = 0.02
_MAX_CURL_LINE = 2000
_MOST_HUNG = 8
"""Calls that may hang in a process that nobody replaces; each holds a thread and what it has in memory."""


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
    load_first: bool = False
    """Accept nothing before the models are loaded: other workers answer meanwhile."""
    slot: Slot | None = None
    """This worker's, where several share the connections."""
    certificate: Certificate | None = None
    """For HTTPS."""
    metrics: Metrics | None = None
    """What this process counts."""
    board: ModelBoard | None = None
    """What models each worker has, where there are several."""
    number: int = 0
    """This worker's."""
    configuration: Configuration | None = None
    """Which folders of versions are served, where that may change."""
    grpc_port: int = 0
    """That was reserved; 0: no gRPC."""

    def run(
        self,
        on_ready: Callable[[], None],
        on_hung: Callable[[], object] | None = None,
        orphaned: socket.socket | None = None,
    ) -> int:
        """Serve until told to stop, in a new event loop.

        Args:
            on_ready: called when every model is loaded.
            on_hung: called when a call of a model does not return: this process should be replaced. Without,
                it goes on, until too many threads are lost; then it stops.
            orphaned: becomes readable when the supervisor is gone; the process then stops as on SIGTERM.

        Returns:
            The exit status: 0 if everything that was taken was answered, 1 if not.

        Raises:
            Exception: what a model's ``load`` raised.
            NoModelReady: nothing to serve after loading.
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self._serve(on_ready, on_hung, orphaned))

    async def _serve(
        self,
        on_ready: Callable[[], None],
        on_hung: Callable[[], object] | None,
        orphaned: socket.socket | None,
    ) -> int:
        loop = asyncio.get_running_loop()
        if self.settings.max_asyncio_workers:
            loop.set_default_executor(ThreadPoolExecutor(self.settings.max_asyncio_workers))
        loader = Loader(self.settings.model_threads, self.metrics, announce=self.announce)
        dataplane = self.application.dataplane
        keepers = _Keepers.of(self, loader)
        keepers.prepare(self.repository)
        for name, model in self.repository.all_models():
            loader.attach(name, model)
        limits = Limits.of(self.settings)
        shares = self.settings.worker_count > 1
        http_server = HTTPServer(self.application, limits, self.slot if shares else None, self.certificate)
        grpc_server = self._grpc_server()

        async def listen() -> None:
            await http_server.start(self.sockets)
            if grpc_server is not None:
                await grpc_server.start()

        if not self.load_first:
            await listen()
        stop, stop_now = asyncio.Event(), asyncio.Event()

        def on_hung_call() -> None:
            if on_hung is not None:
                on_hung()
            elif watch.hung_calls >= _MOST_HUNG:
                _log.error("%d calls of models have not returned; stopping", watch.hung_calls)
                stop.set()

        watch = Watch(
            loader.threads,
            hung_after_s(self.settings.timeout),
            self.slot,
            on_hung_call,
            dataplane.look,
        )
        try:
            with _stop_signals(loop, orphaned, stop, stop_now):
                loading = asyncio.ensure_future(self._load(loader, keepers, on_ready))
                stopping = asyncio.ensure_future(stop.wait())
                await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    loading.result()
                    if keepers.configurator is not None:
                        keepers.configurator.start()
                    if self.load_first:
                        await listen()
                    await stopping
                else:
                    loading.cancel()
                await keepers.close()
                draining_grpc = asyncio.ensure_future(self._drain_grpc(grpc_server))
                status = await self._drain(http_server, stop_now)
                stopping_now = asyncio.ensure_future(stop_now.wait())
                await asyncio.wait((draining_grpc, stopping_now), return_when=asyncio.FIRST_COMPLETED)
                draining_grpc.cancel()
                stopping_now.cancel()
                return 1 if on_hung is None and watch.hung_calls >= _MOST_HUNG else status
        finally:
            watch.close()
            await keepers.close()
            await http_server.stop_accepting()
            http_server.close()
            if not stop_now.is_set():
                await streaming.all_closed(LINGER_S)  # and then the models stop
            if grpc_server is not None:
                await grpc_server.close()
            if self.application.access_log is not None:
                self.application.access_log.flush()
            if not stop_now.is_set():
                for _, model in self.repository.all_models():
                    if model.ready:  # not while its thread may still be loading it
                        await loader.stop(model)
            loader.close()

    def _grpc_server(self) -> GrpcServer | None:
        if not self.grpc_port:
            return None
        settings, application = self.settings, self.application
        received = settings.grpc_max_receive_message_length
        return GrpcServer(
            application.dataplane,
            self.grpc_port,
            settings.host,
            # A request that will never be let in is refused before it is there.
            most_received=min(settings.max_in_flight_bytes, MOST_RECEIVED) if received < 0 else received,
            most_sent=settings.grpc_max_send_message_length,
            api_keys=application.api_keys,
            admin_guard=application.admin_guard,
            metrics=self.metrics,
            access_log=application.access_log,
            memory=application.body_memory,
            certfile=settings.ssl_certfile,
            keyfile=settings.ssl_keyfile,
        )

    async def _drain_grpc(self, server: GrpcServer | None) -> None:
        if server is not None:
            await server.drain(self.settings.grace_period, LINGER_S)

    async def _load(self, loader: Loader, keepers: _Keepers, on_ready: Callable[[], None]) -> None:
        repository = self.repository
        for name, model in repository.get_models().items():
            if name in repository.versions or model.ready or keepers.administrator.loads(name):
                continue
            if not await loader.load(name, model):
                repository.set_state(name, State.END, NOT_READY)
        await keepers.keeper.load_first()
        if keepers.configurator is not None:
            await keepers.configurator.catch_up()
        await keepers.administrator.catch_up()
        ready = [model for model in repository.get_models().values() if model.ready]
        may_be_none = [versions.folder.may_be_empty for versions in repository.versions.values()]
        if not ready and not any(may_be_none) and not repository.unloaded:
            raise NoModelReady(repository.names())
        keep_for_good()
        self.lifecycle.loaded = True
        self._show_ready(ready)
        if self.slot is not None:
            self.slot.is_spare = False
        if self.announce:
            self._announce(ready)
        keepers.start()
        on_ready()

    def _show_ready(self, ready: Collection[Model]) -> None:
        if self.metrics is not None:
            for name, model in self.repository.get_models().items():
                self.metrics.model(name).ready.set(model in ready)

    def _announce(self, models: Sequence[Model]) -> None:
        port = self.sockets[0].getsockname()[1]
        for model in models:
            example = model.example_request()
            if example is None:
                continue
            body = orjson.dumps(example, option=orjson.OPT_SERIALIZE_NUMPY).decode()
            if len(body) > _MAX_CURL_LINE:
                _log.info("Model %s: a request of %d bytes works, too long to show", model.name, len(body))
                continue
            body = body.replace("'", "'\\''")
            scheme = "" if self.certificate is None else "-k https://"
            key = "" if self.application.api_keys is None else ' -H "X-API-Key: $KEY"'
            target = f"{scheme}localhost:{port}/v1/models/{model.name}:predict"
            _log.info("Try: curl %s%s -d '%s'", target, key, body)

    async def _drain(self, http_server: HTTPServer, stop_now: asyncio.Event) -> int:
        """Answer whatever was sent in time, then close the rest.

        A client cannot know yet that the server is leaving: for a moment new connections are still taken,
        for another one those that are open may still ask. Each answer closes its connection.
        """
        self.lifecycle.draining = True
        self._show_ready(())
        if self.slot is not None:
            self.slot.is_spare = True
        _log.info("Stopping: %d requests in flight", len(self.lifecycle.in_flight))
        http_server.is_draining = True
        deadline = time.monotonic() + self.settings.grace_period

        async def wait(while_true: Callable[[], object], at_most_s: float) -> None:
            until = min(time.monotonic() + at_most_s, deadline)
            while while_true() and time.monotonic() < until and not stop_now.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop_now.wait(), _POLL_S)

        await wait(lambda: True, LINGER_S)
        await http_server.stop_accepting()
        await wait(lambda: http_server.connections, LINGER_S)
        await wait(lambda: self.lifecycle.in_flight, self.settings.grace_period)
        await wait(lambda: http_server.is_busy, self.settings.grace_period)  # large answers on their way
        if not self.lifecycle.in_flight:
            return 0
        _log.warning("Stopped with %d requests unanswered", len(self.lifecycle.in_flight))
        return 1


@dataclass
class _Keepers:
    """Who decides what is loaded in one process, and who tells it to the others."""

    publisher: Publisher
    unloader: Unloader
    keeper: VersionKeeper
    administrator: Administrator
    configurator: Configurator | None

    @classmethod
    def of(cls, service: Service, loader: Loader) -> _Keepers:
        """For a service, which gets to know them."""
        dataplane, board = service.application.dataplane, service.board
        options, workers = _keeping(service.settings), service.settings.worker_count
        publisher = Publisher(service.repository, service.metrics, board, service.number, workers)
        unloader = Unloader(dataplane, loader, options.drain_s, publisher.publish)
        fatal = FatalLoads(board, service.number)
        keeper = VersionKeeper(dataplane, loader, unloader, publisher, fatal, options)
        administrator = Administrator(dataplane, loader, unloader, keeper, publisher, fatal, board)
        configurator = None
        if service.configuration is not None:
            configurator = Configurator(service.configuration, keeper, publisher, board)
        dataplane.publisher, dataplane.administrator = publisher, administrator
        dataplane.configurator = configurator
        return cls(publisher, unloader, keeper, administrator, configurator)

    def prepare(self, repository: ModelRepository) -> None:
        """Before anything is loaded: what is to be, by now."""
        self.administrator.prepare()
        if self.configurator is not None:
            self.configurator.prepare(repository)
        repository.look_again()

    def start(self) -> None:
        """What is loaded can be asked; it may change from now on."""
        self.publisher.start()
        self.keeper.start()
        self.administrator.start()

    async def close(self) -> None:
        """Change nothing more. May be called again."""
        if self.configurator is not None:
            await self.configurator.close()
        await self.administrator.close()
        await self.keeper.close()
        await self.unloader.close()
        await self.publisher.close()


def _keeping(settings: Settings) -> KeepingOptions:
    return KeepingOptions(
        poll_s=settings.file_system_poll_wait_seconds,
        drain_s=settings.timeout,
        retries=settings.max_num_load_retries,
        retry_s=settings.load_retry_interval_micros / 1e6,
        labels_may_wait=settings.allow_version_labels_for_unavailable_models,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed (extra ``fast``), asyncio's own otherwise."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _stop_signals(
    loop: asyncio.AbstractEventLoop,
    orphaned: socket.socket | None,
    stop: asyncio.Event,
    stop_now: asyncio.Event,
) -> Iterator[None]:
    """Set ``stop`` on the first stop signal, ``stop_now`` on the second or when the supervisor is gone."""

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    def on_orphaned() -> None:
        assert orphaned is not None
        loop.remove_reader(orphaned)
        _log.error("The supervisor is gone; stopping")
        stop.set()
        stop_now.set()

    # A terminal's signals are the supervisor's to act on, if there is one.
    numbers = (signal.SIGTERM, signal.SIGINT) if orphaned is None else (signal.SIGTERM,)
    with signals.handled_on_loop(loop, dict.fromkeys(numbers, on_signal)):
        if orphaned is not None:
            loop.add_reader(orphaned, on_orphaned)
        try:
            yield
        finally:
            if orphaned is not None:
                loop.remove_reader(orphaned)
