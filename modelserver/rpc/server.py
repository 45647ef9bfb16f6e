"""The gRPC server of one process: listens, answers, drains. And the port, which the supervisor reserves.

Each worker has a server of its own on the same port (``SO_REUSEPORT``), and the kernel gives each connection
to one of them. A connection stays with its worker; a client that wants several opens several channels.

Rules of the room: a server's life; what it answers is in the modules beside. ``grpc`` is imported by
``start``, in the process that serves: its threads would not survive a fork. gRPC runs on whatever loop
``start`` finds, uvloop's too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserver.access_log import AccessLog
from modelserver.dataplane import DataPlane
from modelserver.errors import StartError
from modelserver.file_watch import FileWatch
from modelserver.metrics.counting import Metrics

if TYPE_CHECKING:
    from modelserver.rest.access import AdminGuard, ApiKeys
    from modelserver.rest.body_memory import BodyMemory
    from modelserver.rpc.calls import Calls

LINGER_S = 0.5
"""How long a draining server goes on taking calls: its clients cannot know yet that it leaves."""

_GATHER_S = 0.05
"""How long answers are kept then, before it refuses calls and after."""

UNLIMITED = -1
MOST_RECEIVED = (1 << 31) - 1
"""Bytes of a message: the largest number that gRPC takes for a limit."""


def reserve(host: str, port: int) -> socket.socket:
    """Take the port, for the servers of this process and its children, which listen on it.

    The socket never listens itself. As long as it is open nobody else gets the port; 0 becomes a free one.

    Args:
        host: address to listen on; empty: every address, IPv4 and IPv6.
        port: 0: any free one.

    Raises:
        StartError: the port is taken, the address is not this machine's, or gRPC is not installed.
    """
    if importlib.util.find_spec("grpc") is None:
        raise StartError(
            'gRPC is not installed: pip install "modelserver[grpc]", or leave out --enable_grpc.'
        )
    importlib.import_module("modelserver.protocols.protobuf")  # which says the same of protocol buffers
    try:
        family, kind, number, _, address = _resolved(host, port)
        if port:
            # SO_REUSEPORT would let this server share its port with another one of the same user.
            with socket.socket(family, kind, number) as probe:
                _bind(probe, address, socket.SO_REUSEADDR)
        reserved = socket.socket(family, kind, number)
        try:
            _bind(reserved, address, socket.SO_REUSEPORT)
        except BaseException:
            reserved.close()
            raise
    except OSError as error:
        where = f"port {port}" + (f" on {host}" if host else "")
        raise StartError(
            f"Cannot listen on {where} for gRPC: {error.strerror or error}. Choose another with --grpc_port."
        ) from error
    return reserved


class GrpcServer:
    """The gRPC services over one dataplane, in this process: V2's, TensorFlow Serving's, health, reflection.

    Args:
        dataplane: what answers.
        port: that ``reserve`` has taken.
        host: as for ``reserve``.
        most_received: bytes of a request; -1: no limit, as in TensorFlow Serving.
        most_sent: the same of an answer.
        api_keys: who may ask; ``None``: anybody.
        admin_guard: who may load and unload models; ``None``: nobody.
        metrics: where calls are counted.
        access_log: where they are logged.
        memory: that the messages of all calls may hold; ``None``: no limit.
        certfile: for TLS; empty: none. Files that change are taken again.
        keyfile: of the certificate; empty: its key is in ``certfile`` too.
        options: gRPC's own channel arguments, ``(name, value)``.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        port: int,
        host: str = "",
        *,
        most_received: int = UNLIMITED,
        most_sent: int = UNLIMITED,
        api_keys: ApiKeys | None = None,
        admin_guard: AdminGuard | None = None,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        memory: BodyMemory | None = None,
        certfile: str = "",
        keyfile: str = "",
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._dataplane = dataplane
        self._address = f"{f'[{host}]' if ':' in host else host or '[::]'}:{port}"
        self._most_received = most_received
        self._most_sent = most_sent
        self._api_keys = api_keys
        self._admin_guard = admin_guard
        self._metrics = metrics
        self._access_log = access_log
        self._memory = memory
        self._certificate = (certfile, keyfile or certfile) if certfile else None
        self._options = options
        self._server: Any = None
        self._calls: Calls | None = None

    async def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            StartError: it cannot listen.
        """
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else its C library writes to standard error
        import grpc

        from modelserver.protocols import tensor_proto
        from modelserver.rpc import health, inference_service, model_service, prediction_service, reflection
        from modelserver.rpc.calls import Calls

        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self._most_received),
            ("grpc.max_send_message_length", self._most_sent),
            *self._options,
        ]
        server = grpc.aio.server(options=options)
        calls = self._calls = Calls(
            self._dataplane,
            api_keys=self._api_keys,
            metrics=self._metrics,
            access_log=self._access_log,
            memory=self._memory,
        )
        dataplane = self._dataplane
        most_bytes = self._most_received if self._most_received >= 0 else tensor_proto.MOST_BYTES
        names = (inference_service.NAME, prediction_service.NAME, model_service.NAME)
        handlers = (
            inference_service.InferenceService(dataplane, self._admin_guard).handlers(calls),
            prediction_service.PredictionService(dataplane, most_bytes).handlers(calls),
            model_service.ModelService(dataplane).handlers(calls),
            health.Health(dataplane, (*names, *reflection.NAMES)).handlers(calls),
            *reflection.Reflection((*names, health.NAME), dataplane.lifecycle).handlers(calls),
        )
        server.add_generic_rpc_handlers(handlers)
        try:
            if self._certificate is None:
                port = server.add_insecure_port(self._address)
            else:
                port = server.add_secure_port(self._address, _credentials(*self._certificate))
        except RuntimeError as error:
            raise StartError(f"Cannot listen on {self._address} for gRPC: {error}") from error
        if not port:  # how older versions say it
            raise StartError(f"Cannot listen on {self._address} for gRPC")
        await server.start()
        self._server = server

    async def drain(self, grace_s: float, linger_s: float = LINGER_S) -> None:
        """Take calls for a moment longer, then no more; return when those in flight are answered.

        Args:
            grace_s: how long that may take; what is not answered then is cancelled.
            linger_s: how long calls are still taken.
        """
        if self._server is None or self._calls is None:
            return
        await asyncio.sleep(min(linger_s, grace_s))
        # Calls that have come but that grpc has not handed over yet are lost when the server stops, and with
        # busy clients there is always one. Who waits for an answer asks no more: so answers are kept until
        # all calls are here, and until grpc has told the clients to go elsewhere.
        self._calls.hold_answers()
        try:
            await asyncio.sleep(_GATHER_S)
            stopping = asyncio.ensure_future(self._server.stop(max(0.0, grace_s - linger_s)))
            await asyncio.sleep(_GATHER_S)
        finally:
            self._calls.release_answers()
        await stopping
        self._server = None

    async def close(self) -> None:
        """Stop now. What is in flight is cancelled."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)


def _resolved(host: str, port: int) -> Any:
    if host:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if socket.has_dualstack_ipv6():
        return socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::", port)
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", ("0.0.0.0", port)  # noqa: S104 - what the user asks for


def _bind(sock: socket.socket, address: Any, option: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(address)


def _credentials(certfile: str, keyfile: str) -> Any:
    """A certificate that is read again when its files change. gRPC keeps the old one if the new is bad."""
    import grpc

    watch = FileWatch(certfile, keyfile)

    def read() -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(Path(keyfile).read_bytes(), Path(certfile).read_bytes())]
        )

    def changed() -> Any:
        if watch.changed():
            with contextlib.suppress(OSError):
                return read()
        return None

    return grpc.dynamic_ssl_server_credentials(read(), changed, require_client_authentication=False)
