"""``grpc.reflection.v1.ServerReflection``, and ``v1alpha``: which services there are, and what they speak.

What ``grpcurl`` and ``grpcui`` ask, to call a server without its ``.proto`` files. The standard is
https://github.com/grpc/grpc/blob/master/doc/server-reflection.md.

Rules of the room: descriptions only, those of ``protocols.protobuf``. They are no secret of a model's; where
keys are asked for, this asks for one too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import grpc

from modelserver.lifecycle import Lifecycle
from modelserver.protocols import protobuf
from modelserver.rpc import statuses
from modelserver.rpc.calls import Calls, Unauthenticated, metadata

_SERVICE = "ServerReflection"
_METHOD = "ServerReflectionInfo"
_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
NAMES = tuple(f"{package}.{_SERVICE}" for package in _PACKAGES)

_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
_LOOK_S = 0.5


def _define(package: str) -> dict[str, Any]:
    return protobuf.define(
        package,
        {
            "ServerReflectionRequest": {
                "host": (1, "string"),
                "message_request": {
                    "file_by_filename": (3, "string"),
                    "file_containing_symbol": (4, "string"),
                    "file_containing_extension": (5, "ExtensionRequest"),
                    "all_extension_numbers_of_type": (6, "string"),
                    "list_services": (7, "string"),
                },
            },
            "ExtensionRequest": {"containing_type": (1, "string"), "extension_number": (2, "int32")},
            "ServerReflectionResponse": {
                "valid_host": (1, "string"),
                "original_request": (2, "ServerReflectionRequest"),
                "message_response": {
                    "file_descriptor_response": (4, "FileDescriptorResponse"),
                    "all_extension_numbers_response": (5, "ExtensionNumberResponse"),
                    "list_services_response": (6, "ListServiceResponse"),
                    "error_response": (7, "ErrorResponse"),
                },
            },
            "FileDescriptorResponse": {"file_descriptor_proto": (1, "repeated bytes")},
            "ExtensionNumberResponse": {
                "base_type_name": (1, "string"),
                "extension_number": (2, "repeated int32"),
            },
            "ListServiceResponse": {"service": (1, "repeated ServiceResponse")},
            "ServiceResponse": {"name": (1, "string")},
            "ErrorResponse": {"error_code": (1, "int32"), "error_message": (2, "string")},
        },
        services={_SERVICE: {_METHOD: ("stream ServerReflectionRequest", "stream ServerReflectionResponse")}},
    )


_messages = {package: _define(package) for package in _PACKAGES}


class Reflection:
    """Answers about services.

    Args:
        services: the full names of the other services of this server.
        lifecycle: of the process.
    """

    def __init__(self, services: Collection[str], lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._services = sorted({*services, *NAMES})

    def handlers(self, calls: Calls) -> list[Any]:
        """What the server takes: both versions, which differ in their name only."""
        return [self._handler(calls, package) for package in _PACKAGES]

    def _handler(self, calls: Calls, package: str) -> Any:
        messages = _messages[package]
        answer_class = messages["ServerReflectionResponse"]
        name = f"{package}.{_SERVICE}"

        async def info(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            try:
                calls.admitted(f"/{name}/{_METHOD}", metadata(context))
            except Unauthenticated as error:
                await context.abort(statuses.code(error.status), error.reason)
            async for request in self._until_draining(requests):
                yield self.answer(request, answer_class)

        method = grpc.stream_stream_rpc_method_handler(
            info, messages["ServerReflectionRequest"].FromString, answer_class.SerializeToString
        )
        return grpc.method_handlers_generic_handler(name, {_METHOD: method})

    async def _until_draining(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Requests, until the client has no more or the server leaves, which waits for open streams."""
        request: Any = ...
        while request is not None:
            waiting = asyncio.ensure_future(anext(requests, None))
            try:
                while not (await asyncio.wait((waiting,), timeout=_LOOK_S))[0]:
                    if self._lifecycle.draining:
                        return
                request = waiting.result()
            finally:
                waiting.cancel()
            if request is not None:
                yield request

    def answer(self, request: Any, answer_class: Callable[..., Any]) -> Any:
        """The answer to one request of the stream.

        Args:
            request: a ``ServerReflectionRequest``.
            answer_class: of ``ServerReflectionResponse``, of the same version.
        """
        answer = answer_class(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                files = protobuf.file_by_name(request.file_by_filename)
                answer.file_descriptor_response.file_descriptor_proto.extend(files)
            elif asked == "file_containing_symbol":
                files = protobuf.file_of_symbol(request.file_containing_symbol)
                answer.file_descriptor_response.file_descriptor_proto.extend(files)
            elif asked == "all_extension_numbers_of_type":
                # The messages here are proto3's, which have no extensions.
                name = request.all_extension_numbers_of_type
                if not protobuf.is_message(name):
                    raise KeyError(name)
                answer.all_extension_numbers_response.base_type_name = name
            elif asked == "file_containing_extension":
                raise KeyError(request.file_containing_extension.containing_type)
            else:
                _set_error(answer, _INVALID_ARGUMENT, "The request asks for nothing")
        except KeyError as error:
            _set_error(answer, _NOT_FOUND, f"There is no {str(error.args[0])[:200]}")
        return answer


def _set_error(answer: Any, code: grpc.StatusCode, text: str) -> None:
    answer.error_response.error_code = code.value[0]
    answer.error_response.error_message = text
