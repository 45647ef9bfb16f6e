"""The hot verbs, ``:predict`` and ``:explain``: one lean delegate from the request's bytes to the answer's.

A ``RequestHandler`` costs about 130 us of CPU more for each request (measured: 273 against 139 us, tornado
6.6 on CPython 3.11), so these two verbs do without. Rules of the room: HTTP in and out; the work is the
dataplane's, the bytes are the protocol's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from tornado import httputil, iostream

from modelserver.dataplane import DataPlane
from modelserver.errors import ModelTimeout
from modelserver.http.head import lowered
from modelserver.messages import InferResponse
from modelserver.model import Model, ModelType
from modelserver.protocols import v1_json, v1_raw, v2_rest
from modelserver.protocols.v1_rules import CODECS
from modelserver.rest import request_ids
from modelserver.rest.answers import NO_HEADERS, Answer, checked_headers, error_answer
from modelserver.rest.coding import BodySizes, gzipped, inflate, is_quick, is_worth_gzip, takes_gzip
from modelserver.rest.streaming import StreamedAnswer
from modelserver.rest.targets import Target
from modelserver.rest.v2_exchange import V2Exchange, encode_json
from modelserver.streams import is_stream
from modelserver.v2_inference import only_input
from modelserver.waiting import Backlog

_log = logging.getLogger("modelserver.server")
# Never sent: what the log says of a request whose client left. 499 is nginx's number for it.
GONE = Answer(499, b"")
_LARGE = 256 * 1024
_LARGEST_WHOLE = 1024 * 1024
_ALIGNMENT = 64
_MOST_DIGITS = 16
_sending: set[asyncio.Future[None]] = set()
"""Answers on their way; the loop itself keeps no hold of them."""
_ABOUT_EXAMPLES = (ModelType.CLASSIFIER, ModelType.REGRESSOR)


class InferenceDelegate(httputil.HTTPMessageDelegate):
    """Takes one request on one connection, runs the model, writes the answer.

    Args:
        dataplane: the service.
        sizes: bounds of bodies.
        connection: where the answer goes.
        target: what the URL names.
        done: called once with the answer when it is written or the client is gone.
        hold: called with the size of an inflated body; raises if there is no room for it.
    """

    _waits_for: asyncio.Future[Any] | StreamedAnswer | None = None
    _model: Model | None = None
    _stream: StreamedAnswer | None = None
    _backlog: Backlog | None = None
    _is_over = False
    """It is answered, its client is gone, or its time is up: what comes of the model's work goes nowhere."""
    _headers: Mapping[str, str] = NO_HEADERS
    _fields: Mapping[str, str] = NO_HEADERS
    """That every answer of the server has."""
    _codec = v1_json
    _v2: V2Exchange | None = None
    _room: memoryview | None = None
    """For a large body of tensors, which are not to be joined from pieces: that would be a copy."""
    _filled = 0

    def __init__(
        self,
        dataplane: DataPlane,
        sizes: BodySizes,
        connection: httputil.HTTPConnection,
        target: Target,
        done: Callable[[Answer], None],
        hold: Callable[[int], None],
    ) -> None:
        self._dataplane = dataplane
        self._sizes = sizes
        self._connection = connection
        self._target = target
        self._done = done
        self._hold = hold
        self._chunks: list[bytes] = []
        self._response_headers: dict[str, str] = {}

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        """Keep the headers."""
        self._headers = lowered(headers)
        length = self._headers.get("content-length", "")
        if self._target.is_v2 and length.isdecimal() and int(length) >= _LARGE:
            self._room = _aligned(int(length), self._headers.get(v2_rest.HEADER.lower(), ""))
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Keep a piece of the body; the door has counted it."""
        if self._room is None:
            self._chunks.append(chunk)
        else:
            start, self._filled = self._filled, self._filled + len(chunk)
            self._room[start : self._filled] = chunk
        return None

    def finish(self) -> None:
        """The request is complete: answer it."""
        chunks, self._chunks = self._chunks, []
        room, self._room = self._room, None
        if room is not None:
            self.answer(self._headers, room)
        else:
            self.answer(self._headers, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def answer(self, headers: Mapping[str, str], body: bytes | memoryview) -> None:
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
        assert self._backlog is not None
        self._backlog.enter()
        self._dataplane.deadlines.add(self)
        if self._stream is None:
            future = result if isinstance(result, asyncio.Future) else asyncio.ensure_future(result)
            self._waits_for = future
            future.add_done_callback(self._end)

    def on_connection_close(self) -> None:
        """The client is gone: what still waits in the model's queue is dropped."""
        if self._waits_for is not None and not self._is_over:
            self._drop()
            self._finish(GONE)

    def expire(self) -> None:
        """Its time is up: it is answered 504, and dropped if it still waits in the model's queue."""
        self._drop()
        name = self._target.model_name
        self._dataplane.timed_out(name)
        self._fail(ModelTimeout(name, self._dataplane.deadlines.timeout_s))

    def item_is_due(self) -> None:
        """The next item of the stream has as long as an answer has."""
        self._dataplane.deadlines.add(self)

    def item_is_there(self) -> None:
        """From now on it is the client that takes its time."""
        self._dataplane.deadlines.discard(self)

    def stream_ended(self, error: BaseException | None) -> None:
        """The stream is at its end, or failed."""
        self._leave()
        if error is not None:
            self._fail(error)
            return
        assert self._stream is not None
        try:
            self._stream.finish()
        finally:
            self._over(Answer(200, b""))

    def _begin(self, body: bytes | memoryview) -> Any:
        name, model_type, version, is_v2 = self._target
        model = self._model = self._dataplane.model(name, version)
        backlog = self._backlog = self._dataplane.backlog(name, model)
        if backlog.is_full:
            raise backlog.refusal()
        coding = self._headers.get("content-encoding")
        if coding is not None:
            body = inflate(body, coding, self._sizes.most_in)
            self._hold(len(body))
        if is_v2:
            self._v2 = V2Exchange(model, name, request_ids.of(self._connection))
            payload = self._v2.decode_request(body, self._headers.get(v2_rest.HEADER.lower()))
        else:
            assert type(body) is bytes
            codec = self._codec = CODECS[model.json_rules]
            content_type = self._headers.get("content-type", "")
            if content_type != v1_json.JSON_TYPE and v1_raw.is_raw(content_type):
                payload = self._decode_raw(model, body, content_type)
            else:
                payload = codec.decode_request(body, content_type, model.instances_dtype)
        return self._dataplane.infer(
            model,
            payload,
            self._headers,
            self._response_headers,
            model_type,
            len(body),
            request_ids.of(self._connection),
        )

    def _decode_raw(self, model: Model, body: bytes, content_type: str) -> Any:
        """A V1 body of bytes: what they are says the model's only input, or the model itself."""
        tensor = None if self._target.model_type in _ABOUT_EXAMPLES else only_input(model)
        read_json = partial(self._codec.decode_request, instances_dtype=model.instances_dtype)
        if tensor is None:
            return read_json(body, content_type)
        return v1_raw.decode_request(body, content_type, tensor, partial(read_json, content_type=""))

    def _drop(self) -> None:
        """Nobody waits for the answer any more. A call that runs already goes on: it cannot be stopped."""
        assert self._waits_for is not None
        assert self._backlog is not None
        self._is_over = True
        self._waits_for.cancel()
        self._dataplane.deadlines.discard(self)
        self._backlog.leave(is_answered=False)

    def _end(self, future: asyncio.Future[Any]) -> None:
        if self._is_over:
            if not future.cancelled():
                future.exception()  # else asyncio complains that nobody has looked at it
            return
        try:
            answer = self._answer(future.result())
        except BaseException as error:
            answer = self._failure(error)
        if answer is not None:
            self._leave()
            self._finish(answer)

    def _leave(self) -> None:
        """The model has done its work."""
        self._is_over = True
        self._dataplane.deadlines.discard(self)
        assert self._backlog is not None
        self._backlog.leave()

    def _answer(self, result: Any) -> Answer | None:
        """What the hooks' result is as an answer; none if it comes piece by piece, from now on."""
        if type(result) is not dict and is_stream(result):
            self._stream = self._waits_for = self._streamed(result)
            self._stream.start()
            return None
        if self._v2 is not None:
            body, content_type, *tensors = self._v2.encode_response(result)
            headers = self._response_headers
            return Answer(
                200, body, content_type, checked_headers(headers) if headers else NO_HEADERS, tuple(tensors)
            )
        body, content_type = self._codec.encode_response(result)
        if self._target.model_type in _ABOUT_EXAMPLES:
            self._dataplane.answered_examples(self._target.model_name, result)
        headers = self._response_headers
        return Answer(200, body, content_type, checked_headers(headers) if headers else NO_HEADERS)

    def _streamed(self, stream: Any) -> StreamedAnswer:
        assert self._model is not None
        return StreamedAnswer(
            self._model.stream_items(stream),
            self._connection,
            self,
            encode=self._encode_item if self._v2 is None else self._v2.encode_item,
            accept=self._headers.get("accept", ""),
            response_headers=self._response_headers,
            fields=self._fields,
            where=self._where,
        )

    def _encode_item(self, item: Any) -> tuple[bytes, str]:
        return encode_json(item) if isinstance(item, InferResponse) else self._codec.encode_response(item)

    def _fail(self, error: BaseException) -> None:
        """Answer with an error; an answer that has begun breaks off."""
        if self._stream is not None and self._stream.has_begun:
            self._over(self._stream.break_off(error))
        else:
            self._finish(self._failure(error))

    @property
    def _where(self) -> str:
        name, model_type, version, _ = self._target
        return f"{model_type.verb} of model {name}" + ("" if version is None else f" version {version}")

    def _failure(self, error: BaseException) -> Answer:
        answer = error_answer(error, self._where, request_ids.of(self._connection))
        error.__traceback__ = None  # its frames have the request, and the future that has the error
        return answer

    def _finish(self, answer: Answer) -> None:
        """Send an answer, as gzip where that is wanted and worth it."""
        body = answer.body
        if answer.tensors and answer.size > _LARGEST_WHOLE:
            self._send_in_pieces(answer)
        elif (
            not is_worth_gzip(body, answer.content_type, self._sizes.gzip_from)
            or not takes_gzip(self._headers.get("accept-encoding", ""))
            or any(name.lower() == "content-encoding" for name in answer.headers)
        ):
            self._send(answer)
        elif is_quick(body):
            self._send(answer.as_gzip(gzipped(body)))
        else:
            on_thread = asyncio.get_running_loop().run_in_executor(None, gzipped, body)
            # The plain answer is right as well, should there be no memory for another one.
            on_thread.add_done_callback(
                lambda done: self._send(answer if done.exception() else answer.as_gzip(done.result()))
            )

    def _send(self, answer: Answer) -> None:
        try:
            if answer is not GONE:
                answer.send(self._connection)
        except iostream.StreamClosedError:
            pass  # the client left while the model worked
        finally:
            self._over(answer)

    def _over(self, answer: Answer) -> None:
        """Nothing of the request is needed any more. What holds one another would keep the body until the
        garbage collector comes, which may be long."""
        self._v2 = self._waits_for = self._stream = None
        self._done(answer)

    def _send_in_pieces(self, answer: Answer) -> None:
        sending = asyncio.ensure_future(answer.send_in_pieces(self._fields, self._connection))
        _sending.add(sending)

        def sent(future: asyncio.Future[None]) -> None:
            _sending.discard(sending)
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, iostream.StreamClosedError):
                _log.error("An answer of %d bytes could not be sent", answer.size, exc_info=error)
            self._over(answer)

        sending.add_done_callback(sent)


def _aligned(size: int, json_length: str) -> memoryview:
    """Memory for a body, in which what follows the JSON begins where any number may.

    Not a ``bytearray``, which would be filled with zeros, and so take memory, before anything has come.
    """
    room = np.empty(size + _ALIGNMENT, np.uint8)
    offset = int(json_length) if json_length.isdecimal() and len(json_length) < _MOST_DIGITS else 0
    start = -(room.ctypes.data + offset) % _ALIGNMENT
    return room[start : start + size].data
