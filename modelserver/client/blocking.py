"""``Client``: calls that wait, from any number of threads; and HTTP over sockets.

Rules of the room: sockets and threads. What is said is the dialect's business, and when to try again that of
``patience``.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from modelserver.client.calls import NO_HEADERS, Answer, Call, Inputs, Question, Reply, Steps
from modelserver.client.failures import ClientError
from modelserver.client.http_messages import SCRATCH, AnswerReader, Part, RequestWriter
from modelserver.client.options import Options, ProtocolName
from modelserver.client.patience import NothingCame, Patience, broken_off, cannot_connect

_MOST_IDLE = 32
T = TypeVar("T")


class Client:
    """Asks a server; numpy in, numpy out. May be shared by threads.

    Args:
        url: ``http://host:port``, ``https://...``, ``grpc://host:port`` or ``grpcs://...``. A path is put
            before all others.
        protocol: ``v2``: the Open Inference Protocol, with raw bytes, or over gRPC; ``v2-json``: the same
            without its binary extension; ``v1``: KServe's V1, TensorFlow Serving's REST.
        timeout: seconds for a call that names no other, tries after the first included.
        retries: how often a call is tried again if the server answers 503 or 429.
        headers: sent with every request; metadata of gRPC.
        api_key: sent as ``Authorization: Bearer``.
        ca_file: PEM file of the certificates to trust; empty: those of the system.

    Raises:
        ValueError: an argument cannot be used.
        StartError: a URL of gRPC, without ``pip install "modelserver[grpc]"``.

    >>> with Client("http://localhost:8080") as client:
    ...     client.is_ready("iris")
    False
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: ProtocolName = "v2",
        timeout: float = 60.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        api_key: str = "",
        ca_file: str | Path = "",
    ) -> None:
        self._options = Options.of(url, protocol, timeout, retries, headers, api_key, ca_file)
        self._dialect = self._options.dialect()
        self._transport = _transport(self._options)

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] = NO_HEADERS,
        id: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float | None = None,
    ) -> Answer:
        """Ask a model.

        Args:
            model: its name.
            inputs: an array of shape ``(rows, ...)`` or a nested list, for a model with one input; a
                dictionary of them by input name; or an ``InferRequest``. Arrays go as they are, lists as the
                datatype that the model says it takes. Over V1 they are its ``instances``.
            version: a number; over V1 also a label. Default: the newest.
            outputs: names of the outputs that are wanted, in this order. Default: all.
            parameters: the protocol's; over V1 further keys of the body.
            id: a name for the request, which the server repeats.
            headers: for this request only.
            timeout: seconds. Default: the client's.

        Returns:
            The outputs by name; ``answer.array`` is the only one.

        Raises:
            InvalidInput: the inputs cannot be sent, or do not fit what the model says it takes.
            CallFailed: the server answered with an error.
            CallTimeout: there was no answer in time.
            ServerUnreachable: there is no connection, or it broke.
            UnreadableAnswer: the answer is not what the protocol says, or holds no tensors.
        """
        question = Question(model, inputs, version, outputs, parameters, id, headers)
        return self._run(self._dialect.infer(question), timeout)

    def explain(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | str | None = None,
        parameters: Mapping[str, Any] = NO_HEADERS,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float | None = None,
    ) -> Any:
        """Ask a model why, over V1. Explanations have no form of their own: what the JSON holds is returned.

        Raises:
            ValueError: the client speaks V2, which has no such call.
            Others: as ``infer``.
        """
        question = Question(model, inputs, version, (), parameters, "", headers)
        return self._run(self._dialect.explain(question), timeout)

    def is_live(self, *, timeout: float | None = None) -> bool:
        """Whether the server answers; false also if there is no connection or no answer in time.

        Raises:
            CallFailed: the server answers with an error other than 503: 401 without a key.
        """
        return self._run(self._dialect.is_live(), timeout)

    def is_ready(
        self, model: str | None = None, *, version: int | str | None = None, timeout: float | None = None
    ) -> bool:
        """Whether a model can be asked, or all models can; false also if there is no connection.

        Raises:
            CallFailed: there is no such model (404), or another error but 503.
        """
        return self._run(self._dialect.is_ready(model, version), timeout)

    def metadata(
        self, model: str, *, version: int | str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """What a model takes and gives, as V2's JSON has it (over V1, as TensorFlow Serving's).

        Raises:
            CallFailed, CallTimeout, ServerUnreachable, UnreadableAnswer: as ``infer``.
        """
        return self._run(self._dialect.metadata(model, version), timeout)

    def models(self, *, timeout: float | None = None) -> list[str]:
        """The names of the models, ready or not.

        Raises:
            CallFailed, CallTimeout, ServerUnreachable, UnreadableAnswer: as ``infer``.
        """
        return self._run(self._dialect.models(), timeout)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T], timeout: float | None) -> T:
        options = self._options
        timeout_s = options.timeout_s if timeout is None else timeout
        patience = Patience(options.endpoint.url, timeout_s, options.retries)
        try:
            call = next(steps)
            while True:
                try:
                    reply = self._reply(call, patience)
                except ClientError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def _reply(self, call: Call, patience: Patience) -> Reply:
        patience.begin(call)
        while True:
            reply = self._transport.exchange(call, patience)
            pause_s = patience.pause_s(call, reply)
            if pause_s is None:
                return reply
            time.sleep(pause_s)


class Transport(Protocol):
    """Brings one call to the server, and its reply back."""

    def exchange(self, call: Call, patience: Patience) -> Reply:
        """Once.

        Raises:
            CallTimeout, ServerUnreachable, UnreadableAnswer: there is no reply.
        """

    def close(self) -> None:
        """Close what is open."""


def _transport(options: Options) -> Transport:
    if options.endpoint.is_grpc:
        from modelserver.client.grpc_transport import GrpcTransport

        return GrpcTransport(options)
    return HTTPTransport(options)


class HTTPTransport:
    """Keeps connections for calls to come; each is in use by one call.

    Args:
        options: of the client.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._requests = RequestWriter(options.endpoint, options.headers)
        self._tls = options.tls
        self._idle: list[_Connection] = []  # append and pop are atomic
        self._process = os.getpid()

    def exchange(self, call: Call, patience: Patience) -> Reply:
        """As ``Transport.exchange``."""
        parts = self._requests.parts(call)
        connection = self._kept()
        if connection is not None:
            try:
                return self._finish(connection, connection.exchange(parts, patience))
            except NothingCame:
                pass  # the server had closed it before the request came
        connection = _Connection(self._options, self._tls, patience)
        return self._finish(connection, connection.exchange(parts, patience))

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        if self._process != os.getpid():
            # The parent of a fork goes on using its connections. Closed here, they stay open there.
            self.close()
            self._process = os.getpid()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None

    def _finish(self, connection: _Connection, reader: AnswerReader) -> Reply:
        if reader.keeps_alive and len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return reader.reply()


class _Connection:
    """One connection; it is closed by what goes wrong.

    Raises:
        CallTimeout, ServerUnreachable: it cannot be made.
    """

    def __init__(self, options: Options, tls: ssl.SSLContext | None, patience: Patience) -> None:
        self._scratch = memoryview(bytearray(SCRATCH))
        host = options.endpoint.host
        try:
            self._socket = _connected(host, options.endpoint.port, patience)
            if tls is not None:
                self._socket.settimeout(patience.left_s())
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except ClientError:
            raise
        except OSError as error:
            raise cannot_connect(error, patience) from error

    def exchange(self, parts: Sequence[Part], patience: Patience) -> AnswerReader:
        """Send a request and receive its answer.

        Raises:
            NothingCame: the server had closed the connection before.
            CallTimeout, ServerUnreachable, UnreadableAnswer: as ``Transport.exchange``.
        """
        reader = AnswerReader(self._scratch)
        sent_at = None
        try:
            is_sent = self._send(parts, patience)
            if is_sent:
                sent_at = time.monotonic()
            self._receive(reader, patience)
        except BaseException as error:
            self.close()
            failure = broken_off(error, reader.has_begun, sent_at, patience)
            if failure is error:
                raise
            raise failure from error
        reader.keeps_alive = reader.keeps_alive and is_sent
        return reader

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _send(self, parts: Sequence[Part], patience: Patience) -> bool:
        """Whether all could be sent."""
        try:
            for part in parts:
                self._socket.settimeout(patience.left_s())
                self._socket.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            return False  # the server may have refused the request before it had read it all: it has its say
        return True

    def _receive(self, reader: AnswerReader, patience: Patience) -> None:
        while not reader.is_whole:
            self._socket.settimeout(patience.left_s())
            count = self._socket.recv_into(reader.space())
            if count:
                reader.received(count)
            elif not reader.ended():
                raise ConnectionResetError


def _connected(host: str, port: int, patience: Patience) -> socket.socket:
    """A socket to the first of the host's addresses that takes one. Each may use its share of the time."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for index, (family, kind, number, _, address) in enumerate(addresses):
        made = socket.socket(family, kind, number)
        try:
            made.settimeout(patience.left_s() / (len(addresses) - index))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    raise failure or OSError("the host has no address")
