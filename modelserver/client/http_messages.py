"""HTTP/1.1 as a client speaks it: where a server is, a request's head, and an answer out of its bytes.

Rules of the room: bytes and values; no socket and no loop. Both transports ask ``AnswerReader`` where the
next bytes belong, so that a large body is received where it stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httptools
import numpy as np

from modelserver.client.calls import Call, Reply

_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 8081, "grpcs": 8081}
# RFC 9110, 5.1 and 5.5: a token; visible Latin-1 text with blanks.
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*")
# gRPC's "Custom-Metadata" of text; names that end with -bin are for bytes.
_METADATA = re.compile(r"(?![^:]*-bin:)[0-9A-Za-z_.\-]+: [\x20-\x7e]*", re.IGNORECASE)
_NO_HOST = re.compile(r"[\x00-\x20\x7f/\\<>\"]")
SCRATCH = 64 * 1024
"""Bytes that a connection has room for, where the size of what comes is not known."""
_MOST_HEAD = 64 * 1024
"""Bytes of an answer's head, interim answers included, and of trailers."""
_IN_PATHS = "/%:@!$&'()*+,;=~"
"""What stays as it is in a path, beside letters, digits and ``-._``; what is percent-encoded already does."""
_SMALL = 16 * 1024
"""Bytes of a body that are copied behind the head, so that both leave in one piece."""
_ALIGNED = 16
JSON_LENGTH = "inference-header-content-length"

Part = bytes | memoryview


class Endpoint(NamedTuple):
    """Where a server is.

    Attributes:
        url: as it was given, without a slash at the end.
        path: what all paths begin with, as behind a gateway; percent-encoded; mostly empty. gRPC has none.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """Read a URL.

        Raises:
            ValueError: it is none of a server.
        """
        parts = urlsplit(url)
        path = quote(parts.path.rstrip("/"), safe=_IN_PATHS)
        host = parts.hostname or ""
        if (
            parts.scheme not in _DEFAULT_PORTS
            or not host
            or _NO_HOST.search(host)
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
            or (path and parts.scheme.startswith("grpc"))  # which has no place for it
            or parts.port == 0
        ):
            raise ValueError(
                f"{url!r} is no URL of a server, expected one such as http://localhost:8080, https://..., "
                "grpc://localhost:8081 or grpcs://..."
            )
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return cls(url.rstrip("/"), parts.scheme, host, port, path)

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_grpc(self) -> bool:
        """Whether it is asked by gRPC."""
        return self.scheme.startswith("grpc")

    @property
    def is_encrypted(self) -> bool:
        """Whether it is asked by TLS."""
        return self.scheme in ("https", "grpcs")


def checked(headers: Mapping[str, str], is_grpc: bool = False) -> dict[str, str]:
    """Headers for a request, if they can be sent.

    Args:
        headers: by name.
        is_grpc: as metadata of gRPC, which is ASCII.

    Raises:
        ValueError: a name or value would break the request's framing, or is not Latin-1 text.
    """
    allowed = _METADATA if is_grpc else _HEADER
    for name, value in headers.items():
        if not allowed.fullmatch(f"{name}: {value}"):
            raise ValueError(f"the header {name!r} cannot be sent with the value {value!r}")
    return dict(headers)


class RequestWriter:
    """Writes the requests to one server.

    Args:
        endpoint: where they go.
        headers: of the user. They take the place of ours, as ``Host`` does behind a gateway.
    """

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        own = {"Host": endpoint.authority, "User-Agent": "modelserver", "Accept-Encoding": "identity"}
        self._path = endpoint.path
        self._fields = _joined(own, headers)
        self._names = {name.lower() for name in self._fields}
        self._lines = _lines(self._fields)

    def parts(self, call: Call) -> list[Part]:
        """The bytes of a request, in pieces. The call's headers take the place of those of all requests."""
        lines, headers = self._lines, call.headers
        if any(name.lower() in self._names for name in headers):
            lines, headers = b"", _joined(self._fields, headers)
        size = sum(map(len, call.body))
        line = f"{call.method} {self._path}{call.path} HTTP/1.1\r\n".encode()
        head = b"%b%b%bContent-Length: %d\r\n\r\n" % (line, lines, _lines(headers), size)
        parts: list[Part] = [head, *call.body]
        return parts if size > _SMALL else [b"".join(parts)]


def _joined(fields: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Both; of a name that is in both, in whatever case, the second."""
    names = {name.lower() for name in others}
    return {name: value for name, value in fields.items() if name.lower() not in names} | dict(others)


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


class AnswerReader:
    """Reads one answer.

    Args:
        scratch: where the head is received, and bodies whose size is not told beforehand.

    Attributes:
        status: of the answer; 0 until its head is there.
        headers: by lower-case name.
        is_whole: it has come in whole.
        keeps_alive: its connection may be used again.
        has_begun: something has come.
    """

    def __init__(self, scratch: memoryview) -> None:
        self._scratch = scratch
        self._parser = httptools.HttpResponseParser(self)
        self._rest: memoryview | None = None  # of the body, where it is to be received
        self._body = memoryview(b"")
        self._pieces: bytearray | None = None
        self._until_close = False
        self._overhead = 0  # bytes since the last that were some of a body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_whole = self.keeps_alive = self.has_begun = False

    def reply(self) -> Reply:
        """The answer. The reader is done with."""
        del self._parser  # they know each other, and a large body shall not wait for the collector
        body = self._body if self._pieces is None else memoryview(self._pieces)
        return Reply(self.status, self.headers, body)

    def space(self) -> memoryview:
        """Where the next bytes are to be received."""
        return self._scratch if self._rest is None else self._rest

    def received(self, count: int) -> None:
        """So many bytes are there.

        Raises:
            httptools.HttpParserError: they are no HTTP answer.
        """
        self.has_begun = True
        if self._rest is not None:
            self._took(count)
            return
        self._overhead += count
        try:
            self._parser.feed_data(self._scratch[:count])
        except httptools.HttpParserUpgrade:
            raise httptools.HttpParserError("it switches to another protocol") from None
        except httptools.HttpParserError:
            self.keeps_alive = False
            if not self.is_whole:  # else something came behind it, which nobody asked for
                raise
        if self._overhead > _MOST_HEAD and not self.is_whole:
            raise httptools.HttpParserError(f"its head is larger than {_MOST_HEAD // 1024} KiB")

    def ended(self) -> bool:
        """The server has closed the connection. Whether the answer is whole."""
        self.is_whole = self.is_whole or self._until_close
        return self.is_whole

    def _took(self, count: int) -> None:
        assert self._rest is not None
        self._rest = self._rest[count:]
        self.is_whole = not self._rest

    # -- what the parser calls

    def on_message_begin(self) -> None:
        """A second answer has no question: the connection is used no more."""
        if self.is_whole:
            self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self.is_whole:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """The head is there."""
        status = self._parser.get_status_code()
        if self.is_whole or status < 200:
            return
        self.status, self.keeps_alive = status, self._parser.should_keep_alive()
        self._overhead = 0
        length = self.headers.get("content-length")
        if length is not None:
            self._make_room(int(length))
        else:
            self._pieces = bytearray()
            is_empty = status in (204, 304)
            self._until_close = not is_empty and "transfer-encoding" not in self.headers

    def _make_room(self, length: int) -> None:
        # Not a bytearray, which would be filled with zeros first. Binary tensors begin where their JSON ends,
        # and are to be aligned there.
        json_length = self.headers.get(JSON_LENGTH, "")
        pad = -int(json_length) % _ALIGNED if json_length.isdecimal() and len(json_length) < 16 else 0
        self._body = np.empty(length + pad, np.uint8).data[pad:]
        if length:
            self._rest = self._body

    def on_body(self, data: bytes) -> None:
        """A part of the body that came with the head, or in chunks."""
        if self.is_whole:
            return
        self._overhead = 0
        if self._pieces is not None:
            self._pieces += data
        elif self._rest is not None:
            self._rest[: len(data)] = data
            self._took(len(data))

    def on_message_complete(self) -> None:
        """The end of an answer; of an interim one (1xx) it is not ours."""
        if self.status:
            self.is_whole = True
        else:
            self.headers.clear()
