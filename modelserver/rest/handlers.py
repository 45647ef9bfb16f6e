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
from modelserver.protocols.v1_json import JSON_TYPE, encode_error
from modelserver.rest.answers import Answer, error_answer

_VERBS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")


class JsonHandler(web.RequestHandler):
    """Answers with JSON, errors included: ``{"error": text}``."""

    def initialize(self, dataplane: DataPlane) -> None:
        """Take what the route gives."""
        self.dataplane = dataplane

    def set_default_headers(self) -> None:
        """Say who answers, and nothing about the version."""
        self.set_header("Server", "modelserver")
        self.set_header("Content-Type", JSON_TYPE)

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
            self.send(error_answer(kwargs["exc_info"][1], f"{self.request.method} {self.request.path}"))
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


class LivenessHandler(JsonHandler):
    """``GET /``: the process answers."""

    def get(self) -> None:
        """200 as long as the event loop turns."""
        self.reply({"status": "alive"})


class ModelListHandler(JsonHandler):
    """``GET /v1/models``: the names, in the order of registration."""

    def get(self) -> None:
        """List the models, ready or not."""
        self.reply({"models": list(self.dataplane.model_names())})


class ModelStatusHandler(JsonHandler):
    """``GET /v1/models/NAME``: 200 when the model can take requests, else 503 or 404."""

    async def get(self, name: str) -> None:
        """Readiness of one model."""
        await self.dataplane.check_model_ready(name)
        self.reply({"name": name, "ready": True})


class PostOnlyHandler(JsonHandler):
    """A hot verb called with another method: 405. The POST itself never comes here."""

    def allowed_methods(self) -> list[str]:
        """POST is answered by ``inference``."""
        return ["POST"]


class UnknownPathHandler(JsonHandler):
    """Any other path: 404, whatever the method."""

    def prepare(self) -> None:
        """Answer before the method is looked at."""
        self.set_status(404)
        self.finish(encode_error("invalid path"))
