"""One call: who asks, its bytes, its deadline and its status; counted and logged as a request of any door.

Rules of the room: knows no service and no model. A service gives ``Calls.unary`` a function from a message to
a message; what that raises becomes the call's status here, and only here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc

from modelserver.access_log import AccessLog
from modelserver.dataplane import DataPlane
from modelserver.errors import InvalidInput, ModelServerError
from modelserver.metrics.counting import CLIENT_GONE, Answers, Metrics, ModelMetrics
from modelserver.protocols import protobuf
from modelserver.rest import request_ids
from modelserver.rest.access import ApiKeys
from modelserver.rest.answers import failure
from modelserver.rest.body_memory import BodyMemory
from modelserver.rpc import statuses

OTHER = "other"
"""The verb of a call that asks nothing of a model."""

_TOO_LATE = 504
_SHORTEST_S = 1e-3


class Unauthenticated(ModelServerError):
    """A call without a right key."""

    status = 401

    def __init__(self) -> None:
        super().__init__(
            "An API key is needed, as metadata: `authorization: Bearer KEY` or `x-api-key: KEY`."
        )


class Call:
    """What is known of one call, beside its message.

    Attributes:
        fields: its metadata by name, without the key that let it in.
        timeout_s: how long the client waits; ``None``: for ever.
        size: bytes of its message.
        peer: its client, in gRPC's words.
        model_name: of the model that it is for, once that is known.
        examples: that were answered, of a classify or regress request.
        request_id: its name.
    """

    __slots__ = ("examples", "fields", "model_name", "peer", "request_id", "size", "timeout_s")

    def __init__(self, fields: Mapping[str, str], timeout_s: float | None, size: int, peer: str = "") -> None:
        self.fields = fields
        self.timeout_s = timeout_s
        self.size = size
        self.peer = peer
        self.model_name = ""
        self.examples = 0
        self.request_id = request_ids.request_id(fields)


Function = Callable[[Any, Call], Awaitable[Any]]
"""Takes a message and its call, and gives the answer's message, or its bytes."""

Methods = Mapping[str, tuple[Any, str, Function]]


class _Peer(NamedTuple):
    """What the access log wants to know of a connection."""

    remote_ip: str
    request_id: str

    @property
    def context(self) -> _Peer:
        return self


class Calls:
    """Takes calls for the services.

    Args:
        dataplane: the service.
        api_keys: who may ask; ``None``: anybody.
        metrics: where calls are counted.
        access_log: where they are logged.
        memory: that messages may hold until they are answered.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        *,
        api_keys: ApiKeys | None = None,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        memory: BodyMemory | None = None,
    ) -> None:
        self.dataplane = dataplane
        self._api_keys = api_keys
        self._metrics = metrics
        self._access_log = access_log
        self._memory = memory
        self._held: asyncio.Event | None = None

    def hold_answers(self) -> None:
        """Keep answers until ``release_answers``, while calls are still taken and worked on."""
        self._held = asyncio.Event()

    def release_answers(self) -> None:
        """Let them go, and those to come."""
        held, self._held = self._held, None
        if held is not None:
            held.set()

    def service(self, name: str, methods: Methods, probes: Methods = MappingProxyType({})) -> Any:
        """The handlers of one service.

        Args:
            name: in full.
            methods: by name: ``kind``, ``verb`` and ``function`` as ``unary`` takes them.
            probes: the same; they need no key.
        """
        handlers = {method: self.unary(f"/{name}/{method}", *details) for method, details in methods.items()}
        for method, details in probes.items():
            handlers[method] = self.unary(f"/{name}/{method}", *details, needs_key=False)
        return grpc.method_handlers_generic_handler(name, handlers)

    def unary(
        self, path: str, kind: Any, verb: str, function: Function, *, needs_key: bool = True
    ) -> grpc.RpcMethodHandler:
        """The handler of one method: a message in, a message out.

        Args:
            path: of the method.
            kind: the class of the request; or what reads its bytes, where that is done in another way.
            verb: as in ``Answers.answered``.
            function: what answers.
            needs_key: where keys are asked for at all.
        """
        read = partial(_parsed, kind) if hasattr(kind, "DESCRIPTOR") else kind

        async def answer(data: bytes, context: Any) -> bytes:
            started = time.perf_counter()
            fields = metadata(context)
            remaining = context.time_remaining()
            timeout_s = None if remaining is None else max(remaining, _SHORTEST_S)
            call = Call(fields, timeout_s, len(data), context.peer())
            context.set_trailing_metadata(((request_ids.HEADER.lower(), call.request_id),))
            status, reason, body = 200, "", b""
            try:
                self._admit(call, path, needs_key)
                message = await function(read(data), call)
                body = message if type(message) is bytes else message.SerializeToString()
            except BaseException as error:  # one call's failure, of whatever kind, is that call's answer
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    status = CLIENT_GONE if remaining is None or context.time_remaining() else _TOO_LATE
                    raise
                where = path.rpartition("/")[2] + (f" of model {call.model_name}" if call.model_name else "")
                status, reason = failure(error, where, call.request_id)
            finally:
                if self._memory is not None:
                    self._memory.give_back(call)
                self._tell(call, path, verb, status, time.perf_counter() - started)
            if self._held is not None:
                await self._held.wait()
            if status != 200:
                await context.abort(statuses.code(status), statuses.details(reason))
            return body

        return grpc.unary_unary_rpc_method_handler(answer)

    def _admit(self, call: Call, path: str, needs_key: bool) -> None:
        """Let a call in.

        Raises:
            Unauthenticated: it has no key, and needs one.
            ServerOverloaded: there is no room for its message.
        """
        if needs_key:
            call.fields = self.admitted(path, call.fields)
        if self._memory is not None:
            self._memory.hold(call, call.size)

    def admitted(self, path: str, fields: Mapping[str, str]) -> Mapping[str, str]:
        """The metadata of a call without the key that lets it in.

        Args:
            path: of its method.
            fields: its metadata.

        Raises:
            Unauthenticated: it has no key, and needs one.
        """
        if self._api_keys is None:
            return fields
        admitted = self._api_keys.admitted("POST", path, fields)
        if admitted is None:
            raise Unauthenticated
        return admitted

    def _tell(self, call: Call, path: str, verb: str, status: int, elapsed_s: float) -> None:
        name = call.model_name
        if self._metrics is not None:
            metrics = self._counted(name if verb != OTHER else "")
            metrics.answered(verb, status, elapsed_s, "GRPC")
            if call.examples and isinstance(metrics, ModelMetrics):
                metrics.examples(call.examples)
        if self._access_log is not None:
            peer = _Peer(remote_ip(call.peer), call.request_id)
            self._access_log.add(peer, "POST", path, status, elapsed_s, name)

    def _counted(self, name: str) -> Answers:
        """Where a call for a model is counted; names that no model has make no series."""
        assert self._metrics is not None
        if not name or self.dataplane.repository.get_model(name) is None:
            return self._metrics.unknown
        return self._metrics.model(name)


def metadata(context: Any) -> dict[str, str]:
    """A call's metadata by name, as far as it is text."""
    return {name: value for name, value in context.invocation_metadata() if type(value) is str}


def remote_ip(peer: str) -> str:
    """The address in gRPC's name of a client.

    >>> remote_ip("ipv4:127.0.0.1:4711"), remote_ip("ipv6:%5B::1%5D:4711"), remote_ip("unix:")
    ('127.0.0.1', '::1', '-')
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "-"
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return protobuf.parse(kind, data)
    except protobuf.WireError as error:
        raise InvalidInput(f"The request is {error}") from error


def _is_cancelled() -> bool:
    """Whether it is the call that was cancelled, and not something that the model waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
