"""What the descriptions of both protocols are built of: pages, answers, errors, parameters in a path.

Rules of the room: functions that return parts of an OpenAPI document, and the parts that both protocols refer
to. ``openapi`` puts the document together.
"""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]

JSON = "application/json"
OCTETS = "application/octet-stream"
ANY_VALUE: Part = {}
TEXT: Part = {"type": "string"}
BYTES: Part = {"type": "string", "format": "binary"}
STREAMS: Part = {
    "text/event-stream": {"schema": TEXT},
    "application/x-ndjson": {"schema": TEXT},
}
"""Of a model whose ``predict`` gives its answer in pieces."""


def ref(schema: str) -> Part:
    """One of the document's schemas."""
    return {"$ref": f"#/components/schemas/{schema}"}


def record(*optional: str, **properties: Part) -> Part:
    """An object with these properties; those that are not ``optional`` must be there."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def items(schema: Part) -> Part:
    """A list of these."""
    return {"type": "array", "items": schema}


def answer(description: str, schema: Part) -> Part:
    """An answer in JSON."""
    return {"description": description, "content": {JSON: {"schema": schema}}}


def errors(*statuses: str) -> Part:
    """The answers to requests that fail: these, and those of every page."""
    return {status: {"$ref": f"#/components/responses/{status}"} for status in ("400", "401", *statuses)}


def page(operation_id: str, summary: str, found: Part, *statuses: str) -> Part:
    """What a GET does: its answer, and the statuses that it may fail with."""
    failed = errors("405", "408", "413", "431", "503", *statuses)
    return {"get": {"operationId": operation_id, "summary": summary, "responses": {"200": found, **failed}}}


def call(operation_id: str, summary: str, content: Part, answered: Part) -> Part:
    """What a POST to a model does.

    Args:
        operation_id: a name that no other has.
        summary: a sentence.
        content: of the body, by Content-Type.
        answered: to one that is right.
    """
    statuses = ("404", "405", "408", "413", "415", "431", "500", "501", "503", "504")
    return {
        "operationId": operation_id,
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answered, **errors(*statuses)},
    }


def in_path(*names: str) -> list[Part]:
    """The parameters of a path: ``model_name``, ``version``, ``label``; an empty name is none."""
    return [{"$ref": f"#/components/parameters/{name}"} for name in names if name]


def _parameter(name: str, schema: Part) -> Part:
    return {"name": name, "in": "path", "required": True, "schema": schema}


PARAMETERS: Part = {
    "model_name": _parameter("model_name", {"type": "string", "pattern": "^[^/]+$"}),
    "version": _parameter("version", {"type": "integer", "minimum": 0}),
    "label": _parameter("label", {"type": "string", "pattern": "^[^/:]+$"}),
}

SCHEMAS: Part = {"Error": record(error=TEXT)}

RESPONSES: Part = {
    status: answer(description, ref("Error"))
    for status, description in {
        "400": "The request is wrong; the text says what was got and what is wanted.",
        "401": "An API key is needed, or an admin token.",
        "403": "Administrative calls are taken from this machine only, and not from browsers.",
        "404": "There is no such model, or no such path.",
        "405": "Another method is needed; the header Allow names it.",
        "408": "The request came too slowly.",
        "413": "The body is over --max_buffer_size.",
        "415": "The Content-Encoding is not known here, or the body of an administrative call is no JSON.",
        "431": "The request's head is too large.",
        "500": "The model failed; the log has the X-Request-ID beside the traceback.",
        "501": "The model has no such hook.",
        "503": "The model is not ready, or too many requests wait; Retry-After says when to try again.",
        "504": "The model took longer than --timeout.",
    }.items()
}
