"""gRPC for both clients: bytes of a message out, bytes of a message in; a status becomes HTTP's.

``UNAVAILABLE`` is two things. A server that is busy says it, and may be asked again. And ``grpc`` itself says
it of a connection that could not be made, or that ended while the model worked. The former is told by the
request id that our answers carry, or a ``retry-after``. All other is ``ServerUnreachable``, and final.

Rules of the room: the only module of the client that imports ``grpc``; it is imported when a client is made
whose URL is one of gRPC. It knows no messages.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelserver.client.calls import NO_HEADERS, Call, Reply
from modelserver.client.failures import ServerUnreachable
from modelserver.client.options import Options
from modelserver.client.patience import Patience
from modelserver.errors import StartError

try:
    import grpc
    import grpc.aio
except ModuleNotFoundError as error:
    raise StartError('gRPC is not installed: pip install "modelserver[grpc]"') from error

# A server says with RESOURCE_EXHAUSTED that a message is too large. To send it again is of no use.
_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_SAID_BY_THE_SERVER = ("x-request-id", "retry-after")
_NOT_CONNECTED = re.compile("failed to connect to all addresses|errors resolving|dns resolution failed", re.I)
_TLS = re.compile(r"OPENSSL_internal:(?P<what>\w+)(?:: (?P<why>[\w ,'-]+))?")
_CAUSES = {
    "refused": "Connection refused",
    "errors resolving|dns resolution failed": "the host's name is not known",
    "http1": "the port speaks HTTP/1.1 and no gRPC",
    "unreachable": "Network is unreachable",
    "timed? ?out": "Connection timed out",
}
"""What is in a text of ``grpc``, and how it is told."""
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _Channels:
    """The channel of a process: opened with the first call, and anew behind a fork.

    Args:
        options: of the client.
        kind: ``grpc`` or ``grpc.aio``.
    """

    def __init__(self, options: Options, kind: Any) -> None:
        self._options = options
        self._kind = kind
        self._metadata = _metadata(options.headers)
        self._credentials: Any = None
        if options.endpoint.is_encrypted:
            trusted = Path(options.ca_file).read_bytes() if options.tls and options.ca_file else None
            self._credentials = grpc.ssl_channel_credentials(trusted)
        self._channel: Any = None
        self._process = 0
        self._methods: dict[str, Any] = {}

    def _started(self, call: Call, patience: Patience) -> Any:
        """What ``grpc`` calls the call."""
        if self._channel is None or self._process != os.getpid():
            self._open()
        method = self._methods.get(call.path)
        if method is None:
            method = self._methods[call.path] = self._channel.unary_unary(call.path)
        metadata = tuple((self._metadata | _metadata(call.headers)).items())
        return method(call.body[0], timeout=patience.left_s(), metadata=metadata)

    def _open(self) -> None:
        target = self._options.endpoint.authority
        if self._credentials is None:
            self._channel = self._kind.insecure_channel(target, _UNLIMITED)
        else:
            self._channel = self._kind.secure_channel(target, self._credentials, _UNLIMITED)
        self._process, self._methods = os.getpid(), {}

    def _taken(self) -> Any:
        """The channel, which is to be closed; the next call opens another."""
        channel, self._channel = self._channel, None
        return channel


class GrpcTransport(_Channels):
    """For ``Client``."""

    def __init__(self, options: Options) -> None:
        super().__init__(options, grpc)

    def exchange(self, call: Call, patience: Patience) -> Reply:
        """Bring a call to the server, and its reply back."""
        try:
            return Reply(200, NO_HEADERS, self._started(call, patience))
        except grpc.RpcError as error:
            return _refused(error, patience)

    def close(self) -> None:
        """Close the channel."""
        channel = self._taken()
        if channel is not None:
            channel.close()


class AsyncGrpcTransport(_Channels):
    """For ``AsyncClient``.

    Args:
        options: of the client.
        max_connections: calls at once; they share one connection.
    """

    def __init__(self, options: Options, max_connections: int) -> None:
        super().__init__(options, grpc.aio)
        self._room = asyncio.Semaphore(max_connections)

    async def exchange(self, call: Call, patience: Patience) -> Reply:
        """Bring a call to the server, and its reply back."""
        try:
            async with self._room:
                return Reply(200, NO_HEADERS, await self._started(call, patience))
        except grpc.RpcError as error:
            return _refused(error, patience)

    async def close(self) -> None:
        """Close the channel; calls end."""
        channel = self._taken()
        if channel is not None:
            await channel.close()


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _refused(error: Any, patience: Patience) -> Reply:
    """The reply of a call that did not end with OK.

    Raises:
        CallTimeout: it is our own deadline that has passed.
        ServerUnreachable: no server has said it.
    """
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        patience.left_s()
    headers = {name: value for name, value in error.trailing_metadata() or () if isinstance(value, str)}
    if code is grpc.StatusCode.UNAVAILABLE and not any(name in headers for name in _SAID_BY_THE_SERVER):
        raise ServerUnreachable(patience.url, _unreachable(text)) from error
    return Reply(_STATUSES.get(code, 500), headers, text or code.name)


def _unreachable(text: str) -> str:
    """What a text of ``grpc`` means: it is about its own insides."""
    tls = _TLS.search(text)
    if tls and tls["what"] == "CERTIFICATE_VERIFY_FAILED":
        why = tls["why"] or "the certificate cannot be verified"
        return f"TLS: {why}. ca_file names the certificates to trust"
    if tls:
        return f"TLS: {tls['what'].replace('_', ' ').lower()}"
    if "peer name" in text.lower() or "hostname verification" in text.lower():
        return "TLS: the certificate is for another name. The URL must have the name that it is for"
    if not _NOT_CONNECTED.search(text):
        # Another program's own words come so as well.
        return f"the connection was closed before an answer came: {text or 'UNAVAILABLE'}"
    for pattern, cause in _CAUSES.items():
        if re.search(pattern, text, re.I):
            return f"cannot connect: {cause}"
    return "cannot connect: the server closed the connection at once"
