"""``grpc.health.v1.Health``: what Kubernetes' gRPC probes and load balancers ask.

The name of a service in the request is empty for the whole server, or that of one of the services here, or
that of a model. It is the standard of https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

Rules of the room: readiness only, by the dataplane's word. A probe needs no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc

from modelserver.dataplane import DataPlane
from modelserver.errors import ModelNotFound, ModelServerError
from modelserver.protocols.protobuf import define
from modelserver.rpc.calls import OTHER, Call, Calls

NAME = "grpc.health.v1.Health"

_UNKNOWN, _SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = range(4)
_LOOK_S = 0.5

_messages = define(
    "grpc.health.v1",
    {
        "HealthCheckRequest": {"service": (1, "string")},
        "HealthCheckResponse": {"status": (1, "ServingStatus")},
    },
    {
        "HealthCheckResponse.ServingStatus": {
            "UNKNOWN": _UNKNOWN,
            "SERVING": _SERVING,
            "NOT_SERVING": _NOT_SERVING,
            "SERVICE_UNKNOWN": _SERVICE_UNKNOWN,
        }
    },
    {
        "Health": {
            "Check": ("HealthCheckRequest", "HealthCheckResponse"),
            "Watch": ("HealthCheckRequest", "stream HealthCheckResponse"),
        }
    },
)
HealthCheckRequest = _messages["HealthCheckRequest"]
HealthCheckResponse = _messages["HealthCheckResponse"]


class NoSuchService(ModelServerError):
    """The health of something that is not here was asked for."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no service and no model {name}")


class Health:
    """Check, and Watch.

    Args:
        dataplane: what answers.
        services: the full names of the services of this server.
    """

    def __init__(self, dataplane: DataPlane, services: Collection[str]) -> None:
        self._dataplane = dataplane
        self._services = frozenset(services) | {"", NAME}

    def handlers(self, calls: Calls) -> Any:
        """What the server takes."""
        check = calls.unary(f"/{NAME}/Check", HealthCheckRequest, OTHER, self.check, needs_key=False)
        watch = grpc.unary_stream_rpc_method_handler(
            self.watch, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(NAME, {"Check": check, "Watch": watch})

    async def check(self, request: Any, call: Call) -> Any:
        """The state now."""
        status = await self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            raise NoSuchService(request.service)
        return HealthCheckResponse(status=status)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The state now, and whenever it is another one, until the client leaves or the server does."""
        before = -1
        while not (self._dataplane.lifecycle.draining and before == _NOT_SERVING):
            status = await self._status(request.service)
            if status != before:
                yield HealthCheckResponse(status=status)
                before = status
            await asyncio.sleep(_LOOK_S)

    async def _status(self, service: str) -> int:
        try:
            if service in self._services:
                await self._dataplane.check_ready()
            else:
                await self._dataplane.check_model_ready(service)
        except ModelNotFound:
            return _SERVICE_UNKNOWN
        except ModelServerError:
            return _NOT_SERVING
        return _SERVING
