"""Whatever requests there are, however they are cut, they arrive as they were; and no bytes do harm."""

import asyncio
import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.http.connection import Connection
from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer

METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
NAMES = st.from_regex(r"\AX-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}\Z")
VALUES = st.from_regex(r"\A([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]{0,20}[\x21-\x7e\x80-\xff])?)?\Z")
BODIES = st.one_of(st.binary(max_size=50), st.integers(0, 300_000).map(lambda size: b"\xff" * size))
CUTS = st.lists(st.integers(0, 1_000_000), max_size=12)


@st.composite
def requests(draw):
    method = draw(METHODS)
    path = draw(st.from_regex(r"\A/[A-Za-z0-9/%?=&:.~-]{0,50}\Z"))
    fields = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    body = draw(BODIES)
    head = [f"{method} {path} HTTP/1.1", "Host: h", *(f"{name}: {value}" for name, value in fields)]
    if body and draw(st.booleans()):
        head.append("Transfer-Encoding: chunked")
        at = sorted({0, len(body), *(cut % (len(body) + 1) for cut in draw(CUTS))})
        pieces = [body[start:end] for start, end in pairwise(at)]
        sent = b"".join(b"%x%s\r\n%s\r\n" % (len(p), draw(EXTENSION), p) for p in pieces)
        sent += b"0\r\n" + draw(TRAILER) + b"\r\n"
    else:
        sent = body
        if body or draw(st.booleans()):
            head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + sent, (method, path, fields, body)


EXTENSION = st.sampled_from([b"", b";a=b", b';a="c d"'])
TRAILER = st.sampled_from([b"", b"X-Trailer: 1\r\n"])


class Wire(asyncio.Transport):
    """Keeps what is written; is full when it is told to."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.is_over = False
        self.is_reading = True

    def write(self, data):
        assert not self.is_over
        self.written += data

    def close(self):
        self.is_over = True

    abort = write_eof = close

    def can_write_eof(self):
        return True

    def is_closing(self):
        return self.is_over

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True


async def feed(recorder, data, cuts):
    """A connection that has received ``data`` in pieces, as a transport would hand them over."""
    server = HTTPServer(recorder, Limits())
    connection, wire = Connection(server), Wire()
    connection.connection_made(wire)
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(at):
        while not wire.is_reading:
            await asyncio.sleep(0)
        connection.data_received(data[start:end])
    for _ in range(5 * (data.count(b"HTTP/1") + 1)):
        await asyncio.sleep(0)
    return connection, wire


@settings(deadline=None, max_examples=150)
@given(st.lists(requests(), min_size=1, max_size=8), CUTS, st.sets(st.integers(0, 7)))
def test_requests_arrive_as_they_were_sent_in_order(make_recorder, sent, cuts, waiting):
    async def main():
        recorder = make_recorder()
        loop = asyncio.get_running_loop()
        for number in waiting:  # these are answered some turns later
            gate = recorder.gates[number] = loop.create_future()
            loop.call_soon(lambda gate=gate: loop.call_soon(gate.set_result, None))
        data = b"".join(data for data, _ in sent)
        _, wire = await feed(recorder, data, cuts)
        assert not wire.is_over
        return recorder.requests, wire.written

    arrived, written = asyncio.run(main())
    own = [
        (method, path, [(name, value) for name, value in headers.get_all() if name.startswith("X-")], body)
        for method, path, headers, body in arrived
    ]
    assert [(m, p, sorted(f), b) for m, p, f, b in own] == [
        (m, p, sorted((normalised(n), v) for n, v in f), b) for _, (m, p, f, b) in sent
    ]
    numbers = written.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(numbers) == len(sent)
    for number, answer in enumerate(numbers):
        body = answer.partition(b"\r\n\r\n")[2]
        assert body == (b"" if sent[number][1][0] == "HEAD" else b"%d" % number)


def normalised(name):
    return "-".join(part.capitalize() for part in name.split("-"))


VALID = b"POST /0 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@st.composite
def spoilt(draw):
    """A good request with a few bytes exchanged, inserted or lost."""
    data = bytearray(VALID * 2)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.binary(min_size=1, max_size=300), spoilt()), CUTS)
def test_any_bytes_end_in_an_answer_or_a_close(make_recorder, data, cuts):
    async def main():
        recorder = make_recorder()
        connection, wire = await feed(recorder, data, cuts)
        while not wire.is_over:
            connection.deadline = 0.0  # time passes
            connection.expire()
        connection.connection_lost(None)
        answered = len(re.findall(rb"HTTP/1\.1 [245]\d\d ", wire.written))
        # One answer for each request, and at most one refusal behind them; or silence to what is no request.
        assert len(recorder.requests) <= answered <= len(recorder.requests) + 1
        assert answered or not data.strip(b"\r\n")

    asyncio.run(main())
