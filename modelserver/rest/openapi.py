"""The HTTP API as an OpenAPI 3.1 document, for ``GET /openapi.json``: read by generators and gateways.

Rules of the room: a description; nothing here is run to answer a request. ``routes`` has the URLs, and a test
compares the two. What a model returns is the model's business, so the schemas leave it open.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

_JSON = "application/json"


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    return _answer(description, {"$ref": "#/components/schemas/Error"})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_ERRORS = {
    "400": _error("The request is wrong; the text says what was got and what is wanted."),
    "401": _error("An API key is needed."),
    "404": _error("There is no such model, or no such path."),
    "405": _error("Another method is needed; the header Allow names it."),
    "408": _error("The request came too slowly."),
    "413": _error("The body is over --max_buffer_size."),
    "415": _error("The body's Content-Encoding is not known here."),
    "431": _error("The request's head is too large."),
    "500": _error("The model failed; the log has the X-Request-ID beside the traceback."),
    "501": _error("The model has no such hook."),
    "503": _error("The model is not ready, or too many requests wait; Retry-After says when to try again."),
    "504": _error("The model took longer than --timeout."),
}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in ("400", "401", *statuses)}


def _verb(verb: str, summary: str, of: str = "", schema: str = "Request") -> dict[str, Any]:
    any_value: dict[str, Any] = {}
    body = {
        _JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}},
        "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    answer = {
        "description": "What the model returned.",
        "content": {
            _JSON: {"schema": any_value},
            "text/plain": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    statuses = ("404", "405", "408", "413", "415", "431", "500", "501", "503", "504")
    return {
        "post": {
            "operationId": f"{verb}{f'_{of}' if of else ''}",
            "summary": summary,
            "requestBody": {"required": True, "content": body},
            "responses": {"200": answer, **_errors(*statuses)},
        },
        "parameters": _parameters(of),
    }


def _parameters(of: str = "") -> list[dict[str, str]]:
    """Those in a path: the model's name, and a ``version`` or ``label`` if the path is of one."""
    return [{"$ref": f"#/components/parameters/{name}"} for name in ("model_name", of) if name]


def _page(operation_id: str, summary: str, answer: dict[str, Any], *statuses: str) -> dict[str, Any]:
    errors = _errors("405", "408", "413", "431", "503", *statuses)
    return {"get": {"operationId": operation_id, "summary": summary, "responses": {"200": answer, **errors}}}


_NAME = {"type": "string"}
_VERSIONS = {"type": "array", "items": {"$ref": "#/components/schemas/VersionStatus"}}
_VERBS = {
    "predict": ("Ask a model.", "Request"),
    "explain": ("Ask a model why.", "Request"),
    "classify": ("Ask a TensorFlow model for the classes of examples.", "Examples"),
    "regress": ("Ask a TensorFlow model for the values of examples.", "Examples"),
}


def _of_a_model(of: str = "") -> dict[str, dict[str, Any]]:
    """The paths of a model, or of one ``version`` or ``label`` of it."""
    path = "/v1/models/{model_name}" + (f"/{of}s/{{{of}}}" if of else "")
    suffix = f"_of_{of}" if of else ""
    if of:
        status = _answer("Whatever it is.", _object(model_version_status=_VERSIONS))
    else:
        ready = _object(name=_NAME, ready={"const": True}, model_version_status=_VERSIONS)
        status = _answer("It can.", ready)
    metadata = _answer(
        "Inputs and outputs.", _object(model_spec={"type": "object"}, metadata={"type": "object"})
    )
    pages = {
        path: _page(f"model_status{suffix}", "Whether a model can take requests.", status, "404"),
        f"{path}/metadata": _page(f"model_metadata{suffix}", "The signatures of a model.", metadata, "404"),
    }
    verbs = {f"{path}:{verb}": _verb(verb, summary, of, schema) for verb, (summary, schema) in _VERBS.items()}
    return {each: {**item, "parameters": _parameters(of)} for each, item in (pages | verbs).items()}


_METRICS_PATH = "/metrics"
_PATHS: dict[str, dict[str, Any]] = {
    "/": _page(
        "live",
        "The process answers.",
        _answer("It does.", _object(status={"const": "alive"})),
    ),
    "/v1/models": _page(
        "list_models",
        "The models, ready or not.",
        _answer("Their names.", _object(models={"type": "array", "items": _NAME})),
    ),
    **_of_a_model(),
    **_of_a_model("version"),
    **_of_a_model("label"),
    _METRICS_PATH: _page(
        "metrics",
        "What all workers have counted, for Prometheus.",
        {
            "description": "Prometheus's text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    ),
    "/openapi.json": _page("openapi", "This document.", _answer("It.", {"type": "object"})),
}


@lru_cache(maxsize=2)
def document(*, metrics: bool) -> bytes:
    """The document as JSON.

    Args:
        metrics: whether ``/metrics`` is served.
    """
    paths = {path: item for path, item in _PATHS.items() if metrics or path != _METRICS_PATH}
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "modelserver",
                "version": "1",
                "description": "KServe's V1 protocol and TensorFlow Serving's. Details: docs/protocol-v1.md.",
            },
            "paths": paths,
            "components": {
                "parameters": {
                    "model_name": {
                        "name": "model_name",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "pattern": "^[^/]+$"},
                    },
                    "version": {
                        "name": "version",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "integer", "minimum": 0},
                    },
                    "label": {
                        "name": "label",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "pattern": "^[^/:]+$"},
                    },
                },
                "schemas": {
                    "VersionStatus": _object(
                        version=_NAME,
                        state={"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                        status=_object(error_code=_NAME, error_message=_NAME),
                    ),
                    "Examples": {
                        "type": "object",
                        "properties": {"examples": {"type": "array", "items": {"type": "object"}}},
                        "additionalProperties": True,
                    },
                    "Error": _object(error={"type": "string"}),
                    "Request": {
                        "type": "object",
                        "properties": {"instances": {"type": "array", "description": "The rows."}},
                        "additionalProperties": True,
                    },
                },
                "responses": _ERRORS,
            },
        }
    )
