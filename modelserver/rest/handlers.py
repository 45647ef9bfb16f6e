"""The cold routes: small ``RequestHandler`` classes, one for each kind of page.

Rules of the room: ask the dataplane, write JSON. The hot verbs are in ``inference``; every URL is in
``routes``.
"""

from __future__ import annotations

from http.client import responses
from typing import Any

import orjson
from tornado import web

from modelserver.dataplane import DataPlane
from modelserver.log_formats import escaped
from modelserver.metrics.exposition import TEXT_TYPE, Exposition
from modelserver.protocols.v1_json import JSON_TYPE, encode_error
from modelserver.rest import request_ids
from modelserver.rest.answers import Answer, error_answer

_VERBS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
_MOST_PATH = 200  # of a path in the log of failures


class JsonHandler(web.RequestHandler):
    """Answers with JSON, errors included: ``{"error": text}``."""

    def initialize(self, dataplane: DataPlane) -> None:
        """Take what the route gives."""
        self.dataplane = dataplane

    def set_default_headers(self) -> None:
        """Say who answers, and nothing about the version."""
        self.set_header("Server", "modelserver")
        self.set_header("Content-Type", JSON_TYPE)
        self.set_header("X-Content-Type-Options", "nosniff")

    def reply(self, value: Any, status: int = 200) -> None:
        """Finish with ``value`` as JSON."""
        self.send(Answer(status, orjson.dumps(value)))

    def send(self, answer: Answer) -> None:
        """Finish with an answer made elsewhere."""
        self.set_status(answer.status)
        self.set_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.finish(answer.body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Turn what a handler raised, or tornado's own refusal, into the JSON answer."""
        if status_code == 405:
            allowed = ", ".join(self.allowed_methods())
            self.set_header("Allow", allowed)
            method = self.request.method or ""
            self.finish(encode_error(f"Method {method[:20]} is not allowed here; allowed: {allowed}."))
        elif "exc_info" in kwargs:
            where = escaped(f"{self.request.method} {self.request.path[:_MOST_PATH]}")
            self.send(error_answer(kwargs["exc_info"][1], where, request_ids.of(self.request.connection)))
        else:
            self.finish(encode_error(responses.get(status_code, "Unknown")))

    def log_exception(self, *args: Any) -> None:
        """``error_answer`` logs once what is worth it."""

    def allowed_methods(self) -> list[str]:
        """The methods that this route answers."""
        return [
            verb
            for verb in _VERBS
            if getattr(type(self), verb.lower()) is not getattr(web.RequestHandler, verb.lower())
        ]

    def data_received(self, chunk: bytes) -> None:
        """Not a streaming handler."""


@web.stream_request_body
class PageHandler(JsonHandler):
    """A page that wants no body: what comes is thrown away piece by piece.

    tornado keeps a body and reads forms in it, unless the handler says that it takes the pieces.
    """


class LivenessHandler(PageHandler):
    """``GET /``: the process answers."""

    def get(self) -> None:
        """200 as long as the event loop turns."""
        self.reply({"status": "alive"})


class ModelListHandler(PageHandler):
    """``GET /v1/models``: the names, in the order of registration."""

    def get(self) -> None:
        """List the models, ready or not."""
        self.reply({"models": list(self.dataplane.model_names())})


class ModelStatusHandler(PageHandler):
    """``GET /v1/models/NAME``: 200 when the model can take requests, else 503 or 404."""

    async def get(self, name: str) -> None:
        """Readiness of one model."""
        await self.dataplane.check_model_ready(name)
        self.reply({"name": name, "ready": True})


class MetricsHandler(PageHandler):
    """``GET /metrics``: what all workers have counted, for Prometheus."""

    def initialize(self, dataplane: DataPlane, exposition: Exposition) -> None:  # type: ignore[override]
        """Take what the route gives; tornado hands it on by name."""
        super().initialize(dataplane)
        self._exposition = exposition

    def get(self) -> None:
        """The page. Not on a thread: it takes a millisecond, and must come when all threads wait."""
        self.set_header("Content-Type", TEXT_TYPE)
        self.finish(self._exposition.text())


class OpenAPIHandler(PageHandler):
    """``GET /openapi.json``: the API, for programs."""

    def initialize(self, dataplane: DataPlane, document: bytes) -> None:  # type: ignore[override]
        """Take what the route gives; tornado hands it on by name."""
        super().initialize(dataplane)
        self._document = document

    def get(self) -> None:
        """The document of what this server serves."""
        self.send(Answer(200, self._document))


class PostOnlyHandler(PageHandler):
    """A hot verb called with another method: 405. The POST itself never comes here."""

    def allowed_methods(self) -> list[str]:
        """POST is answered by ``inference``."""
        return ["POST"]


class UnknownPathHandler(PageHandler):
    """Any other path: 404, whatever the method."""

    def answer(self) -> None:
        """Say so; behind the body, so that the connection can be used again."""
        self.set_status(404)
        self.finish(encode_error("invalid path"))

    get = head = post = put = patch = delete = options = answer
