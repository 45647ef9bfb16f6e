"""The HTTP API as an OpenAPI 3.1 document, for ``GET /openapi.json``: read by generators and gateways.

Rules of the room: a description; nothing here is run to answer a request. ``routes`` has the URLs, and a test
compares the two. What a model returns is the model's business, so the schemas leave it open. Each protocol is
described in a room of its own: ``openapi_v1``, ``openapi_v2``.
"""

from __future__ import annotations

from functools import lru_cache

import orjson

from modelserver.rest import openapi_parts, openapi_v1, openapi_v2
from modelserver.rest.openapi_parts import TEXT, Part, answer, page, record

_METRICS_PATH = "/metrics"
_PATHS: dict[str, Part] = {
    "/": page("live", "The process answers.", answer("It does.", record(status={"const": "alive"}))),
    **openapi_v1.PATHS,
    **openapi_v2.PATHS,
    _METRICS_PATH: page(
        "metrics",
        "What all workers have counted, for Prometheus.",
        {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": TEXT}}},
    ),
    "/openapi.json": page("openapi", "This document.", answer("It.", {"type": "object"})),
}
_DESCRIPTION = (
    "KServe's V1 protocol and TensorFlow Serving's (docs/protocol-v1.md), and the Open Inference Protocol V2 "
    "(docs/protocol-v2.md)."
)


@lru_cache(maxsize=4)
def document(*, metrics: bool, admin: bool = False) -> bytes:
    """The document as JSON.

    Args:
        metrics: whether ``/metrics`` is served.
        admin: whether models can be loaded and unloaded by requests.
    """
    paths = {path: item for path, item in _PATHS.items() if metrics or path != _METRICS_PATH}
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "modelserver", "version": "1", "description": _DESCRIPTION},
            "paths": paths | (openapi_v2.ADMIN_PATHS if admin else {}),
            "components": {
                "parameters": openapi_parts.PARAMETERS,
                "schemas": openapi_parts.SCHEMAS | openapi_v1.SCHEMAS | openapi_v2.SCHEMAS,
                "responses": openapi_parts.RESPONSES,
                **({"securitySchemes": openapi_v2.SECURITY_SCHEMES} if admin else {}),
            },
        }
    )
