"""Framing on the wire: what is no request, or more than one, is refused or cut; nobody else notices.

The many single cases are in ``tests/protocol/test_http_framing.py``. Here each fault is sent while others are
being answered, and what it costs in time and memory is bounded. ``/smuggled`` stands where a second request
hides: what is answered to it would be a 404.
"""

import time

import pytest
from wire import (
    GOOD,
    MIB,
    assert_serves,
    bystanders,
    connect,
    cpu_s,
    head,
    log_lines,
    peak_growth,
    post,
    read_answer,
    send_all,
    statuses,
    talk,
    until_closed,
)

SMUGGLED = head("/smuggled", method="GET")
CHUNKED = "Transfer-Encoding: chunked"


def chunks(*pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


# row 20
@pytest.mark.parametrize("size", [11 * MIB, 2**40], ids=["11 MiB", "1 TiB"])
def test_a_body_that_says_it_is_too_large_is_refused_unread(server, size):
    with peak_growth(server) as growth, bystanders(server), connect(server.port) as sock:
        sock.sendall(head("/v1/models/echo:predict", f"Content-Length: {size}"))
        answer = read_answer(sock)  # nothing of the body has been sent
        assert answer.status == 413
        assert "--max_buffer_size" in answer.error()
        send_all(sock, b"x" * (11 * MIB) + SMUGGLED)
        assert statuses(until_closed(sock)) == ()
    assert growth[0] < 8 * MIB


# row 21
def test_a_body_in_chunks_is_cut_at_the_limit(server):
    body = chunks(*[b"x" * 65536] * (11 * MIB // 65536))
    with peak_growth(server) as growth, bystanders(server):
        answers = talk(server.port, head("/v1/models/echo:predict", CHUNKED) + body + SMUGGLED)
    assert statuses(answers) == (413,)
    assert growth[0] < 10 * MIB + 8 * MIB


# row 21
@pytest.mark.parametrize("count", [20_000, 1_000_000])
def test_many_small_chunks_are_one_body(server, count):
    body = GOOD + b" " * (count - len(GOOD))
    data = head("/v1/models/echo:predict", CHUNKED, "Connection: close") + chunks(
        *(bytes((byte,)) for byte in body)
    )
    started = cpu_s(server)
    with peak_growth(server) as growth:
        answers = talk(server.port, data)
    assert statuses(answers) == (200,)
    assert answers.endswith(b'{"predictions":[1]}')
    assert growth[0] < 16 * MIB  # not 50 bytes and more for each chunk
    assert cpu_s(server) - started < 20
    assert_serves(server)


# row 22
def test_who_asks_first_is_told_no_instead_of_yes(server):
    with bystanders(server), connect(server.port) as sock:
        sock.sendall(head("/v1/models/echo:predict", f"Content-Length: {2**40}", "Expect: 100-continue"))
        answers = until_closed(sock)
    assert statuses(answers) == (413,)


TRUNCATED = {
    "head": head("/v1/models/anything:predict", "Content-Length: 18")[:-2],
    "line": b"POST /v1/models/anything:pre",
    "body": post(GOOD, "/v1/models/anything:predict")[:-5],
    "chunk": head("/v1/models/anything:predict", CHUNKED) + chunks(GOOD)[:12],
    "last chunk": head("/v1/models/anything:predict", CHUNKED) + chunks(GOOD)[:-5],
    "end": head("/v1/models/anything:predict", CHUNKED) + chunks(GOOD)[:-1],
}


# row 23
@pytest.mark.parametrize("part", TRUNCATED)
def test_half_a_request_is_never_predicted(server, part):
    seen = len(server.log.read_bytes())
    with bystanders(server):
        assert statuses(talk(server.port, TRUNCATED[part], half_close=True)) in ((), (400,))
    assert "predicted" not in log_lines(server, seen)


BAD_CHUNKS = {
    "size ZZ": b"ZZ\r\n" + GOOD,
    "size over 64 bits": b"F" * 17 + b"\r\n" + GOOD,
    "no line end": chunks(GOOD).replace(b"}\r\n", b"}"),
    "extension of 1 MiB": b"11;" + b"x" * MIB + b"\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "many extensions": (b"1" + b";a=b" * 4000 + b"\r\nx\r\n") * 20,
    "trailer of 1 MiB": chunks(GOOD)[:-2] + b"X: " + b"x" * MIB,
}


# row 24
@pytest.mark.parametrize("what", BAD_CHUNKS)
def test_a_bad_chunk_is_refused_within_a_second(server, what):
    data = head("/v1/models/anything:predict", CHUNKED) + BAD_CHUNKS[what]
    took = []
    with bystanders(server):
        for _ in range(3):  # the best of three: the machine may be busy
            started = time.monotonic()
            with connect(server.port) as sock:
                send_all(sock, data)
                got = sock.recv(65536)
                took.append(time.monotonic() - started)
                assert statuses(got + until_closed(sock)) in ((), (400,), (431,))
    assert min(took) < 1


LENGTHS = {
    "twice": ("Content-Length: 5", "Content-Length: 6"),
    "twice the same": ("Content-Length: 5", "Content-Length: 5"),
    "a list": ("Content-Length: 5, 5",),
    "-1": ("Content-Length: -1",),
    "+5": ("Content-Length: +5",),
    "0x5": ("Content-Length: 0x5",),
    "1_0": ("Content-Length: 1_0",),
    "other digits": ("Content-Length: \xb2",),
    "over 64 bits": ("Content-Length: " + "9" * 30,),
    "empty": ("Content-Length:",),
}


# row 25
@pytest.mark.parametrize("form", LENGTHS)
def test_a_length_that_is_no_number_is_refused(server, form):
    with bystanders(server):
        answers = talk(server.port, head("/v1/models/echo:predict", *LENGTHS[form]) + b"12345" + SMUGGLED)
    assert statuses(answers) == (400,)


CL = "Content-Length: 5"
SMUGGLING = {
    "length, then chunked": (CL, CHUNKED),
    "chunked, then length": (CHUNKED, CL),
    "chunked twice": (CHUNKED, CHUNKED),
    "identity": ("Transfer-Encoding: identity", CL),
    "xchunked": ("Transfer-Encoding: xchunked", CL),
    "chunked, identity": ("Transfer-Encoding: chunked, identity",),
    "gzip, chunked": ("Transfer-Encoding: gzip, chunked",),
    "an empty one, chunked": ("Transfer-Encoding: , chunked",),
    "space before the colon": ("Transfer-Encoding : chunked", CL),
    "tab behind it": ("Transfer-Encoding: chunked\t", CL),
    "vertical tab": ("Transfer-Encoding: \x0bchunked", CL),
    "folded": ("Transfer-Encoding:\r\n chunked", CL),
    "behind a bare LF": ("X: y\nTransfer-Encoding: chunked", CL),
    "behind a bare CR": ("X: y\rTransfer-Encoding: chunked", CL),
    "offering another protocol": ("Connection: upgrade", "Upgrade: h2c", CHUNKED, CL),
}


# row 26
@pytest.mark.parametrize("form", SMUGGLING)
def test_a_second_request_is_never_smuggled(server, form):
    data = head("/v1/models/anything:predict", *SMUGGLING[form]) + b"0\r\n\r\n" + SMUGGLED
    with bystanders(server):
        answers = talk(server.port, data)
    assert statuses(answers) in ((400,), (501,))


# row 26
def test_nothing_is_read_behind_the_last_request(server):
    data = post(GOOD, "/v1/models/echo:predict", "Connection: close") + SMUGGLED
    with bystanders(server):
        assert statuses(talk(server.port, data)) == (200,)


HEADS = {
    "1 MiB": head("/", "X: " + "x" * MIB, method="GET"),
    "1 MiB of target": head("/" + "x" * MIB, method="GET"),
    "20,000 fields": head("/", *(f"X-{number}: y" for number in range(20_000)), method="GET"),
    "9,000 repeats": head("/", *["X: y"] * 9000, method="GET"),
    "9,000 cookies": head("/", *["Cookie: a=b"] * 9000, method="GET"),
}


# row 27
@pytest.mark.parametrize("bomb", HEADS)
def test_a_head_that_is_too_large_costs_little(server, bomb):
    with peak_growth(server) as growth, bystanders(server):
        started = cpu_s(server)
        answers = talk(server.port, HEADS[bomb])
        used = cpu_s(server) - started
    assert statuses(answers) in ((), (400,), (431,))
    assert used < 2
    assert growth[0] < 8 * MIB


GARBAGE = {
    "bytes": bytes(range(128, 256)) * 8,
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(506),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"\0" * 100_000,
}


# row 28
@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_http_is_refused_with_one_line_in_the_log(server, kind):
    seen = len(server.log.read_bytes())
    assert statuses(talk(server.port, GARBAGE[kind])) in ((), (400,), (505,))
    with bystanders(server):
        assert statuses(talk(server.port, GARBAGE[kind])) in ((), (400,), (505,))
    lines = [line for line in log_lines(server, seen) if "modelserver.access" not in line]
    assert len(lines) <= 2  # none where many of the kind came lately: then they are counted
    assert all("Refused" in line for line in lines)
