"""Letting web pages of other sites read the answers (CORS), as TensorFlow Serving does when it is told to.

Rules of the room: headers, and the question that a browser asks before a page's request: may it be sent
(preflight). A browser enforces it, for its user; it keeps nobody else out, and lets nobody in. Without
``--enable_cors`` nothing here is used. Bytes that become no request are answered by ``http``, without these
headers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil, iostream, web

from modelserver.protocols.v1_json import encode_error
from modelserver.rest.answers import Answer
from modelserver.rest.inference import GONE, InferenceDelegate

_PLAIN = "Content-Type"
_KEYS = "Content-Type, Authorization, X-API-Key"
_NO_ORIGIN = Answer(
    400,
    encode_error("OPTIONS needs a header Origin that begins with http:// or https://, as browsers send it."),
)


class CORS:
    """The headers that every answer has.

    Args:
        with_keys: the server wants API keys. A browser sends no header that it was not told of here, and
            TensorFlow Serving, which has no keys, names Content-Type only.

    Attributes:
        fields: the headers.
        lines: the same, as they are sent.
    """

    def __init__(self, *, with_keys: bool) -> None:
        self.fields = {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": "POST, GET",
            "Access-Control-Allow-Headers": _KEYS if with_keys else _PLAIN,
        }
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in self.fields.items()).encode()

    def allowing(self, answer: Answer) -> Answer:
        """An answer with these headers, where it has not its own."""
        return answer._replace(headers={**self.fields, **answer.headers})

    def send(self, answer: Answer, connection: httputil.HTTPConnection) -> None:
        """Send an answer with these headers."""
        answer.send_with(self.fields, self.lines, connection)


def asks_for_leave(method: str, target: str) -> bool:
    """Whether a request asks what may be asked of the API."""
    return method == "OPTIONS" and target[:4].lower() in ("/v1/", "/v2/")


class CORSDelegate(InferenceDelegate):
    """Answers a hot verb with these headers.

    Args:
        cors: the headers.
        *args: of ``InferenceDelegate``; so are **kwargs.
    """

    def __init__(self, cors: CORS, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cors = cors
        self._fields = cors.fields

    def _send(self, answer: Answer) -> None:
        try:
            if answer is not GONE:
                self._cors.send(answer, self._connection)
        except iostream.StreamClosedError:
            pass  # the client left while the model worked
        finally:
            self._over(answer)


class PreflightDelegate(httputil.HTTPMessageDelegate):
    """Answers a preflight: 200 and nothing to a browser, 400 to who names no origin.

    Args:
        cors: the headers.
        connection: where the answer goes.
        origin: that the request names.
        done: called with the answer when it is written.
    """

    def __init__(
        self,
        cors: CORS,
        connection: httputil.HTTPConnection,
        origin: str,
        done: Callable[[Answer], None],
    ) -> None:
        self._cors = cors
        self._connection = connection
        self._done = done
        is_browser = origin.lower().startswith(("http://", "https://"))
        self._answer = Answer(200, b"") if is_browser else _NO_ORIGIN

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        """Nothing more to know."""
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Throw a body away."""
        return None

    def finish(self) -> None:
        """The request is complete: answer it."""
        try:
            self._cors.send(self._answer, self._connection)
        except iostream.StreamClosedError:
            pass  # the client has left
        finally:
            self._done(self._answer)


class AddFields(web.OutputTransform):
    """Puts the headers into the answers of tornado's handlers, a user's own among them.

    Args:
        cors: the headers.
        request: as tornado gives it.
    """

    def __init__(self, cors: CORS, request: httputil.HTTPServerRequest) -> None:
        self._cors = cors

    def transform_first_chunk(
        self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        """Add the headers that the handler has not set."""
        for name, value in self._cors.fields.items():
            headers.setdefault(name, value)
        return status_code, headers, chunk
