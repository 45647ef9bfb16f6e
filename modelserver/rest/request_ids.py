"""``X-Request-ID``: what a request is called, in its answer and in the log.

Rules of the room: the name only. ``routes`` gives each request its name and keeps it on the request's
connection, where ``answers``, tornado's handlers and the access log find it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping

from tornado import httputil, web

HEADER = "X-Request-Id"  # as tornado spells it
_LONGEST = 128


def _begin() -> None:
    """Begin to count. A forked child would go on with its parent's names, so it begins anew."""
    global _prefix, _number  # noqa: PLW0603 - read for each request; an object around them costs 0.05 us
    _prefix = f"{os.urandom(6).hex()}-"
    _number = itertools.count(1).__next__


_prefix: str
_number: Callable[[], int]
_begin()
os.register_at_fork(after_in_child=_begin)


def request_id(fields: Mapping[str, str]) -> str:
    """The client's own name for its request, if it is sane; else one that no other process gives.

    Args:
        fields: of the request, by lower-case name.
    """
    given = fields.get("x-request-id")
    if given is not None and is_sane(given):
        return given
    return f"{_prefix}{_number()}"


def is_sane(given: str) -> bool:
    """Whether a client's text can go into a header and a log as it is: 1 to 128 visible ASCII characters."""
    return 0 < len(given) <= _LONGEST and given.isascii() and given.isprintable() and " " not in given


def of(connection: object) -> str:
    """The name of the request that came on a connection; empty where it has none."""
    return getattr(connection, "request_id", "")


class AddRequestID(web.OutputTransform):
    """Puts the name into the answers of tornado's handlers, a user's own among them."""

    def __init__(self, request: httputil.HTTPServerRequest) -> None:
        self._request_id = of(request.connection)

    def transform_first_chunk(
        self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        """Add the header, unless the handler has set it."""
        if self._request_id and HEADER not in headers:
            headers[HEADER] = self._request_id
        return status_code, headers, chunk
