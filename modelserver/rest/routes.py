"""Every URL of the server, on one screen, and the application that finds the code behind each.

    GET   /                              LivenessHandler
    GET   /v1/models                     ModelListHandler
    GET   /v1/models/NAME                ModelStatusHandler
    GET   /v1/models/NAME/VERSION        VersionStatusHandler
    GET   /v1/models/NAME/metadata       MetadataHandler        also of one VERSION
    POST  /v1/models/NAME:predict        InferenceDelegate      of one VERSION; :explain, :classify, :regress
    GET   /v2                            ServerMetadataHandler
    GET   /v2/health/live                ServerLiveHandler
    GET   /v2/health/ready               ServerReadyHandler
    GET   /v2/models                     ModelListHandler
    GET   /v2/models/NAME                ModelMetadataHandler   also of one VERSION
    GET   /v2/models/NAME/ready          ModelReadyHandler      the same
    POST  /v2/models/NAME/infer          InferenceDelegate      the same
    POST  /v2/repository/index           IndexHandler
    POST  /v2/repository/models/NAME/load, and /unload          LoadHandler, UnloadHandler: for administrators
    GET   /metrics                       MetricsHandler         also TensorFlow Serving's, where it is told to
    GET   /openapi.json                  OpenAPIHandler

VERSION is ``versions/NUMBER`` or ``labels/LABEL``, as in TensorFlow Serving.

Rules of the room: URLs only. The two hot verbs are found by string operations and answered by a lean
delegate; everything else is an ordinary tornado route, so a user can add handlers with ``add_handlers``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from tornado import httputil, web

from modelserver.access_log import AccessLog
from modelserver.dataplane import DataPlane
from modelserver.errors import ServerOverloaded
from modelserver.http.head import Headers, lowered
from modelserver.metrics.counting import Answers, Metrics
from modelserver.metrics.exposition import TEXT_TYPE, Exposition
from modelserver.metrics.tfs_counting import TFSModelMetrics
from modelserver.metrics.tfs_exposition import TEXT_TYPE as TFS_TEXT_TYPE
from modelserver.metrics.tfs_exposition import TFSExposition
from modelserver.model import ModelType
from modelserver.rest import handlers, openapi, request_ids, v2_handlers, v2_repository
from modelserver.rest.access import UNAUTHORIZED, Access
from modelserver.rest.answers import Answer, error_answer
from modelserver.rest.body_memory import BodyMemory
from modelserver.rest.breaking import breaking
from modelserver.rest.coding import BodySizes
from modelserver.rest.cors import CORS, AddFields, CORSDelegate, PreflightDelegate, asks_for_leave
from modelserver.rest.inference import InferenceDelegate
from modelserver.rest.refusal import RefusalDelegate, too_large
from modelserver.rest.targets import Target, inference_target

_ANYBODY = Access()
_NAME, _VERSION = r"/(?i:v1/models)/([^/:]+)", r"/(?i:(versions|labels))/([^/:]+)"
_V2_MODEL = r"/v2/models/([^/]+)(?:/(versions|labels)/([^/]+))?"
_WORDS = {kind: kind.verb for kind in ModelType}  # a property takes 0.1 us longer
_VERB = f":(?:{'|'.join(kind.verb for kind in ModelType)})"
# What load balancers, Kubernetes and Prometheus ask every few seconds.
_PROBE = re.compile(r"/(|metrics|v1/models/[^/:?]+|v2/health/(live|ready)|v2/models/[^?]+/ready)(\?.*)?")


class Application(web.Application):
    """The server's routes as a tornado application (and so a ``tornado.routing.Router``).

    Runs on the server's own connection and on a stock ``tornado.httpserver.HTTPServer``.

    Args:
        dataplane: the service behind the routes.
        sizes: bounds of bodies.
        access_log: log one line for each request.
        access_log_probes: also for those that only ask whether the server or a model is well, and it is.
        access: who may ask.
        metrics: counts, and are shown on ``/metrics``; without, that page is not there.
        monitoring_path: where they are shown by TensorFlow Serving's names as well; empty: nowhere.
        enable_cors: web pages of other sites may read the answers.

    Attributes:
        vital_targets: answered on any connection, also where the server has no room for another one: it is
            full, but alive.
    """

    vital_targets = frozenset((b"/", b"/v2/health/live"))

    def __init__(
        self,
        dataplane: DataPlane,
        *,
        sizes: BodySizes,
        access_log: bool = True,
        access_log_probes: bool = False,
        access: Access = _ANYBODY,
        metrics: Metrics | None = None,
        monitoring_path: str = "",
        enable_cors: bool = False,
    ) -> None:
        context = {"dataplane": dataplane}
        shown: list[Any] = []
        if metrics is not None and monitoring_path:  # the first of two with one path is the one
            metrics.count_more(TFSModelMetrics)
            page = {"page": TFSExposition(metrics.memory, self._platforms), "content_type": TFS_TEXT_TYPE}
            shown.append((re.escape(monitoring_path), handlers.MetricsHandler, {**context, **page}))
        if metrics is not None:
            own = {"page": Exposition(metrics.memory), "content_type": TEXT_TYPE}
            shown.append((r"/metrics", handlers.MetricsHandler, {**context, **own}))
        document = openapi.document(metrics=metrics is not None, admin=access.admin_guard is not None)
        description = {**context, "document": document}
        super().__init__(
            [
                (r"/", handlers.LivenessHandler, context),
                (r"/v1/models", handlers.ModelListHandler, context),
                (rf"/v1/models/[^/]+{_VERB}", handlers.PostOnlyHandler, context),
                (rf"{_NAME}(?:{_VERSION})?{_VERB}", handlers.PostOnlyHandler, context),
                (_NAME, handlers.ModelStatusHandler, context),
                (rf"{_NAME}{_VERSION}", handlers.VersionStatusHandler, context),
                (rf"{_NAME}(?:{_VERSION})?/metadata", handlers.MetadataHandler, context),
                (r"/v2", v2_handlers.ServerMetadataHandler, context),
                (r"/v2/health/live", v2_handlers.ServerLiveHandler, context),
                (r"/v2/health/ready", v2_handlers.ServerReadyHandler, context),
                (r"/v2/models", handlers.ModelListHandler, context),
                (_V2_MODEL, v2_handlers.ModelMetadataHandler, context),
                (rf"{_V2_MODEL}/ready", v2_handlers.ModelReadyHandler, context),
                (rf"{_V2_MODEL}/infer", handlers.PostOnlyHandler, context),
                (r"/v2/repository/index", v2_repository.IndexHandler, context),
                (r"/v2/repository/models/([^/]+)/load", v2_repository.LoadHandler, context),
                (r"/v2/repository/models/([^/]+)/unload", v2_repository.UnloadHandler, context),
                (r"/openapi\.json", handlers.OpenAPIHandler, description),
                *shown,
            ],
            default_handler_class=handlers.UnknownPathHandler,
            default_handler_args=context,
        )
        self.dataplane = dataplane
        self.sizes = sizes
        self.body_memory = BodyMemory(sizes.most_held)
        self.api_keys = access.api_keys
        self.admin_guard = access.admin_guard
        self.access_log = AccessLog() if access_log else None
        self.metrics = metrics
        self._logs_probes = access_log_probes
        self._monitoring_path = monitoring_path
        self.add_transform(request_ids.AddRequestID)
        self.new_delegate: Callable[..., InferenceDelegate] = InferenceDelegate
        self.cors = CORS(with_keys=self.api_keys is not None) if enable_cors else None
        if self.cors is not None:
            self.new_delegate = partial(CORSDelegate, self.cors)
            self.transforms.append(partial(AddFields, self.cors))  # type: ignore[arg-type]  # it is called

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
        if self.api_keys is not None:
            admitted = self.api_keys.admitted(line.method, line.path, fields)
            if admitted is None:
                return False  # the door refuses it
            fields = admitted
        door = _Door(self, None, request_conn)
        door.enter(line, fields)
        door.target = target
        self.new_delegate(
            self.dataplane, self.sizes, request_conn, target, done=door.leave, hold=door.hold
        ).answer(fields, body)
        return True

    def cold_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """tornado's own way to a ``RequestHandler``."""
        return super().start_request(server_conn, request_conn)

    def get_handler_delegate(
        self,
        request: httputil.HTTPServerRequest,
        target_class: type[web.RequestHandler],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Called by tornado for a request and the handler that it goes to."""
        handler_class = breaking(target_class)  # type: ignore[arg-type]  # a class is hashable
        return super().get_handler_delegate(request, handler_class, *args, **kwargs)

    def on_close(self, server_conn: object) -> None:
        """Called by the connection when it has ended: whatever was asked on it needs no answer any more."""
        in_flight = self.dataplane.lifecycle.in_flight
        for request in [each for each in in_flight if getattr(each, "connection", None) is server_conn]:
            in_flight.discard(request)
            self.body_memory.give_back(request)

    def answers_of(self, model_name: str) -> Answers:
        """Who counts the answers for a model; one and the same for all names that no model has."""
        assert self.metrics is not None
        if model_name and self.dataplane.repository.get_model(model_name) is not None:
            return self.metrics.model(model_name)
        return self.metrics.unknown

    def _is_probe(self, uri: str) -> bool:
        return bool(_PROBE.fullmatch(uri)) or uri.partition("?")[0] == self._monitoring_path

    def _platforms(self) -> dict[str, str]:
        """What runs each model, by its name."""
        return {name: model.platform for name, model in self.dataplane.repository.get_models().items()}

    def log_request(self, handler: web.RequestHandler) -> None:
        """Called by tornado when a ``RequestHandler`` has finished."""
        request = handler.request
        assert request.connection is not None
        self.dataplane.lifecycle.in_flight.discard(request.connection)
        self.body_memory.give_back(request.connection)
        if self.metrics is not None:
            self.metrics.unknown.answered("other", handler.get_status(), request.request_time())
        if self.access_log is not None:
            method, uri = request.method or "", request.uri or ""
            self.access_log.add(
                request.connection,
                method,
                uri,
                handler.get_status(),
                request.request_time(),
                is_muted_probe=not self._logs_probes and method == "GET" and self._is_probe(uri),
            )


class _Door(httputil.HTTPMessageDelegate):
    """Lets one request in: counts it, bounds its body, and hands it to the code behind its URL."""

    _inner: httputil.HTTPMessageDelegate | None = None
    _received = 0
    _started = 0.0
    _method = _uri = ""
    target: Target | None = None
    _holds = False

    def __init__(
        self, application: Application, server_conn: object, connection: httputil.HTTPConnection
    ) -> None:
        self._application = application
        self._server_conn = server_conn
        self._connection = connection
        self._in_flight = application.dataplane.lifecycle.in_flight

    def enter(self, line: httputil.RequestStartLine, fields: Mapping[str, str]) -> str:
        """Count a request in, and name it.

        Returns:
            Its name, which its connection has from now on.
        """
        self._started = time.perf_counter()
        self._method, self._uri = line.method, line.path
        self._in_flight.add(self._connection)
        request_id = request_ids.request_id(fields)
        self._connection.request_id = request_id  # type: ignore[attr-defined]  # ours has it, tornado's gets it
        return request_id

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        application = self._application
        fields = lowered(headers)
        request_id = self.enter(start_line, fields)
        is_preflight = application.cors is not None and asks_for_leave(self._method, self._uri)
        # A browser sends a preflight without the page's headers, so without its key; it tells no secret.
        if application.api_keys is not None and not is_preflight:
            admitted = application.api_keys.admitted(self._method, self._uri, fields)
            if admitted is None:
                return self._refuse(UNAUTHORIZED, wait_for_body="expect" not in fields)
            if admitted is not fields:
                kept = [(name, value) for name, value in headers.get_all() if name.lower() in admitted]
                headers = Headers(kept, admitted)
        target = inference_target(self._method, self._uri)
        self.target = target
        length = fields.get("content-length", "")
        if length.isdecimal() and int(length) > application.sizes.most_in:
            answer = too_large(int(length), application.sizes.most_in, counted=False)
            return self._refuse(answer, wait_for_body="expect" not in fields)
        if length.isdecimal():
            try:
                application.body_memory.check(int(length))
            except ServerOverloaded as error:
                return self._refuse(error_answer(error, "request"), wait_for_body="expect" not in fields)
        if application.cors is not None and is_preflight:
            origin = fields.get("origin", "")
            self._inner = PreflightDelegate(application.cors, self._connection, origin, done=self.leave)
        elif target is None:
            headers[request_ids.HEADER] = request_id  # as `inference` does for hooks
            self._inner = application.cold_request(self._server_conn, self._connection)
        else:
            self._inner = application.new_delegate(
                application.dataplane,
                application.sizes,
                self._connection,
                target,
                done=self.leave,
                hold=self.hold,
            )
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._inner is not None
        self._received += len(chunk)
        # A chunked body says no size beforehand.
        most = self._application.sizes.most_in
        if not self._refused:
            if self._received > most:
                self._inner.on_connection_close()
                return self._refuse(too_large(self._received, most, counted=True), wait_for_body=True)
            try:
                self.hold(len(chunk))
            except ServerOverloaded as error:
                self._inner.on_connection_close()
                return self._refuse(error_answer(error, "request"), wait_for_body=True)
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        # Let go of it: it knows this door, and both would keep the body until the collector comes.
        inner, self._inner = self._inner, None
        assert inner is not None
        inner.finish()

    def hold(self, size: int) -> None:
        """Count bytes that are held for the request until it is over."""
        self._application.body_memory.hold(self._connection, size)
        self._holds = True

    def on_connection_close(self) -> None:
        self._in_flight.discard(self._connection)
        self._application.body_memory.give_back(self._connection)
        if self._inner is not None:
            self._inner.on_connection_close()

    @property
    def _refused(self) -> bool:
        return isinstance(self._inner, RefusalDelegate)

    def _refuse(self, answer: Answer, *, wait_for_body: bool) -> Awaitable[None] | None:
        if self._application.cors is not None:
            answer = self._application.cors.allowing(answer)
        self._inner = refusal = RefusalDelegate(self._connection, answer, self.leave)
        refusal.refuse(wait_for_body=wait_for_body)
        return None

    def leave(self, answer: Answer) -> None:
        """Count it out: it is answered, or its client gone."""
        self._in_flight.discard(self._connection)
        if self._holds:
            self._application.body_memory.give_back(self._connection)
        elapsed = time.perf_counter() - self._started
        application, target = self._application, self.target
        metrics, access_log = application.metrics, application.access_log
        name = "" if target is None else target.model_name
        if metrics is not None:
            verb = "other" if target is None else _WORDS[target.model_type]
            answers = metrics.models.get(name) or application.answers_of(name)
            answers.answered(verb, answer.status, elapsed)
        if access_log is not None:
            access_log.add(self._connection, self._method, self._uri, answer.status, elapsed, name)
