"""The cold routes: small ``RequestHandler`` classes, one for each kind of page.

Rules of the room: ask the dataplane, write JSON. The hot verbs are in ``inference``; every URL is in
``routes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from http.client import responses
from typing import Any

import orjson
from tornado import web

from modelserver.dataplane import DataPlane, of_number
from modelserver.errors import InvalidInput, ModelNotReady, VersionNotFound
from modelserver.log_formats import escaped
from modelserver.metrics.exposition import Page
from modelserver.protocols.v1_json import JSON_TYPE, encode_error
from modelserver.repository.versions import LARGEST_VERSION, VersionStatus
from modelserver.rest import request_ids
from modelserver.rest.answers import Answer, error_answer
from modelserver.wording import scrubbed

_VERBS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
_MOST_DIGITS = 40
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
    """``GET /v1/models/NAME``: 200 when the model can take requests, else 503 or 404.

    KServe's answer and TensorFlow Serving's in one; the status is KServe's. So a model that is not ready says
    what its versions do beside the error.
    """

    async def get(self, name: str) -> None:
        """Readiness of one model, and its versions."""
        status, answer = 200, {"name": name, "ready": True}
        try:
            await self.dataplane.check_model_here(name)
        except ModelNotReady as error:
            if name not in self.dataplane.repository.versions:
                raise
            status, answer = error.status, {"error": error.reason}
        self.reply(answer | _version_statuses(self.dataplane.version_statuses(name)), status)


class VersionStatusHandler(PageHandler):
    """``GET /v1/models/NAME/versions/N`` and ``/labels/L``: 200 whatever the state is."""

    def get(self, name: str, kind: str, wanted: str) -> None:
        """State of one version. A label shows all versions, known or not, as in TensorFlow Serving."""
        statuses = self.dataplane.servable_statuses(name)
        if kind.lower() == "versions":
            statuses = of_number(statuses, version_number(wanted), name)
        self.reply(_version_statuses(statuses))


class MetadataHandler(PageHandler):
    """``GET /v1/models/NAME/metadata``, also of one version: the signatures, in TensorFlow Serving's form."""

    def get(self, name: str, kind: str | None = None, wanted: str | None = None) -> None:
        """Signatures of one version, by default the newest."""
        model = self.dataplane.servable(name, asked_version(kind, wanted))
        spec = {"name": name, "signature_name": "", "version": str(model.version or 1)}
        definitions = {"signature_def": {"signature_def": model.signature_definitions()}}
        self.reply({"model_spec": spec, "metadata": definitions})


def asked_version(kind: str | None, wanted: str | None) -> int | str | None:
    """The version that a path has, behind ``versions`` a number, else a label; ``None``: the newest.

    Raises:
        InvalidInput: as ``version_number``.
    """
    if kind is None or wanted is None or kind.lower() != "versions":
        return wanted
    return version_number(wanted)


def version_number(text: str) -> int:
    """A version's number, as a path has it: digits, leading zeros dropped.

    Raises:
        InvalidInput: it is no number, or over 64 bits.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS or int(text) > LARGEST_VERSION:
        raise InvalidInput(f"Expected a version number up to {LARGEST_VERSION}, got {text[:_MOST_DIGITS]}")
    return int(text)


def _version_statuses(statuses: Sequence[VersionStatus]) -> dict[str, Any]:
    return {
        "model_version_status": [
            {
                "version": str(status.number),
                "state": status.state.name,
                "status": {
                    "error_code": status.error_code,
                    "error_message": scrubbed(status.error_message),
                },
            }
            for status in statuses
        ]
    }


class MetricsHandler(PageHandler):
    """``GET /metrics``: what all workers have counted, for Prometheus."""

    def initialize(  # type: ignore[override]
        self, dataplane: DataPlane, page: Page, content_type: str
    ) -> None:
        """Take what the route gives; tornado hands it on by name."""
        super().initialize(dataplane)
        self._page = page
        self._content_type = content_type

    def get(self) -> None:
        """The page. Not on a thread: it takes a millisecond, and must come when all threads wait."""
        self.set_header("Content-Type", self._content_type)
        self.finish(self._page.text())


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
    """A hot verb called with another method: 405. A POST comes here only if it names no version that can be:
    the others are answered by ``inference``."""

    def post(self, name: str = "", kind: str = "", wanted: str = "") -> None:
        """Say what a version is."""
        raise VersionNotFound(name, version_number(wanted))


class UnknownPathHandler(PageHandler):
    """Any other path: 404, whatever the method."""

    def answer(self) -> None:
        """Say so; behind the body, so that the connection can be used again."""
        self.set_status(404)
        self.finish(encode_error("invalid path"))

    get = head = post = put = patch = delete = options = answer
