"""How an error becomes gRPC's status: the table of TensorFlow Serving's own REST port, read the other way.

Rules of the room: numbers and texts.
"""

from __future__ import annotations

from types import MappingProxyType

import grpc

_LONGEST = 1024
_CUT = "...TRUNCATED"

CODES = MappingProxyType(
    {
        200: grpc.StatusCode.OK,
        400: grpc.StatusCode.INVALID_ARGUMENT,
        401: grpc.StatusCode.UNAUTHENTICATED,
        403: grpc.StatusCode.PERMISSION_DENIED,
        404: grpc.StatusCode.NOT_FOUND,
        409: grpc.StatusCode.ABORTED,
        412: grpc.StatusCode.FAILED_PRECONDITION,
        413: grpc.StatusCode.RESOURCE_EXHAUSTED,
        429: grpc.StatusCode.RESOURCE_EXHAUSTED,
        499: grpc.StatusCode.CANCELLED,
        500: grpc.StatusCode.INTERNAL,
        501: grpc.StatusCode.UNIMPLEMENTED,
        503: grpc.StatusCode.UNAVAILABLE,
        504: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def code(status: int) -> grpc.StatusCode:
    """The code for an HTTP status. Of a model's own choices, 4xx are the client's fault and 5xx ours."""
    known = CODES.get(status)
    if known is not None:
        return known
    if 400 <= status < 500:
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.INTERNAL if status >= 500 else grpc.StatusCode.UNKNOWN


def details(reason: str) -> str:
    """The text of a status, of at most 1024 bytes: it travels in a header.

    >>> details("x" * 2000)[-14:]
    'xx...TRUNCATED'
    """
    encoded = reason.encode(errors="replace")  # a lone surrogate cannot be sent, and the call would not end
    if len(encoded) <= _LONGEST:
        return encoded.decode()
    return encoded[:_LONGEST].decode(errors="ignore") + _CUT
