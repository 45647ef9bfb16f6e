"""How a value or an error becomes an HTTP answer: the one place that turns exceptions into statuses.

Rules of the room: no routing and no reading of requests. Bodies come from ``protocols``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from http.client import responses
from types import MappingProxyType
from typing import NamedTuple

from tornado import httputil, web

from modelserver.errors import ModelServerError
from modelserver.log_formats import escaped
from modelserver.logs import RateLimited
from modelserver.protocols import v2_rest
from modelserver.protocols.v1_json import JSON_TYPE, encode_error
from modelserver.rest import request_ids
from modelserver.wording import scrubbed, type_and_text

_log = logging.getLogger("modelserver.model")
_failures = RateLimited(
    lambda count, kind, period_s: _log.error("%d more failures in the last %g s: %s", count, period_s, kind)
)
# RFC 9110 section 5: a token, and visible Latin-1 text with spaces and tabs.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


_PIECE = 1024 * 1024
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A status, a body and its headers."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = NO_HEADERS
    tensors: tuple[bytes | memoryview, ...] = ()
    """Binary data behind the body, which is JSON then."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.body) + sum(map(len, self.tensors))

    def send(self, connection: httputil.HTTPConnection) -> None:
        """Write it, and end the exchange.

        Raises:
            StreamClosedError: the client is gone, on a connection that says so.
        """
        request_id = request_ids.of(connection)
        write_answer = getattr(connection, "write_answer", None)  # only the server's own connection has it
        if write_answer is None or self.headers:
            body = b"".join((self.body, *self.tensors)) if self.tensors else self.body
            connection.write_headers(*self.head(request_id), body)
            connection.finish()
        elif self.tensors:
            self.send_with(NO_HEADERS, b"", connection)
        else:
            head = _plain_head(self.status, self.content_type, int(time.time()))
            head = b"%b%b\r\nContent-Length: %d\r\n" % (head, request_id.encode(), len(self.body))
            write_answer(head, self.body)

    def send_with(self, fields: Mapping[str, str], lines: bytes, connection: httputil.HTTPConnection) -> None:
        """As ``send``, with fields that every answer of a server has, as far as it has not its own.

        Args:
            fields: these.
            lines: the same as bytes, each ended by CRLF.
            connection: where it goes.
        """
        write_answer = getattr(connection, "write_answer", None)
        if write_answer is None or self.headers:
            self._replace(headers={**fields, **self.headers}).send(connection)
            return
        head = _plain_head(self.status, self.content_type, int(time.time()))
        request_id = request_ids.of(connection).encode()
        if self.tensors:
            lines += b"%b: %d\r\n" % (v2_rest.HEADER.encode(), len(self.body))
        head = b"%b%b\r\n%bContent-Length: %d\r\n" % (head, request_id, lines, self.size)
        write_answer(head, self.body, *self.tensors)

    async def send_in_pieces(self, fields: Mapping[str, str], connection: httputil.HTTPConnection) -> None:
        """As ``send_with``, a piece at a time as the client takes them: a transport may copy what it gets.

        Raises:
            StreamClosedError: the client is gone.
        """
        answer = self._replace(headers={**fields, **self.headers})
        await connection.write_headers(*answer.head(request_ids.of(connection)), self.body)
        for tensor in self.tensors:
            for start in range(0, len(tensor), _PIECE):
                await connection.write(tensor[start : start + _PIECE])  # type: ignore[arg-type]  # a buffer does
        connection.finish()

    def as_gzip(self, body: bytes) -> Answer:
        """The same answer with its body as gzip."""
        coded = {**self.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return self._replace(body=body, headers=coded)

    def head(self, request_id: str = "") -> tuple[httputil.ResponseStartLine, httputil.HTTPHeaders]:
        """Start line and headers. The reason phrase is the standard's: no user's text goes there."""
        headers = httputil.HTTPHeaders(_fields(self.content_type, int(time.time())))
        if request_id:
            headers[request_ids.HEADER] = request_id
        for name, value in self.headers.items():
            headers[name] = value
        if self.tensors:
            headers[v2_rest.HEADER] = str(len(self.body))
        headers["Content-Length"] = str(self.size)
        return httputil.ResponseStartLine("HTTP/1.1", self.status, _reason(self.status)), headers


def _fields(content_type: str, second: int) -> dict[str, str]:
    # Exactly application/json, without a charset: KServe's client shows an error's text only then.
    return {
        "Server": "modelserver",
        "Date": httputil.format_timestamp(second),  # RFC 9110, 6.6.1
        "Content-Type": content_type,
        "X-Content-Type-Options": "nosniff",  # a browser takes it for nothing else
    }


def _reason(status: int) -> str:
    return responses.get(status, "Unknown")


@lru_cache(maxsize=16)
def _plain_head(status: int, content_type: str, second: int) -> bytes:
    """The head of all answers of one kind in one second, up to the request's id."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    lines += [f"{name}: {value}" for name, value in _fields(content_type, second).items()]
    return ("\r\n".join(lines) + f"\r\n{request_ids.HEADER}: ").encode("latin-1")


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers that a hook set, if they can be sent.

    Raises:
        ValueError: a name or value would break the message's framing, or is not Latin-1 text.
    """
    for name, value in headers.items():
        if (
            not isinstance(value, str)
            or not _HEADER_NAME.fullmatch(name)
            or not _HEADER_VALUE.fullmatch(value)
        ):
            raise ValueError(f"the response header {name!r} cannot be sent with the value {value!r}")
    return headers


def error_answer(error: BaseException, where: str, request_id: str = "-") -> Answer:
    """The answer to a request that failed.

    Args:
        error: what was raised.
        where: the request, for the log: ``predict of model iris``.
        request_id: for the log.
    """
    status, reason = failure(error, where, request_id)
    retry_after_s = getattr(error, "retry_after_s", 0)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else NO_HEADERS
    return Answer(status, encode_error(reason), headers=headers)


def failure(
    error: BaseException, where: str, request_id: str = "-", *, has_begun: bool = False
) -> tuple[int, str]:
    """The HTTP status and the text of a request that failed, for any door.

    A failure that is not the client's goes into the log, with its traceback; of many alike in a short time
    (10 in 10 s, of one type of exception in one place) the others are only counted there.

    Args:
        error: what was raised.
        where: the request, for the log: ``predict of model iris``.
        request_id: for the log.
        has_begun: its answer has: a failure whatever the cause, and only the log has room for its status.
    """
    try:
        status, reason = _status_and_reason(error)
    except Exception:  # what an exception says of itself is the model's code too
        status, reason = 500, type_and_text(error)
    is_failure = (status >= 500 and not _is_expected(status)) or isinstance(error, MemoryError)
    if (is_failure or has_begun) and _failures.admits(f"{where}: {type(error).__name__}"):
        named = {"request_id": request_id}
        _log.error("%s failed [%s]: %s", where, request_id, escaped(reason), exc_info=error, extra=named)
    return status, reason


def _status_and_reason(error: BaseException) -> tuple[int, str]:
    if isinstance(error, ModelServerError):
        return _sendable(error.status), str(error.reason)
    if isinstance(error, web.HTTPError):
        # KServe 0.8 code answers with a status of its own: HTTPError(422, reason="too few rows").
        status = _sendable(error.status_code)
        return status, str(error.reason or _reason(status))
    if isinstance(error, NotImplementedError):
        return 501, scrubbed(str(error)) or "Not implemented."
    if isinstance(error, MemoryError):
        return 503, "Not enough memory for this request."
    return 500, type_and_text(error)


def _sendable(status: object) -> int:
    """A status that a model has chosen; 500 in the place of one that cannot be sent with a text."""
    is_one = isinstance(status, int) and 200 <= status <= 599 and status not in (204, 205, 304)
    return status if isinstance(status, int) and is_one else 500


def _is_expected(status: int) -> bool:
    """Not ready, not implemented and not in time say nothing new in a log."""
    return status in (501, 503, 504)
