"""Good requests to begin with, words that have meant trouble elsewhere, and which answers are allowed.

For the model ``strict`` of ``in_memory``.
"""

import gzip
import io
import re

import numpy as np

HEAD = b"POST /v1/models/strict:predict HTTP/1.1\r\nHost: h\r\n"
JSON = b'{"instances":[[1,2.5],[3,4]]}'


def npy_body(dtype: str = "<f4", order: str = "C") -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray([[1, 0], [1, 1]], dtype, order=order))
    return file.getvalue()


def post(body: bytes, *fields: bytes) -> bytes:
    return HEAD + b"".join(b"%b\r\n" % f for f in fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = [
    post(JSON),
    post(JSON, b"Content-Type: application/json", b"Accept: */*"),
    post(gzip.compress(JSON), b"Content-Encoding: gzip"),
    post(npy_body(), b"Content-Type: application/x-npy"),
    post(b'{"instances":[%b1]}' % (b"1.5," * 3000)),
    post(b'{"instances":"x"}'),
    post(JSON, b"Expect: 100-continue"),
    post(JSON, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(JSON), JSON),
    CHUNKED + b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in JSON) + b"0\r\nX-Trailer: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /v1/models/strict HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345",
    b"GET /v1/models/strict:predict HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://h/v1/models HTTP/1.1\r\nHost: h\r\n\r\n",
]
LAST = [
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    post(b"x" * 100)[:-1],
    b"garbage\r\n\r\n",
    b"",
]
WORDS = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Type: application/x-npy\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Host: x\r\n",
    b"0\r\n\r\n",
    b"FFFFFFFFFFFFFFFF\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"[" * 2000,
    b"9" * 5000,
    b"NaN",
    b"\\ud800",
    b"%00",
    b"x" * 70_000,
    b" " * 110_000,
]

_STATUS = re.compile(rb"HTTP/1\.1 \d{3} ")
_ALLOWED = re.compile(rb"HTTP/1\.1 (?:100|2\d\d|4\d\d|501|505) ")


def failures(answers: bytes) -> list[bytes]:
    """The status lines of answers that no request may get."""
    return [line for line in _STATUS.findall(answers) if not _ALLOWED.match(line)]
