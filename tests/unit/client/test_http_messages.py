import httptools
import pytest

from modelserver.client.calls import Call
from modelserver.client.http_messages import (
    SCRATCH,
    AnswerReader,
    Endpoint,
    RequestWriter,
    checked,
)

BODY = b"0123456789" * 30_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(data, step=SCRATCH):
    """A reader that was given the data, so many bytes at a time at most, until the answer was whole."""
    reader = AnswerReader(memoryview(bytearray(SCRATCH)))
    position = 0
    while position < len(data) and not reader.is_whole:
        space = reader.space()
        assert space
        piece = data[position : position + min(step, len(space))]
        space[: len(piece)] = piece
        reader.received(len(piece))
        position += len(piece)
    return reader


def with_length(body, **headers):
    fields = {"Content-Length": str(len(body))} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1") + body


@pytest.mark.parametrize("step", [1, 7, 1000, SCRATCH])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_the_pieces_of_an_answer_make_no_difference(step, size):
    body = BODY[:size]
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if size else b"0\r\n\r\n"
    for data in (with_length(body, X_Name="ä", x_name="b"), CHUNKED + chunks):
        reader = read(data, step)
        assert reader.is_whole
        assert reader.keeps_alive
        reply = reader.reply()
        assert (reply.status, bytes(reply.body)) == (200, body)
    reader = read(with_length(body, X_Name="ä", x_name="b"), step)
    assert reader.reply().headers == {"content-length": str(size), "x-name": "ä, b"}


def test_a_large_body_is_received_where_it_stays():
    reader = read(with_length(BODY))
    assert not read(with_length(BODY[:-1] + b"")[:-1]).is_whole
    reply = reader.reply()
    assert bytes(reply.body) == BODY
    assert not reply.body.readonly


@pytest.mark.parametrize("json_length", [1, 16, 17, 100])
def test_binary_tensors_are_aligned(json_length):
    import numpy as np

    data = with_length(BODY, Inference_Header_Content_Length=str(json_length))
    body = read(data, 1000).reply().body
    assert bytes(body) == BODY
    assert np.frombuffer(body[json_length:], np.uint8).ctypes.data % 16 == 0


def test_the_end_of_the_connection_ends_an_answer_without_a_length():
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not reader.is_whole
    assert reader.ended()
    assert not reader.keeps_alive
    assert bytes(reader.reply().body) == b"abc"


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200 OK\r\nX", with_length(b"abc")[:-1], CHUNKED + b"3\r\nabc\r\n"]
)
def test_it_ends_no_other(data):
    assert not read(data).ended()


def test_answers_without_a_body():
    for status in ("204 No Content", "304 Not Modified"):
        reader = read(f"HTTP/1.1 {status}\r\n\r\n".encode())
        assert reader.is_whole
        assert bytes(reader.reply().body) == b""


def test_what_is_behind_an_answer_ends_the_connection():
    for surplus in (b"HTTP/1.1 500 Other\r\nContent-Length: 3\r\nX: 1\r\n\r\nxyz", b"junk", b"\r\n\r\n junk"):
        for whole in (with_length(b"abc"), CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"):
            reader = read(whole + surplus)
            assert reader.is_whole
            assert not reader.keeps_alive
            reply = reader.reply()
            assert (reply.status, bytes(reply.body)) == (200, b"abc")
            assert "x" not in reply.headers


def test_interim_answers_are_not_the_answer():
    reader = read(b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n" + with_length(b"abc"), 5)
    reply = reader.reply()
    assert (reply.status, bytes(reply.body)) == (200, b"abc")
    assert reply.headers == {"content-length": "3"}


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        CHUNKED + b"x\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_what_is_no_answer(data):
    with pytest.raises(httptools.HttpParserError):
        read(data)


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("http://h", ("http://h", "http", "h", 80, ""), "h:80"),
        ("https://h/", ("https://h", "https", "h", 443, ""), "h:443"),
        ("http://[::1]:8080/a/b/", ("http://[::1]:8080/a/b", "http", "::1", 8080, "/a/b"), "[::1]:8080"),
        ("grpc://h", ("grpc://h", "grpc", "h", 8081, ""), "h:8081"),
        ("grpcs://h:1", ("grpcs://h:1", "grpcs", "h", 1, ""), "h:1"),
    ],
)
def test_urls(url, endpoint, authority):
    assert Endpoint.of(url) == endpoint
    assert Endpoint.of(url).authority == authority


@pytest.mark.parametrize(
    "url", ["localhost:8080", "h", "", "ftp://h", "http://", "http://h?a=b", "http://a:b@h", "http://h:x"]
)
def test_what_is_no_url_of_a_server(url):
    with pytest.raises(ValueError, match=r"is no URL of a server|Port could not be cast"):
        Endpoint.of(url)


@pytest.mark.parametrize(
    "headers", [{"X": "a\r\nY: 1"}, {"X Y": "a"}, {"": "a"}, {"X": "漢"}, {"X:": "a"}, {"X": "a\0"}]
)
def test_headers_that_would_break_a_request(headers):
    with pytest.raises(ValueError, match="cannot be sent with the value"):
        checked(headers)


def test_small_bodies_leave_with_their_head_and_large_ones_are_not_copied():
    writer = RequestWriter(Endpoint.of("http://h/base"), {"HOST": "other"})
    [only] = writer.parts(Call("POST", "/x", [b"a", memoryview(b"bc")], {"A": "1"}))
    head, body = only.split(b"\r\n\r\n")
    assert body == b"abc"
    assert head.split(b"\r\n") == [
        b"POST /base/x HTTP/1.1",
        b"User-Agent: modelserver",
        b"Accept-Encoding: identity",
        b"HOST: other",
        b"A: 1",
        b"Content-Length: 3",
    ]
    large = memoryview(BODY)
    parts = writer.parts(Call("POST", "/x", [b"a", large]))
    assert parts[2] is large
    assert parts[0].endswith(b"Content-Length: 300001\r\n\r\n")


def test_headers_of_a_call_take_the_place_of_the_clients():
    writer = RequestWriter(Endpoint.of("http://h"), {"X-A": "1", "x-b": "2"})
    [request] = writer.parts(Call("GET", "/", headers={"x-a": "3", "User-Agent": "me"}))
    assert request.decode().split("\r\n")[1:-2] == [
        "Host: h:80",
        "Accept-Encoding: identity",
        "x-b: 2",
        "x-a: 3",
        "User-Agent: me",
        "Content-Length: 0",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "grpc://h:1/path",
        "http://h:0",
        "http://h:65536",
        "http://a b",
        "http://h/#x",
        "http://h?x=1",
        "http://:password@h",
    ],
)
def test_urls_that_cannot_work(url):
    with pytest.raises(ValueError, match=r"URL of a server|Port"):
        Endpoint.of(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h/a b/", "/a%20b"),
        ("http://h/ä", "/%C3%A4"),
        ("http://h/a%20b", "/a%20b"),
        ("grpc://h/", ""),
    ],
)
def test_a_path_is_percent_encoded(url, path):
    assert Endpoint.of(url).path == path


@pytest.mark.parametrize(
    "headers", [{"x": "ä"}, {"x": "a\tb"}, {"x!": "a"}, {"trace-bin": "a"}, {"Trace-BIN": "a"}]
)
def test_metadata_of_grpc_is_ascii(headers):
    checked(headers)
    with pytest.raises(ValueError, match="cannot be sent"):
        checked(headers, is_grpc=True)


def test_metadata_of_grpc():
    headers = {"X-Tenant_1.a": "a b:~", "binary": ""}
    assert checked(headers, is_grpc=True) == headers


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000,
        b"HTTP/1.1 102 Processing\r\n\r\n" * 6_000,
        CHUNKED + b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 30_000,
    ],
    ids=["one line", "lines", "interim answers", "trailers"],
)
def test_a_head_has_a_limit(data):
    with pytest.raises(httptools.HttpParserError, match="its head is larger than 64 KiB"):
        read(data, 1000)


def test_many_small_chunks_are_no_head():
    assert bytes(read(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n").reply().body) == b"a" * 100_000
