"""``ModelServer``: the life of the service in order: bind, then serve here or supervise workers that do.

Rules of the room: the order of things, and KServe's constructor. The steps are ``serving`` (one process),
``workers`` (many) and ``launching`` (how one begins).
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from tornado import netutil

from modelserver import launching, logs, preloading, workers
from modelserver.dataplane import DataPlane
from modelserver.errors import ModelLoadError, NoModelReady, StartError
from modelserver.http.tls import Certificate
from modelserver.lifecycle import Lifecycle
from modelserver.load_board import LoadBoard, Slot
from modelserver.metrics.counting import Metrics
from modelserver.metrics.memory import MetricMemory
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import Configuration, ModelFolder
from modelserver.rest.access import Access
from modelserver.rest.coding import BodySizes
from modelserver.rest.routes import Application
from modelserver.rpc import server as rpc
from modelserver.serving import Service
from modelserver.settings import Settings, argument_parser, resolve
from modelserver.watching import hung_after_s

_log = logging.getLogger("modelserver.server")

_BACKLOG = 1024

KSERVE_ONLY = frozenset(
    (
        "max_threads", "enable_docs_url", "enable_latency_logging",
        "log_config_file", "access_log_format", "event_loop", "predictor_config",
    )
)  # fmt: skip
"""Arguments of KServe's ModelServer that are taken, and named in a warning, but do nothing here."""


class ModelServer:
    """Serves models over HTTP.

    Every argument may also come from the command line or the environment; an argument that is given wins
    (docs/settings.md lists them all, with their defaults).

    Args:
        http_port: port to listen on; 0 for any free one.
        workers: processes that share the port; 1 serves in this process, 0 means one for each core.
        max_buffer_size: largest request body, in bytes.
        registered_models: a repository that already holds models.
        **settings: any other field of ``Settings``. With ``grpc_port``, ``enable_grpc`` is true by default.

    Raises:
        StartError: a value is of the wrong kind or out of range.
        TypeError: an argument that is no setting.
    """

    def __init__(
        self,
        http_port: int | None = None,
        *,
        workers: int | None = None,
        max_buffer_size: int | None = None,
        registered_models: ModelRepository | None = None,
        **settings: Any,
    ) -> None:
        self._ignored = sorted(KSERVE_ONLY & settings.keys())
        given = {name: value for name, value in settings.items() if name not in KSERVE_ONLY}
        unknown = given.keys() - Settings.__dataclass_fields__.keys()
        if unknown:
            raise TypeError(f"ModelServer has no setting {', '.join(sorted(unknown))}")
        given |= {"http_port": http_port, "workers": workers, "max_buffer_size": max_buffer_size}
        # KServe's serves gRPC unless told otherwise; who names its port wants it.
        defaults = {} if given.get("grpc_port") is None else {"enable_grpc": True}
        self.settings = resolve(given, defaults=defaults)
        # `is None`, not `or`: an empty repository of the user's own is still the user's own.
        self.registered_models = ModelRepository() if registered_models is None else registered_models
        self._lifecycle = Lifecycle()
        self._metrics: Metrics | None = None  # where this process counts, once that is known
        self._sockets: list[socket.socket] = []
        self._configuration: Configuration | None = None
        self._grpc_socket: socket.socket | None = None

    def register_model(self, model: Model | ModelFolder) -> None:
        """Add a model under its name.

        Raises:
            TypeError: not a ``Model`` or ``ModelFolder``.
            StartError: the model has no name.
            ModelLoadError: a folder that holds nothing to serve.
        """
        if isinstance(model, ModelFolder):
            self.registered_models.add_folder(model)
            return
        if not isinstance(model, Model):
            raise TypeError(f"start() takes Model instances, got {type(model).__name__}")
        if not model.name:
            raise StartError("Failed to register the model: its name is empty.")
        self.registered_models.update(model)

    def create_application(self) -> Application:
        """The server's routes as a ``tornado.web.Application``, to serve them with tornado itself.

        Models must be ready: loading is ``start``'s work. Synchronous hooks run in place unless ``start``
        gives each model its threads.
        """
        settings = self.settings
        metrics = self._metrics
        if metrics is None and settings.metrics:
            metrics = Metrics()
        return Application(
            DataPlane(
                self.registered_models,
                self._lifecycle,
                timeout_s=settings.timeout,
                max_queue_size=settings.max_queue_size,
                metrics=metrics,
            ),
            sizes=BodySizes.of(settings),
            access_log=settings.access_log,
            access_log_probes=settings.access_log_probes,
            access=self._guards[0],
            metrics=metrics,
            monitoring_path=settings.monitoring_path,
            enable_cors=settings.enable_cors,
        )

    @cached_property
    def _guards(self) -> tuple[Access, Certificate | None]:
        """From the files that the settings name."""
        settings = self.settings
        return Access.of(settings), Certificate.of(settings.ssl_certfile, settings.ssl_keyfile)

    def bind(self) -> Sequence[socket.socket]:
        """Open the listening sockets now; ``start`` does it otherwise. Connections wait until then.

        Raises:
            StartError: the port is taken or not allowed, or the address is not this machine's; or the
                certificate, keys or tokens that the settings name cannot be used.
        """
        _, certificate = self._guards
        scheme = "http" if certificate is None else "https"
        if not self._sockets and not launching.is_worker():  # a worker is handed its supervisor's
            self._sockets = _listen(self.settings)
            addresses = [_address(scheme, sock) for sock in self._sockets]
            if self.settings.enable_grpc:
                self._grpc_socket = rpc.reserve(self.settings.host, self.settings.grpc_port)
                addresses.append(_address("grpc", self._grpc_socket))
            _log.info("Listening on %s", ", ".join(addresses))
        return self._sockets

    def start(
        self, models: Sequence[Model | ModelFolder] = (), configuration: Configuration | None = None
    ) -> None:
        """Serve ``models`` until SIGTERM or SIGINT, then finish what is in flight and return.

        With one worker everything happens in this process. With more, this process supervises. Models that
        are ready are inherited; a model that is not ready is loaded inside each worker, or before the first
        one if it has an attribute ``loads_before_fork`` that is true, as PyTorch models on the CPU have.

        Args:
            models: what to serve; a ``ModelFolder`` for one with versions.
            configuration: says which folders of versions to serve, where that may change while serving.

        Raises:
            SystemExit: with a message and status 1 if the server cannot start (port in use, nothing to
                serve), or if workers had to be killed.
            TypeError: ``models`` holds something that is no ``Model``.
            Exception: what a model's ``load`` raised, with one worker.
        """
        if self.settings.configure_logging:
            logs.configure(self.settings.log_format)
        if self._ignored:
            _log.warning("Arguments that do nothing here: %s", ", ".join(self._ignored))
        if isinstance(models, Model | str | dict):
            raise TypeError(f"start() takes a list of models, got {type(models).__name__}")
        self._configuration = configuration
        try:
            for model in models:
                self.register_model(model)
            status = self._run()
        except (StartError, ModelLoadError) as error:
            logs.flush()  # what was logged before stands above the last line
            sys.exit(f"modelserver: {error}")
        if status:
            sys.exit(status)

    def _run(self) -> int:
        if not self.registered_models.names():
            raise NoModelReady
        handover = launching.take_handover()
        if handover is not None:
            return self._serve_as_worker(handover)
        sockets = self.bind()
        count = self.settings.worker_count
        if count == 1 and not self.settings.supervise:
            if self.settings.cpu_threads:  # else the process is left as the user's program has set it up
                self._limit_cpu_threads()
            return self._serve_alone(sockets)
        memory = MetricMemory(count + 1)  # one more, for a worker that takes another's place
        outcome = preloading.Outcome.FORK
        if preloading.wanted(self.registered_models):
            self._limit_cpu_threads()  # of a worker's: what is found out while loading is for workers
            outcome = preloading.load_before_fork(
                self.registered_models,
                self.settings,
                sockets,
                *self._guards,
                Metrics(memory, MetricMemory.SUPERVISOR) if self.settings.metrics else None,
            )
        if outcome is preloading.Outcome.STOPPED:
            return 0
        board, models = LoadBoard(count + 1), ModelBoard(count + 1)
        metrics = Metrics(memory, MetricMemory.SUPERVISOR)

        def on_end(number: int) -> None:
            board.clear(number)
            models.publish(number, b"")
            metrics.worker_ended(number)

        supervisor = workers.Supervisor(
            count,
            self._launcher(sockets, board, memory, models, can_fork=outcome is preloading.Outcome.FORK),
            self.settings.grace_period,
            on_stop=self._close_sockets,
            on_end=on_end,
            silent_s=board.silent_s,
            most_silent_s=hung_after_s(self.settings.timeout),
            metrics=metrics,
        )
        return supervisor.run()

    def _serve_alone(self, sockets: Sequence[socket.socket]) -> int:
        metrics = Metrics()
        metrics.workers.set(1)
        service = self._service(
            sockets,
            announce=True,
            metrics=metrics if self.settings.metrics else None,
            grpc_port=self._grpc_port,
        )
        return service.run(on_ready=partial(metrics.workers_ready.set, 1))

    @property
    def _grpc_port(self) -> int:
        return 0 if self._grpc_socket is None else int(self._grpc_socket.getsockname()[1])

    def _close_sockets(self) -> None:
        for sock in (*self._sockets, self._grpc_socket):
            if sock is not None:
                sock.close()

    def _launcher(
        self,
        sockets: Sequence[socket.socket],
        board: LoadBoard,
        memory: MetricMemory,
        models: ModelBoard,
        *,
        can_fork: bool,
    ) -> workers.Launch:
        runtime = launching.unforkable_runtime()
        rerun = runtime is not None or not can_fork
        if runtime is not None:
            _log.info(
                "%s is already initialised in this process and does not survive a fork: each worker runs "
                "the program again",
                runtime,
            )
        elif rerun:
            _log.info(
                "Loading has started threads, which a fork would lose: each worker runs the program again"
            )

        def launch(
            number: int, channel: socket.socket, close: list[socket.socket], others_serve: bool, fresh: bool
        ) -> int:
            handover = launching.Handover(
                number, channel, sockets, board, memory, models, self._grpc_port, others_serve
            )
            if rerun or (fresh and launching.can_rerun()):
                settings = self.settings
                return launching.rerun_script(
                    handover,
                    launching.thread_variables(
                        settings.cpu_threads_per_worker, forced=bool(settings.cpu_threads)
                    ),
                )

            def run() -> int:
                for sock in close:
                    sock.close()
                return self._serve_as_worker(handover)

            return launching.fork_from_fresh_thread(run)

        return launch

    def _serve_as_worker(self, handover: launching.Handover) -> int:
        """Serve beside other workers. A model that cannot be loaded gives an exit code of its own."""
        self._limit_cpu_threads()
        service = self._service(
            handover.sockets,
            announce=handover.number == 0,
            load_first=handover.others_serve,
            slot=handover.board.slot(handover.number),
            board=handover.models,
            grpc_port=handover.grpc_port,
            number=handover.number,
            metrics=Metrics(handover.metrics, handover.number) if self.settings.metrics else None,
        )
        try:
            return service.run(
                on_ready=partial(handover.channel.sendall, workers.READY),
                on_hung=partial(handover.channel.sendall, workers.HUNG),
                orphaned=handover.channel,
            )
        except ModelLoadError as error:
            _log.error("%s", error)
            return workers.EXIT_LOAD_FAILED
        except Exception:
            if self._lifecycle.loaded:
                raise
            _log.exception("Loading failed")
            return workers.EXIT_LOAD_FAILED

    def _limit_cpu_threads(self) -> None:
        settings = self.settings
        launching.limit_cpu_threads(settings.cpu_threads_per_worker, forced=bool(settings.cpu_threads))

    def _service(
        self,
        sockets: Sequence[socket.socket],
        *,
        announce: bool,
        load_first: bool = False,
        slot: Slot | None = None,
        metrics: Metrics | None,
        board: ModelBoard | None = None,
        number: int = 0,
        grpc_port: int = 0,
    ) -> Service:
        self._metrics = metrics
        return Service(
            self.settings,
            self.registered_models,
            self._lifecycle,
            self.create_application(),  # the user's own, if there is one
            sockets,
            announce,
            load_first,
            slot,
            self._guards[1],
            metrics,
            board,
            number,
            self._configuration,
            grpc_port,
        )


def _listen(settings: Settings) -> list[socket.socket]:
    port = settings.http_port
    try:
        return netutil.bind_sockets(port, settings.host or None, backlog=_BACKLOG)
    except OSError as error:
        where = f"port {port}" + (f" on {settings.host}" if settings.host else "")
        raise StartError(
            f"Cannot listen on {where}: {error.strerror or error}. Choose another with --http_port"
            f"{' or --host' if settings.host else ''}."
        ) from error


def _address(scheme: str, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def __getattr__(name: str) -> argparse.ArgumentParser:
    # KServe's users write ArgumentParser(parents=[kserve.model_server.parser]); made when asked for, so that
    # importing reads no environment.
    if name == "parser":
        return argument_parser()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
