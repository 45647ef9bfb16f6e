"""Requests in, answers out, in order: framing, pipelining, limits. The application only records."""

import asyncio

import pytest

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde"
CHUNKED = (
    b"POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nab\r\n3;ext=1\r\ncde\r\n0\r\nTrailer: ignored\r\n\r\n"
)


def requests_of(count):
    return b"".join(
        kind % number for number, kind in zip(range(count), [GET, POST, CHUNKED] * count, strict=False)
    )


def seen(recorder):
    return [(path, body) for _, path, _, body in recorder.requests]


def expected(count):
    return [(f"/{number}", b"" if number % 3 == 0 else b"abcde") for number in range(count)]


def test_fifty_pipelined_requests_are_answered_in_order(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        gate = recorder.gates[0] = asyncio.get_running_loop().create_future()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(requests_of(50))
            while not recorder.requests:
                await asyncio.sleep(0)
            assert len(recorder.requests) == 1  # the others wait for the first
            gate.set_result(None)
            assert [(await client.answer()).body for _ in range(50)] == [b"%d" % n for n in range(50)]
            client.send(GET % 50)
            assert (await client.answer()).body == b"50"
        assert seen(recorder)[:50] == expected(50)

    run(main)


def test_a_body_may_come_after_the_answer_in_front_of_it(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        gate = recorder.gates[0] = asyncio.get_running_loop().create_future()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(GET % 0 + (POST % 1)[:-2])
            while not recorder.requests:
                await asyncio.sleep(0)
            gate.set_result(None)
            assert (await client.answer()).body == b"0"
            client.send(b"de")
            assert (await client.answer()).body == b"1"
        assert seen(recorder) == [("/0", b""), ("/1", b"abcde")]

    run(main)


def test_requests_cut_at_every_byte(run, serving, recorder):
    data = requests_of(3)

    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            for cut in range(1, len(data)):
                client = await served.client()
                client.send(data[:cut])
                await client.writer.drain()
                await asyncio.sleep(0)
                client.send(data[cut:])
                for _ in range(3):
                    assert (await client.answer()).status == 200
                client.leave()
        assert seen(recorder) == expected(3) * (len(data) - 1)

    run(main)


def test_requests_byte_by_byte(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            client = await served.client()
            (connection,) = await connections(served)
            for byte in requests_of(6):
                connection.data_received(bytes((byte,)))
            for _ in range(6):
                assert (await client.answer()).status == 200
        assert seen(recorder) == expected(6)

    run(main)


async def connections(served):
    while not served.server.connections:
        await asyncio.sleep(0)
    return served.server.connections


@pytest.mark.parametrize("behind", [GET % 1, b"garbage", (POST % 1)[:40], b"x" * 200_000])
@pytest.mark.parametrize("waits", [False, True])
def test_nothing_behind_connection_close_is_answered(run, serving, recorder, behind, waits):
    async def main():
        recorder.requests.clear()
        gate = asyncio.get_running_loop().create_future()
        recorder.gates = {1: gate} if waits else {}
        async with serving(recorder) as served:
            client = await served.client()
            closing = b"GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            client.send(GET % 0 + closing + behind)
            first = await client.answer()
            assert (first.body, "Connection" in first.headers) == (b"0", False)
            gate.set_result(None)
            last = await client.answer()
            assert (last.body, last.headers["Connection"]) == (b"1", "close")
            assert await client.ended() == b""
        assert [path for path, _ in seen(recorder)] == ["/0", "/c"]

    run(main)


@pytest.mark.parametrize(
    "behind", [b"garbage\r\n\r\n", b"GET /1 HTTP/1.1\r\n\r\n", (CHUNKED % 1).replace(b"2\r\n", b"ZZ\r\n")]
)
def test_what_is_malformed_does_not_harm_the_request_in_front_of_it(run, serving, recorder, behind):
    async def main():
        recorder.requests.clear()
        gate = recorder.gates[0] = asyncio.get_running_loop().create_future()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(GET % 0 + behind)
            while not recorder.requests:
                await asyncio.sleep(0)
            gate.set_result(None)
            assert (await client.answer()).body == b"0"
            assert await client.ended() == b""
        assert len(recorder.requests) == 1

    run(main)


ONE_ANSWER = [
    # name, request, status, whether the connection lives on
    ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", 200, False),
    ("HTTP/1.0 that keeps alive", b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 200, True),
    ("empty lines in front", b"\r\n\r\n" + GET % 0, 200, True),
    ("spaces around a value", b"GET / HTTP/1.1\r\nHost:  h \t\r\nX:\r\n\r\n", 200, True),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400, False),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, False),
    ("a list of Hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, False),
    ("HTTP/0.9", b"GET /\r\n\r\n", 505, False),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, False),
    ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 400, False),
    ("CONNECT", b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n" + GET % 1, 405, False),
    ("gzip, chunked", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, False),
    ("chunked HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, False),
    ("a long URL", b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 60_000), 200, True),
    ("a URL too long", b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 66_000), 431, False),
    ("a URL far too long", b"GET /%s" % (b"x" * 1_000_000), 431, False),
    ("a field too long", b"GET / HTTP/1.1\r\nHost: h\r\nX: %s\r\n\r\n" % (b"x" * 66_000), 431, False),
    ("200 fields", b"GET / HTTP/1.1\r\nHost: h\r\n%s\r\n" % (b"X: y\r\n" * 199), 200, True),
    ("201 fields", b"GET / HTTP/1.1\r\nHost: h\r\n%s\r\n" % (b"X: y\r\n" * 200), 431, False),
    ("20,000 fields", b"GET / HTTP/1.1\r\nHost: h\r\n%s\r\n" % (b"X: y\r\n" * 20_000), 431, False),
    ("an extension bomb", (CHUNKED % 0).replace(b"ext=1", b"ext=" + b"1" * 1_000_000), 431, False),
    ("a trailer bomb", (CHUNKED % 0).replace(b"ignored", b"i" * 1_000_000), 431, False),
]


@pytest.mark.parametrize(
    ("data", "status", "lives"), [c[1:] for c in ONE_ANSWER], ids=[c[0] for c in ONE_ANSWER]
)
def test_one_answer(run, serving, recorder, data, status, lives):
    async def main():
        async with serving(recorder) as served:
            client = await served.client()
            client.send(data)
            answer = await client.answer()
            assert answer.status == status
            if lives:
                client.send(GET % 1)
                assert (await client.answer()).status == 200
            else:
                assert answer.headers["Connection"] == "close"
                assert await client.ended() == b""

    run(main)


def test_a_head_behind_a_big_body_is_not_too_large(run, serving, recorder):
    async def main():
        async with serving(recorder, max_head_bytes=1000) as served:
            client = await served.client()
            (connection,) = await connections(served)
            big = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
            head = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 900 + b"\r\n\r\n"
            connection.data_received(big[:30])
            connection.data_received(big[30:] + head[:500])
            connection.data_received(head[500:] + big + head[:20])
            connection.data_received(head[20:])
            assert [(await client.answer()).status for _ in range(4)] == [200] * 4

    run(main)


def test_an_absolute_target_is_taken_apart(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(b"GET http://a:1/p?q=1 HTTP/1.1\r\nHost: b\r\n\r\n")
            assert (await client.answer()).status == 200
        ((_, path, headers, _),) = recorder.requests
        assert (path, headers["Host"]) == ("/p?q=1", "a:1")

    run(main)


@pytest.mark.parametrize("body", [b"", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("cut", [None, 60, 130])
def test_an_offer_of_another_protocol_is_ignored(run, serving, recorder, body, cut):
    data = b"POST /0 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    if body:
        data += body + b"\r\n\r\n" + (b"abcde" if b"Length" in body else b"5\r\nabcde\r\n0\r\n\r\n")
    else:
        data += b"\r\n"
    data += POST % 1

    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            client = await served.client()
            (connection,) = await connections(served)
            connection.data_received(data[:cut])
            if cut:
                connection.data_received(data[cut:])
            assert [(await client.answer()).body for _ in range(2)] == [b"0", b"1"]
        assert seen(recorder) == [("/0", b"abcde" if body else b""), ("/1", b"abcde")]

    run(main)


def test_100_continue_is_said_once_and_not_to_http_1_0(run, serving, recorder):
    expecting = b"POST / HTTP/1.%d\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(expecting % 1)
            assert (await client.answer()).status == 100
            client.send(b"abcde")
            assert (await client.answer()).body == b"0"
            client.send(expecting % 0 + b"abcde")
            assert (await client.answer()).body == b"1"
            assert await client.ended() == b""

    run(main)


def test_a_chunked_body_of_tiny_chunks_reaches_the_application_in_few_pieces(run, serving, recorder):
    pieces = []

    async def main():
        pieces.clear()
        async with serving(recorder) as served:
            client = await served.client()
            (connection,) = await connections(served)
            taken = connection._take_body
            connection._take_body = lambda: pieces.append(taken()) or pieces[-1]
            data = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.send(data + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
            assert (await client.answer()).status == 200
        assert recorder.requests[-1][3] == b"x" * 20_000
        assert len(pieces) < 100

    run(main)


def test_spaces_around_a_value_are_not_part_of_it(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(b"POST / HTTP/1.1\r\nHost:\th \r\nContent-Length:  1 \t\r\nX: \xe4 b \r\nY:\r\n\r\nx")
            assert (await client.answer()).status == 200
        fields = dict(recorder.requests[0][2].get_all())
        assert fields == {"Host": "h", "Content-Length": "1", "X": "\xe4 b", "Y": ""}

    run(main)
