"""Faults of framing on the wire, against a real server: refused or closed in time, and nobody else harmed.

Every case is raw bytes and what may come back. ``/smuggled`` stands where a second request hides: what is
answered to it would be a 404, so no case allows that status.
"""

import contextlib
import re
import socket
import time

import pytest
from harness import serving, wait_until

WITHIN_S = 2.0
GOOD = b'{"instances": [1]}'
HEAD = b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {(400,)}
CLOSED_OR_REFUSED = {(), (400,)}


def good_chunk(size=b"12", end=b"\r\n"):
    return size + b"\r\n" + GOOD + end + b"0\r\n\r\n"


def with_fields(*fields, body=b"0\r\n\r\n" + SMUGGLED):
    return HEAD + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def length(value):
    return with_fields(b"Content-Length: " + value, body=GOOD)


CL, TE = b"Content-Length: 5", b"Transfer-Encoding: chunked"
# name, bytes, what statuses may come back (all answers on the connection, in order), sent with a half-close
CASES = [
    ("half a head, then no more", HEAD[:40], CLOSED_OR_REFUSED, True),
    ("a head without its end, then no more", HEAD, CLOSED_OR_REFUSED, True),
    ("half a body, then no more", with_fields(b"Content-Length: 18", body=GOOD[:9]), CLOSED_OR_REFUSED, True),
    ("half a chunk, then no more", CHUNKED + b"12\r\n" + GOOD[:9], CLOSED_OR_REFUSED, True),
    ("no last chunk, then no more", CHUNKED + b"12\r\n" + GOOD + b"\r\n", CLOSED_OR_REFUSED, True),
    ("chunk size ZZ", CHUNKED + good_chunk(b"ZZ"), REFUSED, False),
    ("chunk size overflow", CHUNKED + good_chunk(b"F" * 17), REFUSED, False),
    ("chunk size -12", CHUNKED + good_chunk(b"-12"), REFUSED, False),
    ("chunk size +12", CHUNKED + good_chunk(b"+12"), REFUSED, False),
    ("chunk size 0x12", CHUNKED + good_chunk(b"0x12"), REFUSED, False),
    ("chunk size with spaces", CHUNKED + good_chunk(b" 12"), REFUSED, False),
    ("chunk size with spaces behind", CHUNKED + good_chunk(b"12 "), REFUSED, False),
    ("chunk size empty", CHUNKED + good_chunk(b""), REFUSED, False),
    ("chunk size 2^64-1", CHUNKED + b"F" * 16 + b"\r\n" + b"x" * 12_000_000, {(413,), ()}, False),
    ("chunk size over the body limit", CHUNKED + b"F" * 8 + b"\r\n" + b"x" * 12_000_000, {(413,), ()}, False),
    ("chunk without CRLF", CHUNKED + good_chunk(end=b""), REFUSED, False),
    ("chunk with bare LF", CHUNKED + good_chunk(end=b"\n"), REFUSED, False),
    ("chunk size with bare LF", CHUNKED + good_chunk().replace(b"12\r\n", b"12\n"), REFUSED, False),
    ("chunk longer than said", CHUNKED + good_chunk(b"11"), REFUSED, False),
    ("extension of 1 MB", CHUNKED + good_chunk(b"12;" + b"x" * 2**20), {(431,), ()}, False),
    ("LF in an extension", CHUNKED + good_chunk(b"12;a\nb"), REFUSED, False),
    ("length in a trailer", CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("trailer of 1 MB", CHUNKED + b"0\r\nX: " + b"x" * 2**20, {(431,), ()}, False),
    ("length twice, the same", with_fields(CL, CL), REFUSED, False),
    ("length twice, different", with_fields(CL, b"Content-Length: 6"), REFUSED, False),
    ("length -1", length(b"-1"), REFUSED, False),
    ("length +5", length(b"+5"), REFUSED, False),
    ("length 0x5", length(b"0x5"), REFUSED, False),
    ("length 1_0", length(b"1_0"), REFUSED, False),
    ("length 5, 5", length(b"5, 5"), REFUSED, False),
    ("length 1 8", length(b"1 8"), REFUSED, False),
    ("length empty", length(b""), REFUSED, False),
    ("length of 30 digits", length(b"9" * 30), REFUSED, False),
    ("length of 1 TiB", length(b"%d" % 2**40), {(413,)}, False),
    ("length of 1 TiB, asking first",
     with_fields(b"Content-Length: %d" % 2**40, b"Expect: 100-continue", body=b""),
     {(413,)}, False),
    ("length with spaces around", length(b"  18  "), {(200,)}, False),
    ("length, then chunked", with_fields(CL, TE), REFUSED, False),
    ("chunked, then length", with_fields(TE, CL), REFUSED, False),
    ("chunked twice", with_fields(TE, TE), REFUSED, False),
    ("xchunked", with_fields(b"Transfer-Encoding: xchunked"), {(400,), (501,)}, False),
    ("chunked, identity", with_fields(TE + b", identity"), {(400,), (501,)}, False),
    ("identity, chunked", with_fields(b"Transfer-Encoding: identity, chunked"), {(400,), (501,)}, False),
    ("identity", with_fields(b"Transfer-Encoding: identity", body=SMUGGLED), {(400,), (501,)}, False),
    ("gzip, chunked", with_fields(b"Transfer-Encoding: gzip, chunked"), {(400,), (501,)}, False),
    ("comma chunked", with_fields(b"Transfer-Encoding: , chunked"), {(400,), (501,)}, False),
    ("quoted chunked", with_fields(b'Transfer-Encoding: "chunked"'), {(400,), (501,)}, False),
    ("chunked;q=1", with_fields(TE + b";q=1"), {(400,), (501,)}, False),
    ("space before the colon", with_fields(b"Transfer-Encoding : chunked"), REFUSED, False),
    ("length and space before the colon", with_fields(CL, b"Transfer-Encoding : chunked"), REFUSED, False),
    ("vertical tab", with_fields(b"Transfer-Encoding: \x0bchunked"), REFUSED, False),
    ("folded coding", with_fields(b"Transfer-Encoding:\r\n chunked"), REFUSED, False),
    ("coding behind bare LF", with_fields(b"X: y\nTransfer-Encoding: chunked"), REFUSED, False),
    ("coding behind bare CR", with_fields(b"X: y\rTransfer-Encoding: chunked"), REFUSED, False),
    ("chunked HTTP/1.0", CHUNKED.replace(b"/1.1", b"/1.0") + b"0\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("tab before chunked", with_fields(b"Transfer-Encoding:\tchunked", body=good_chunk()), {(200,)}, False),
    ("upgrade with both", with_fields(b"Connection: upgrade", b"Upgrade: h2c", CL, TE), REFUSED, False),
    ("upgrade, odd coding",
     with_fields(b"Connection: upgrade", b"Upgrade: h2c", TE + b", x"),
     {(400,), (501,)}, False),
    ("upgrade with a body",
     with_fields(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 18", body=GOOD),
     {(200,)}, False),
    ("CONNECT", b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, {(405,)}, False),
    ("bare LF", HEAD.replace(b"\r\n", b"\n") + b"\n", REFUSED, False),
    ("bare LF at the end", HEAD + b"\n", REFUSED, False),
    ("folded field", with_fields(b"X: a\r\n b"), REFUSED, False),
    ("space before the first field", HEAD.replace(b"Host", b" Host") + b"\r\n", REFUSED, False),
    ("NUL in a value", with_fields(b"X: a\0b"), REFUSED, False),
    ("NUL in a name", with_fields(b"X\0: b"), REFUSED, False),
    ("NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", REFUSED, False),
    ("a name of 8 bits", with_fields(b"X\xe4: b"), REFUSED, False),
    ("an empty name", with_fields(b": b"), REFUSED, False),
    ("no colon", with_fields(b"abc"), REFUSED, False),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("a head of 1 MiB", with_fields(b"X: " + b"x" * 2**20), {(431,), ()}, False),
    ("20,000 fields", with_fields(*(b"X-%d: y" % number for number in range(20_000))), {(431,), ()}, False),
    ("9,000 times the same field", with_fields(*[b"X: y"] * 9000), {(431,), ()}, False),
    ("a target of 1 MiB", b"GET /" + b"x" * 2**20, {(431,), ()}, False),
    ("garbage", bytes(range(128, 256)) * 4, REFUSED, False),
    ("TLS", bytes.fromhex("1603010200010001fc0303") + b"\0" * 506, REFUSED, False),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, REFUSED, False),
    ("HTTP/0.9", b"GET /\r\n" + SMUGGLED, {(400,), (505,)}, False),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n" + SMUGGLED, {(505,)}, False),
    ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: h\r\n\r\n" + SMUGGLED, {(400,), (505,)}, False),
    ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: h\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("a method in lower case", b"get / HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("a method of its own", b"SMUGGLE / HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, REFUSED, False),
    ("close, then more",
     with_fields(b"Connection: close", b"Content-Length: 18", body=GOOD + SMUGGLED),
     {(200,)}, False),
    ("a good one, then garbage",
     with_fields(b"Content-Length: 18", body=GOOD + b"\x16\x03"),
     {(200,), (200, 400)}, False),
]  # fmt: skip


@pytest.mark.parametrize(("data", "allowed", "half_close"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_fault(zoo, data, allowed, half_close):
    started = time.monotonic()
    answers, closed, answered_at = talk(zoo.port, data, half_close, lives=allowed == {(200,)})
    assert answered_at - started < WITHIN_S
    statuses = tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers))
    assert statuses in allowed
    assert closed or statuses == (200,)
    after = zoo.predict({"instances": [1, 2]}, "echo")
    assert (after.status, after.json()) == (200, {"predictions": [1, 2]})


def talk(port, data, half_close, lives):
    """What comes back until the server closes (or, where it need not, has answered), if it did, and when."""
    got, since = b"", None
    with socket.create_connection(("127.0.0.1", port), timeout=3 * WITHIN_S) as sock:
        with contextlib.suppress(ConnectionError):  # the server may close while this still sends
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65536):
                got += piece
                since = time.monotonic()
                if lives and got.endswith(b'{"predictions":[1]}'):
                    return got, False, since
    return got, True, since or time.monotonic()


def test_garbage_makes_one_line_in_the_log(programs, tmp_path):
    with serving([programs / "zoo.py"], tmp_path / "log") as server:
        talk(server.port, b"\x16\x03\x01 garbage", False, lives=False)
        wait_until(lambda: "Refused" in server.text())
    lines = server.text().splitlines()
    assert len([line for line in lines if "garbage" not in line and "Refused" in line]) == 1
    assert "Traceback" not in "".join(lines)
