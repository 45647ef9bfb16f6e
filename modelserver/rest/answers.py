"""How a value or an error becomes an HTTP answer: the one place that turns exceptions into statuses.

Rules of the room: no routing and no reading of requests. Bodies come from ``protocols``.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from http.client import responses
from types import MappingProxyType
from typing import NamedTuple

from tornado import httputil, web

from modelserver.errors import ModelServerError
from modelserver.protocols.v1_json import JSON_TYPE, encode_error

_log = logging.getLogger("modelserver.model")
# RFC 9110 section 5: a token, and visible Latin-1 text with spaces and tabs.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A status, a body and its headers."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = NO_HEADERS

    def send(self, connection: httputil.HTTPConnection) -> None:
        """Write it, and end the exchange.

        Raises:
            StreamClosedError: the client is gone, on a connection that says so.
        """
        write_answer = getattr(connection, "write_answer", None)  # only the server's own connection has it
        if write_answer is None or self.headers:
            connection.write_headers(*self.head(), self.body)
            connection.finish()
        else:
            head = _plain_head(self.status, self.content_type, int(time.time()))
            write_answer(b"%b%d\r\n" % (head, len(self.body)), self.body)

    def as_gzip(self, body: bytes) -> Answer:
        """The same answer with its body as gzip."""
        coded = {**self.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return self._replace(body=body, headers=coded)

    def head(self) -> tuple[httputil.ResponseStartLine, httputil.HTTPHeaders]:
        """Start line and headers. The reason phrase is the standard's: no user's text goes there."""
        headers = httputil.HTTPHeaders(_fields(self.content_type, int(time.time())))
        for name, value in self.headers.items():
            headers[name] = value
        headers["Content-Length"] = str(len(self.body))
        return httputil.ResponseStartLine("HTTP/1.1", self.status, _reason(self.status)), headers


def _fields(content_type: str, second: int) -> dict[str, str]:
    # Exactly application/json, without a charset: KServe's client shows an error's text only then.
    return {
        "Server": "modelserver",
        "Date": httputil.format_timestamp(second),  # RFC 9110, 6.6.1
        "Content-Type": content_type,
    }


def _reason(status: int) -> str:
    return responses.get(status, "Unknown")


@lru_cache(maxsize=16)
def _plain_head(status: int, content_type: str, second: int) -> bytes:
    """The head of all answers of one kind in one second, up to the body's length."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    lines += [f"{name}: {value}" for name, value in _fields(content_type, second).items()]
    return ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")


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


def error_answer(error: BaseException, where: str) -> Answer:
    """The answer to a request that failed.

    Args:
        error: what was raised.
        where: the request, for the log: ``predict of model iris``.
    """
    if isinstance(error, ModelServerError):
        status, reason = error.status, error.reason
    elif isinstance(error, web.HTTPError):
        # KServe 0.8 code answers with a status of its own: HTTPError(422, reason="too few rows").
        status = error.status_code
        reason = error.reason or responses.get(status, "Unknown")
    elif isinstance(error, NotImplementedError):
        status, reason = 501, str(error) or "Not implemented."
    else:
        status, reason = 500, _unknown(error)
    if status >= 500 and not _is_expected(status):
        request_id = uuid.uuid4().hex[:12]
        _log.error("%s failed [%s]: %s", where, request_id, reason, exc_info=error)
        return Answer(status, encode_error(reason), headers={"X-Error-ID": request_id})
    return Answer(status, encode_error(reason))


def _is_expected(status: int) -> bool:
    """Not ready and not implemented say nothing new in a log."""
    return status in (501, 503)


def _unknown(error: BaseException) -> str:
    """Type and text, as KServe writes it. An OSError's text holds a path: only its cause is shown."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__} : {text}"
