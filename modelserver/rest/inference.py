"""The hot verbs, ``:predict`` and ``:explain``: one lean delegate from the request's bytes to the answer's.

A ``RequestHandler`` costs about 130 us of CPU more for each request (measured: 273 against 139 us, tornado
6.6 on CPython 3.11), so these two verbs do without. Rules of the room: HTTP in and out; the work is the
dataplane's, the bytes are the protocol's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tornado import httputil, iostream

from modelserver.dataplane import DataPlane
from modelserver.http.head import lowered
from modelserver.model import ModelType
from modelserver.protocols import v1_json
from modelserver.rest.answers import NO_HEADERS, Answer, checked_headers, error_answer
from modelserver.rest.coding import BodySizes, gzipped, inflate, is_quick, is_worth_gzip, takes_gzip

# Never sent: what the log says of a request whose client left. 499 is nginx's number for it.
_GONE = Answer(499, b"")
_VERB = {ModelType.PREDICTOR: "predict", ModelType.EXPLAINER: "explain"}


class InferenceDelegate(httputil.HTTPMessageDelegate):
    """Takes one request on one connection, runs the model, writes the answer.

    Args:
        dataplane: the service.
        sizes: bounds of bodies.
        connection: where the answer goes.
        model_name: as in the URL, decoded.
        model_type: predict or explain.
        done: called once with the answer when it is written or the client is gone.
    """

    _waits_for: asyncio.Future[Any] | None = None
    _client_gone = False
    _headers: Mapping[str, str] = NO_HEADERS

    def __init__(
        self,
        dataplane: DataPlane,
        sizes: BodySizes,
        connection: httputil.HTTPConnection,
        model_name: str,
        model_type: ModelType,
        done: Callable[[Answer], None],
    ) -> None:
        self._dataplane = dataplane
        self._sizes = sizes
        self._connection = connection
        self._model_name = model_name
        self._model_type = model_type
        self._done = done
        self._chunks: list[bytes] = []
        self._response_headers: dict[str, str] = {}

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        """Keep the headers."""
        self._headers = lowered(headers)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Keep a piece of the body; the door has counted it."""
        self._chunks.append(chunk)
        return None

    def finish(self) -> None:
        """The request is complete: answer it."""
        chunks, self._chunks = self._chunks, []
        self.answer(self._headers, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def answer(self, headers: Mapping[str, str], body: bytes) -> None:
        """Answer a request that is there in whole.

        Args:
            headers: by lower-case name.
            body: as it came.
        """
        self._headers = headers
        try:
            result = self._begin(body)
            answer = None if hasattr(result, "__await__") else self._answer(result)
        except BaseException as error:  # one request's failure, of whatever kind, is that request's answer
            answer = self._failure(error)
        if answer is not None:
            self._finish(answer)
            return
        # Not in the interface: tornado's connection tells of a client that leaves from now on only so.
        set_close_callback = getattr(self._connection, "set_close_callback", None)
        if set_close_callback is not None:
            set_close_callback(self.on_connection_close)
        self._waits_for = asyncio.ensure_future(result)
        self._waits_for.add_done_callback(self._end)

    def on_connection_close(self) -> None:
        """The client is gone: what still waits in the model's queue is dropped."""
        self._client_gone = True
        if self._waits_for is not None:
            self._waits_for.cancel()

    def _begin(self, body: bytes) -> Any:
        model = self._dataplane.model(self._model_name)
        coding = self._headers.get("content-encoding")
        if coding is not None:
            body = inflate(body, coding, self._sizes.most_in)
        payload = v1_json.decode_request(body, self._headers.get("content-type", ""), model.instances_dtype)
        return self._dataplane.infer(
            model, payload, self._headers, self._response_headers, self._model_type, len(body)
        )

    def _end(self, future: asyncio.Future[Any]) -> None:
        try:
            answer = self._answer(future.result())
        except BaseException as error:
            is_cancelled = self._client_gone and isinstance(error, asyncio.CancelledError)
            answer = _GONE if is_cancelled else self._failure(error)
        self._finish(answer)

    def _answer(self, result: Any) -> Answer:
        body, content_type = v1_json.encode_response(result)
        headers = self._response_headers
        return Answer(200, body, content_type, checked_headers(headers) if headers else NO_HEADERS)

    def _failure(self, error: BaseException) -> Answer:
        return error_answer(error, f"{_VERB[self._model_type]} of model {self._model_name}")

    def _finish(self, answer: Answer) -> None:
        """Send an answer, as gzip where that is wanted and worth it."""
        body = answer.body
        if (
            not is_worth_gzip(body, answer.content_type, self._sizes.gzip_from)
            or not takes_gzip(self._headers.get("accept-encoding", ""))
            or any(name.lower() == "content-encoding" for name in answer.headers)
        ):
            self._send(answer)
        elif is_quick(body):
            self._send(answer.as_gzip(gzipped(body)))
        else:
            on_thread = asyncio.get_running_loop().run_in_executor(None, gzipped, body)
            on_thread.add_done_callback(lambda done: self._send(answer.as_gzip(done.result())))

    def _send(self, answer: Answer) -> None:
        try:
            if answer is not _GONE:
                answer.send(self._connection)
        except iostream.StreamClosedError:
            pass  # the client left while the model worked
        finally:
            self._done(answer)
