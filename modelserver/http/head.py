"""A request's head: from what the parser found to tornado's start line and headers, or a refusal.

Rules of the room: no connection and no state of one. llhttp is strict about bytes (characters, line ends,
Content-Length, its conflict with Transfer-Encoding); what it lets through and this server must not is refused
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Headers(httputil.HTTPHeaders):
    """A request's header fields, which become tornado's dictionary only when somebody uses it as one.

    The hot verbs need a field or two, and building the dictionary takes 4 us. ``lowered`` answers them.

    Attributes:
        lowered: value by lower-case name; the values of a name that came twice are joined by a comma. Not to
            be changed: other requests with the same head share it.
    """

    def __init__(self, fields: list[tuple[str, str]], lowered: Mapping[str, str]) -> None:
        self._fields: list[tuple[str, str]] | None = fields
        self.lowered = lowered

    def __getattr__(self, name: str) -> Any:
        """Called for what the base class would have set up."""
        fields = self.__dict__.get("_fields")
        if fields is None:
            raise AttributeError(name)
        self._fields = None
        super().__init__()
        for field, value in fields:
            if field in self:
                self.add(field, value)
            else:
                self[field] = value
        return getattr(self, name)


class Head(NamedTuple):
    """What an application gets to know first."""

    start_line: httputil.RequestStartLine
    fields: list[tuple[str, str]]
    lowered: Mapping[str, str]
    expects_continue: bool
    """The client waits to be asked for its body (RFC 9110, 10.1.1)."""

    def headers(self) -> Headers:
        """The fields as an application wants them, which may change them."""
        return Headers(self.fields, self.lowered)


class KnownHead(NamedTuple):
    """A head that came before."""

    head: Head
    size: int
    """Bytes of the request: of the head, and of the body behind it."""


class KnownHeads:
    """What the parser said of heads, by their bytes: a client sends the same ones again and again.

    Parsing a small request takes 7 us, finding its head here 0.4. Only heads that leave nothing to decide
    are kept: HTTP/1.1, another request may follow, a plain Content-Length or no body. And only if writing
    the parsed head out again gives the very same bytes, so that no reading of line ends or blanks can differ.
    """

    _MOST = 512
    _LONGEST = 2048

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self.get = self._heads.get

    def learn(self, raw: bytes, head: Head, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Keep a head of a request that may be followed by another.

        Args:
            raw: the bytes up to and with the empty line.
            head: what was made of them.
            target: as parsed.
            fields: as parsed.
        """
        lowered = head.lowered
        if (
            len(raw) > self._LONGEST
            or head.expects_continue
            or head.start_line.version != "HTTP/1.1"
            or "transfer-encoding" in lowered
            or "upgrade" in lowered
            or "x-request-id" in lowered  # each its own: they would only push the others out
        ):
            return
        lines = [b"%s %s HTTP/1.1" % (head.start_line.method.encode(), target)]
        lines += [b"%s: %s" % field for field in fields]
        if raw != b"\r\n".join(lines) + b"\r\n\r\n":
            return
        if len(self._heads) >= self._MOST:
            self._heads.clear()
        self._heads[raw] = KnownHead(head, len(raw) + int(lowered.get("content-length", "0")))


def lowered(headers: httputil.HTTPHeaders) -> Mapping[str, str]:
    """The fields of a request by lower-case name, not to be changed, on whatever connection it came."""
    if isinstance(headers, Headers):
        return headers.lowered
    return {name.lower(): value for name, value in headers.items()}


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
    headers: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1").rstrip(" \t")
        key = name.lower()
        if key not in seen:
            seen[key] = value
        elif key == "host":
            raise HeadRefused(400, "the request has more than one Host header")
        else:
            seen[key] = f"{seen[key]},{value}"
        headers.append((name, value))
    host = seen.get("host")
    if host is None and version == "1.1":
        raise HeadRefused(400, "the request has no Host header")
    if host is not None and "," in host:
        raise HeadRefused(400, "the request has more than one host in its Host header")
    coding = seen.get("transfer-encoding")
    if coding is not None:
        if version == "1.0":  # RFC 9112, 6.1: its framing is faulty
            raise HeadRefused(400, "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != "chunked":  # llhttp takes "gzip, chunked" and ", chunked" too
            raise HeadRefused(501, "the only Transfer-Encoding known here is chunked")
    if method == "CONNECT":
        raise HeadRefused(405, "this server is no proxy")
    if target[0] != "/" and target != "*":
        target, seen["host"] = _origin_form(target)
        headers = [field for field in headers if field[0].lower() != "host"] + [("Host", seen["host"])]
    expects = version == "1.1" and seen.get("expect", "").lower() == "100-continue"
    return Head(httputil.RequestStartLine(method, target, full_version), headers, seen, expects)


def check_size(target: bytes, fields: list[tuple[bytes, bytes]], limits: Limits) -> None:
    """Refuse a head that is too large.

    Raises:
        HeadRefused: 431.
    """
    if len(fields) > limits.max_header_fields:
        raise HeadRefused(431, f"the request has more than {limits.max_header_fields} header fields")
    if len(target) + sum(len(name) + len(value) + 4 for name, value in fields) > limits.max_head_bytes:
        raise HeadRefused(431, f"the request's head is over {limits.max_head_bytes} bytes")


def _origin_form(target: str) -> tuple[str, str]:
    """Path and host of ``http://host/path``, whose host goes before the Host header (RFC 9112, 3.2.2).

    >>> _origin_form("http://host:80?x=1")
    ('/?x=1', 'host:80')
    """
    after_scheme = target.partition("://")[2]
    cut = min((at for at in map(after_scheme.find, "/?#") if at >= 0), default=len(after_scheme))
    authority, path = after_scheme[:cut], after_scheme[cut:]
    if not authority:
        raise HeadRefused(400, "the request target is no path and no URL")
    return (path if path.startswith("/") else f"/{path}"), authority
