"""Every URL of the server, on one screen, and the application that finds the code behind each.

    GET   /                              LivenessHandler
    GET   /v1/models                     ModelListHandler
    GET   /v1/models/NAME                ModelStatusHandler
    POST  /v1/models/NAME:predict        InferenceDelegate
    POST  /v1/models/NAME:explain        InferenceDelegate

Rules of the room: URLs only. The two hot verbs are found by string operations and answered by a lean
delegate; everything else is an ordinary tornado route, so a user can add handlers with ``add_handlers``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from urllib.parse import unquote

from tornado import httputil, web

from modelserver import logs
from modelserver.dataplane import DataPlane
from modelserver.http.head import lowered
from modelserver.model import ModelType
from modelserver.rest import handlers
from modelserver.rest.answers import Answer
from modelserver.rest.coding import BodySizes
from modelserver.rest.inference import InferenceDelegate
from modelserver.rest.refusal import RefusalDelegate

_PREFIX = "/v1/models/"
_VERBS = {"predict": ModelType.PREDICTOR, "explain": ModelType.EXPLAINER}


@lru_cache(maxsize=1024)
def inference_target(method: str, path: str) -> tuple[str, ModelType] | None:
    """Model name and verb, if this is a call of a hot verb.

    >>> inference_target("POST", "/v1/models/iris:predict")
    ('iris', <ModelType.PREDICTOR: 2>)
    >>> inference_target("GET", "/v1/models/iris:predict")
    """
    if method != "POST" or not path.startswith(_PREFIX):
        return None
    rest = path[len(_PREFIX) :].partition("?")[0]
    if "/" in rest:
        return None
    # KServe's own client percent-encodes the colon.
    name, colon, verb = (unquote(rest) if "%" in rest else rest).rpartition(":")
    model_type = _VERBS.get(verb)
    return (name, model_type) if colon and name and model_type is not None else None


class Application(web.Application):
    """The server's routes as a tornado application (and so a ``tornado.routing.Router``).

    Runs on the server's own connection and on a stock ``tornado.httpserver.HTTPServer``.

    Args:
        dataplane: the service behind the routes.
        sizes: bounds of bodies.
        access_log: log one line for each request.
    """

    def __init__(self, dataplane: DataPlane, *, sizes: BodySizes, access_log: bool = True) -> None:
        context = {"dataplane": dataplane}
        super().__init__(
            [
                (r"/", handlers.LivenessHandler, context),
                (r"/v1/models", handlers.ModelListHandler, context),
                (r"/v1/models/[^/]+:(?:predict|explain)", handlers.PostOnlyHandler, context),
                (r"/v1/models/([^/:]+)", handlers.ModelStatusHandler, context),
            ],
            default_handler_class=handlers.UnknownPathHandler,
            default_handler_args=context,
        )
        self.dataplane = dataplane
        self.sizes = sizes
        self.access_log = logs.AccessLog() if access_log else None

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """Called by the connection for each request."""
        return _Door(self, server_conn, request_conn)

    def answer_whole(
        self,
        request_conn: httputil.HTTPConnection,
        line: httputil.RequestStartLine,
        fields: Mapping[str, str],
        body: bytes,
    ) -> bool:
        """Answer a request that is there in whole, if it is for a hot verb: ``start_request`` in one step.

        Called by the server's own connection, for 2 us less of the 17 that a small request takes.

        Args:
            request_conn: where the answer goes.
            line: of the request.
            fields: its headers, by lower-case name.
            body: of the request.

        Returns:
            Whether it is; else ``start_request`` is to be called.
        """
        target = inference_target(line.method, line.path)
        if target is None or len(body) > self.sizes.most_in:
            return False
        door = _Door(self, None, request_conn)
        door.enter(line)
        InferenceDelegate(self.dataplane, self.sizes, request_conn, *target, done=door.leave).answer(
            fields, body
        )
        return True

    def cold_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """tornado's own way to a ``RequestHandler``."""
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Called by the connection when it has ended: whatever was asked on it needs no answer any more."""
        in_flight = self.dataplane.lifecycle.in_flight
        for request in [each for each in in_flight if getattr(each, "connection", None) is server_conn]:
            in_flight.discard(request)

    def log_request(self, handler: web.RequestHandler) -> None:
        """Called by tornado when a ``RequestHandler`` has finished."""
        request = handler.request
        assert request.connection is not None
        self.dataplane.lifecycle.in_flight.discard(request.connection)
        if self.access_log is not None:
            self.access_log.add(
                request.connection,
                request.method or "",
                request.uri or "",
                handler.get_status(),
                request.request_time(),
            )


class _Door(httputil.HTTPMessageDelegate):
    """Lets one request in: counts it, bounds its body, and hands it to the code behind its URL."""

    _inner: httputil.HTTPMessageDelegate | None = None
    _received = 0
    _started = 0.0
    _method = _uri = ""

    def __init__(
        self, application: Application, server_conn: object, connection: httputil.HTTPConnection
    ) -> None:
        self._application = application
        self._server_conn = server_conn
        self._connection = connection
        self._in_flight = application.dataplane.lifecycle.in_flight

    def enter(self, line: httputil.RequestStartLine) -> None:
        """Count a request in."""
        self._started = time.perf_counter()
        self._method, self._uri = line.method, line.path
        self._in_flight.add(self._connection)

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        self.enter(start_line)
        application = self._application
        fields = lowered(headers)
        length = fields.get("content-length", "")
        if length.isdecimal() and int(length) > application.sizes.most_in:
            return self._refuse(int(length), wait_for_body="expect" not in fields)
        target = inference_target(self._method, self._uri)
        if target is None:
            self._inner = application.cold_request(self._server_conn, self._connection)
        else:
            self._inner = InferenceDelegate(
                application.dataplane, application.sizes, self._connection, *target, done=self.leave
            )
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._inner is not None
        self._received += len(chunk)
        # A chunked body says no size beforehand.
        if self._received > self._application.sizes.most_in and not self._refused:
            self._inner.on_connection_close()
            return self._refuse(self._received, wait_for_body=True, counted=True)
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        assert self._inner is not None
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._in_flight.discard(self._connection)
        if self._inner is not None:
            self._inner.on_connection_close()

    @property
    def _refused(self) -> bool:
        return isinstance(self._inner, RefusalDelegate)

    def _refuse(self, size: int, *, wait_for_body: bool, counted: bool = False) -> Awaitable[None] | None:
        refusal = RefusalDelegate(
            self._connection, size, self._application.sizes.most_in, counted, self.leave
        )
        self._inner = refusal
        refusal.refuse(wait_for_body=wait_for_body)
        return None

    def leave(self, answer: Answer) -> None:
        """Count it out: it is answered, or its client gone."""
        self._in_flight.discard(self._connection)
        access_log = self._application.access_log
        if access_log is not None:
            elapsed = time.perf_counter() - self._started
            access_log.add(self._connection, self._method, self._uri, answer.status, elapsed)
