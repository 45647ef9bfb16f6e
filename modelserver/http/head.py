"""A request's head: from what the parser found to tornado's start line and headers, or a refusal.

Rules of the room: pure functions. llhttp is strict about bytes (characters, line ends, Content-Length, its
conflict with Transfer-Encoding); what it lets through and this server must not is refused here.
"""

from __future__ import annotations

from typing import NamedTuple

from tornado import httputil

from modelserver.http.limits import Limits

_VERSIONS = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1"}


class HeadRefused(Exception):
    """The request cannot be taken.

    Attributes:
        status: of the answer.
        reason: the text of the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head(NamedTuple):
    """What an application gets to know first."""

    start_line: httputil.RequestStartLine
    headers: httputil.HTTPHeaders
    expects_continue: bool
    """The client waits to be asked for its body (RFC 9110, 10.1.1)."""


def read_head(method: str, target: str, version: str, fields: list[tuple[bytes, bytes]]) -> Head:
    """Check a head that the parser took.

    Args:
        method: such as ``POST``.
        target: as the client wrote it.
        version: ``1.1``.
        fields: names and values, in order.

    Raises:
        HeadRefused: with the status to answer.
    """
    full_version = _VERSIONS.get(version)
    if full_version is None:  # llhttp takes 0.9 and 2.0 too
        raise HeadRefused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    headers = httputil.HTTPHeaders()
    seen: dict[bytes, str] = {}
    for name, raw in fields:
        key = name.lower()
        value = raw.decode("latin-1").rstrip(" \t")
        if key not in seen:
            seen[key] = value
            headers[name.decode("latin-1")] = value
        elif key == b"host":
            raise HeadRefused(400, "the request has more than one Host header")
        else:
            headers.add(name.decode("latin-1"), value)
    host = seen.get(b"host")
    if host is None and version == "1.1":
        raise HeadRefused(400, "the request has no Host header")
    if host is not None and "," in host:
        raise HeadRefused(400, "the request has more than one host in its Host header")
    coding = seen.get(b"transfer-encoding")
    if coding is not None:
        if version == "1.0":  # RFC 9112, 6.1: its framing is faulty
            raise HeadRefused(400, "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != "chunked":  # llhttp takes "gzip, chunked" and ", chunked" too
            raise HeadRefused(501, "the only Transfer-Encoding known here is chunked")
    if method == "CONNECT":
        raise HeadRefused(405, "this server is no proxy")
    if target[0] != "/" and target != "*":
        target = _origin_form(target, headers)
    expects = version == "1.1" and seen.get(b"expect", "").lower() == "100-continue"
    return Head(httputil.RequestStartLine(method, target, full_version), headers, expects)


def check_size(target: bytes, fields: list[tuple[bytes, bytes]], limits: Limits) -> None:
    """Refuse a head that is too large.

    Raises:
        HeadRefused: 431.
    """
    if len(fields) > limits.max_header_fields:
        raise HeadRefused(431, f"the request has more than {limits.max_header_fields} header fields")
    if len(target) + sum(len(name) + len(value) + 4 for name, value in fields) > limits.max_head_bytes:
        raise HeadRefused(431, f"the request's head is over {limits.max_head_bytes} bytes")


def _origin_form(target: str, headers: httputil.HTTPHeaders) -> str:
    """The path of ``http://host/path``, whose host goes before the Host header (RFC 9112, 3.2.2).

    >>> headers = httputil.HTTPHeaders({"Host": "other"})
    >>> _origin_form("http://host:80?x=1", headers), headers["Host"]
    ('/?x=1', 'host:80')
    """
    after_scheme = target.partition("://")[2]
    cut = min((at for at in map(after_scheme.find, "/?#") if at >= 0), default=len(after_scheme))
    authority, path = after_scheme[:cut], after_scheme[cut:]
    if not authority:
        raise HeadRefused(400, "the request target is no path and no URL")
    headers["Host"] = authority
    return path if path.startswith("/") else f"/{path}"
