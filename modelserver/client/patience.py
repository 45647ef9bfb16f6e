"""One call's deadline, and what is tried again when: all that both clients and all transports know of time.

    answered 503 or 429              again, after Retry-After or a pause that doubles; as often as the
                                     client's ``retries`` says
    a kept connection was closed     again at once, once, if the request could not be sent whole, or the end
                                     came at once: the server had ended it before the request came
    anything else, timeouts too      never: the server may have done what was asked

Rules of the room: no I/O, and nothing waits here.
"""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httptools
import orjson

from modelserver.client.calls import Call, Reply
from modelserver.client.failures import (
    CallFailed,
    CallTimeout,
    ClientError,
    ServerUnreachable,
    UnreadableAnswer,
)

_AGAIN = (429, 503)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_LONGEST_S = 7 * 24 * 3600.0
"""What a socket can wait; so ``math.inf`` may be given."""
_QUOTED = 300
AT_ONCE_S = 0.1
"""Within which a server that had closed a connection says so: a round trip. Later, a model was at work."""


class Patience:
    """How long one call may take, and how often it is tried.

    Args:
        url: of the server, for messages.
        timeout_s: for the call, tries and pauses included.
        retries: tries after the first.
        now: seconds on a clock that never goes back.

    Attributes:
        url: what is asked now, for messages.

    Raises:
        ValueError: ``timeout_s`` is not over 0.
    """

    def __init__(
        self, url: str, timeout_s: float, retries: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout is {timeout_s!r} and must be more than 0 seconds")
        self._server = self.url = url
        self._timeout_s = timeout_s
        self._now = now
        self._until = now() + min(timeout_s, _LONGEST_S)
        self._retries = retries
        self._tries = 0

    def begin(self, call: Call) -> None:
        """Another request of the same call begins: the deadline stays, tries are counted anew."""
        self.url = self._server + call.path
        self._tries = 0

    def left_s(self) -> float:
        """Seconds until the deadline.

        Raises:
            CallTimeout: there are none.
        """
        left = self._until - self._now()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> CallTimeout:
        """What is raised at the deadline."""
        return CallTimeout(self.url, self._timeout_s)

    def pause_s(self, call: Call, reply: Reply) -> float | None:
        """How long to wait before the call is tried again; ``None``: the reply is its answer.

        Raises:
            CallFailed: the reply is an error, and there is no further try.
        """
        status = reply.status
        if status in call.answers:
            return None
        wanted_s = retry_after_s(reply.headers.get("retry-after", ""))
        self._tries += 1
        if status in _AGAIN and self._tries <= self._retries:
            pause_s = pause_before(self._tries, wanted_s)
            if self._now() + pause_s < self._until:
                return pause_s
        raise CallFailed(self.url, status, reason_of(reply), wanted_s or 0.0)


def pause_before(retry: int, wanted_s: float | None) -> float:
    """Seconds to wait before the n-th further try: different for each client, as all were refused at once.

    Args:
        retry: 1 for the first.
        wanted_s: what the server has asked for.
    """
    if wanted_s is not None:
        return wanted_s * random.uniform(1.0, 1.1)  # noqa: S311 - no secret
    longest = min(_FIRST_PAUSE_S * 2.0 ** (retry - 1), _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


def retry_after_s(value: str) -> float | None:
    """The seconds of a ``Retry-After`` header, which may be a date, too; ``None``: it has none.

    >>> retry_after_s("7"), retry_after_s("soon")
    (7.0, None)
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date: datetime = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


class NothingCame(ServerUnreachable):
    """A connection ended before a request could come. If it was a kept one, another may be tried."""


def broken_off(
    error: BaseException, has_begun: bool, sent_at: float | None, patience: Patience
) -> BaseException:
    """What is raised when a request was sent, or begun to be, and its answer did not come in whole.

    Args:
        error: what the socket or the parser of the answer said. Anything else is raised itself.
        has_begun: something of the answer came.
        sent_at: when the last of the request was sent, on the monotonic clock; ``None``: it was not.
        patience: of the call.
    """
    if isinstance(error, ClientError):
        return error
    if isinstance(error, httptools.HttpParserError):
        return UnreadableAnswer(patience.url, f"the answer is no HTTP/1.1: {error}")
    if not isinstance(error, OSError):
        return error
    if isinstance(error, TimeoutError):
        return patience.timed_out()
    if has_begun:
        return ServerUnreachable(patience.url, "the connection was closed in the middle of the answer")
    is_at_once = sent_at is None or time.monotonic() - sent_at <= AT_ONCE_S
    kind = NothingCame if is_at_once else ServerUnreachable
    return kind(patience.url, "the connection was closed before an answer came")


def cannot_connect(error: OSError, patience: Patience) -> ClientError:
    """What is raised when there is no connection."""
    if isinstance(error, TimeoutError):
        return patience.timed_out()
    return ServerUnreachable(patience.url, f"cannot connect: {_cause(error)}")


def _cause(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}. ca_file names the certificates to trust"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if error.errno is None or error.errno <= 0:  # of name resolution, or several in one
        return error.strerror or str(error)
    return os.strerror(error.errno)


def reason_of(reply: Reply) -> str:
    """The server's words in an error: those of ``{"error": ...}`` or FastAPI's ``detail``, or the text."""
    if isinstance(reply.body, str):
        return reply.body
    try:
        value = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return bytes(reply.body[:_QUOTED]).decode(errors="replace").strip() or "no text"
    text = value.get("error", value.get("detail", value)) if isinstance(value, dict) else value
    return text if isinstance(text, str) else orjson.dumps(text).decode()[:_QUOTED]
