"""A head that came before is not parsed again: the same answers, whatever way the bytes come."""

import pytest
from tornado import httputil

from modelserver.http.head import Headers, KnownHeads, lowered, read_head

POST = b"POST /%d HTTP/1.1\r\nHost: h\r\nX-Two: a\r\nContent-Length: %d\r\nX-Two: b\r\n\r\n"
BODIES = (b"abcde", b"vwxyz")


def post(number, body=b"abcde"):
    return POST % (number, len(body)) + body


@pytest.fixture
def parses(monkeypatch):
    """The heads that were read from what the parser found."""
    made = []

    def counting(*args):
        made.append(args[1])
        return read_head(*args)

    monkeypatch.setattr("modelserver.http.connection.read_head", counting)
    return made


def seen(recorder):
    return [(method, path, body) for method, path, _, body in recorder.requests]


def test_a_head_is_parsed_once_for_all_connections(run, serving, make_recorder, parses):
    async def main():
        recorder = make_recorder()
        parses.clear()
        async with serving(recorder) as served:
            for _ in range(2):
                client = await served.client()
                for body in BODIES:
                    client.send(post(1, body))
                    assert (await client.answer()).status == 200
        assert seen(recorder) == [("POST", "/1", body) for body in BODIES * 2]
        assert parses == ["/1"]
        for _, _, headers, _ in recorder.requests:
            assert list(headers.get_all()) == [
                ("Host", "h"), ("X-Two", "a"), ("X-Two", "b"), ("Content-Length", "5"),
            ]  # fmt: skip

    run(main)


@pytest.mark.parametrize(
    "cut", [1, 4, 20, len(post(1)) - 6, len(post(1)) - 5, len(post(1)) - 4, len(post(1)) - 1]
)
def test_a_known_head_may_come_in_pieces(run, serving, make_recorder, cut):
    async def main():
        recorder = make_recorder()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(post(1))
            await client.answer()
            whole = post(1, b"vwxyz")
            client.send(whole[:cut])
            await client.writer.drain()
            other = await served.client()  # by its answer, the first piece has been read
            other.send(post(2))
            await other.answer()
            client.send(whole[cut:])
            await client.answer()
            client.send(post(1))
            await client.answer()
        assert seen(recorder) == [
            ("POST", "/1", b"abcde"), ("POST", "/2", b"abcde"),
            ("POST", "/1", b"vwxyz"), ("POST", "/1", b"abcde"),
        ]  # fmt: skip

    run(main)


def test_known_heads_may_be_pipelined(run, serving, make_recorder):
    async def main():
        recorder = make_recorder()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(post(1))
            await client.answer()
            client.send(post(1) * 10 + post(1)[:-2])
            for _ in range(10):
                await client.answer()
            client.send(b"de" + post(1))
            await client.answer()
            await client.answer()
        assert seen(recorder) == [("POST", "/1", b"abcde")] * 13

    run(main)


def test_a_request_waits_in_line_behind_one_that_is_not_answered(run, serving, make_recorder):
    async def main():
        recorder = make_recorder()
        async with serving(recorder) as served:
            client = await served.client()
            client.send(post(1))
            await client.answer()
            gate = recorder.gates[1] = served.server.done.get_loop().create_future()
            client.send(post(1))
            while len(recorder.requests) < 2:
                await other_turn(served)
            client.send(post(1))
            await other_turn(served)
            assert len(recorder.requests) == 2
            gate.set_result(None)
            assert [(await client.answer()).body for _ in range(2)] == [b"1", b"2"]

    async def other_turn(served):
        """Once another connection has come and gone, what was sent before is read."""
        other = await served.client()
        other.send(b"nonsense\r\n\r\n")
        await other.ended()

    run(main)


def test_an_application_may_change_its_headers(run, serving):
    got = []

    class Changes(httputil.HTTPServerConnectionDelegate):
        def start_request(self, server_conn, request_conn):
            class Delegate(httputil.HTTPMessageDelegate):
                def headers_received(self, start_line, headers):
                    got.append(dict(headers))
                    headers["Host"] = "changed"
                    del headers["X-Two"]

                def finish(self):
                    line = httputil.ResponseStartLine("HTTP/1.1", 204, "No Content")
                    request_conn.write_headers(line, httputil.HTTPHeaders())
                    request_conn.finish()

            return Delegate()

        def on_close(self, server_conn):
            pass

    async def main():
        got.clear()
        async with serving(Changes()) as served:
            client = await served.client()
            for _ in range(3):
                client.send(post(1))
                assert (await client.answer()).status == 204
        assert got == [{"Host": "h", "X-Two": "a,b", "Content-Length": "5"}] * 3

    run(main)


# -- what is kept

FIELDS = [(b"Host", b"h"), (b"Content-Length", b"5")]
RAW = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"


def learn(raw, fields=FIELDS, version="1.1", target=b"/x"):
    heads = KnownHeads()
    heads.learn(raw, read_head("POST", target.decode(), version, fields), target, fields)
    return heads.get(raw)


def test_a_plain_head_is_kept_with_the_size_of_its_body():
    assert learn(RAW).size == len(RAW) + 5
    bodyless = b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n"
    assert learn(bodyless, FIELDS[:1]).size == len(bodyless)


@pytest.mark.parametrize(
    ("raw", "fields", "version"),
    [
        (RAW.replace(b": h", b":h"), FIELDS, "1.1"),
        (RAW.replace(b": h", b":  h"), FIELDS, "1.1"),
        (RAW.replace(b"h\r\n", b"h \r\n"), FIELDS, "1.1"),
        (b"\r\n" + RAW, FIELDS, "1.1"),
        (b"\r\n\r\n", FIELDS, "1.1"),
        (RAW[:3], FIELDS, "1.1"),
        (RAW.replace(b"\r\nContent-Length: 5", b""), FIELDS, "1.1"),
        (RAW.replace(b"1.1", b"1.0"), FIELDS, "1.0"),
        (RAW[:-2] + b"Expect: 100-continue\r\n\r\n", [*FIELDS, (b"Expect", b"100-continue")], "1.1"),
        (RAW[:-2] + b"Upgrade: h2c\r\n\r\n", [*FIELDS, (b"Upgrade", b"h2c")], "1.1"),
        (
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            [FIELDS[0], (b"Transfer-Encoding", b"chunked")], "1.1",
        ),
        (RAW[:-2] + b"X: " + b"x" * 2048 + b"\r\n\r\n", [*FIELDS, (b"X", b"x" * 2048)], "1.1"),
    ],
)  # fmt: skip
def test_a_head_that_leaves_something_to_decide_is_not(raw, fields, version):
    assert learn(raw, fields, version) is None


def test_no_more_than_a_bounded_number_is_kept():
    heads = KnownHeads()
    for number in range(5000):
        target = b"/%d" % number
        raw = RAW.replace(b"/x", target)
        heads.learn(raw, read_head("POST", target.decode(), "1.1", FIELDS), target, FIELDS)
        assert heads.get(raw) is not None
    kept = sum(heads.get(RAW.replace(b"/x", b"/%d" % number)) is not None for number in range(5000))
    assert kept <= 512


def test_headers_are_a_dictionary_when_somebody_looks():
    fields = [("Host", "h"), ("X-Two", "a"), ("x-two", "b")]
    headers = Headers(fields, {"host": "h", "x-two": "a,b"})
    assert lowered(headers) == {"host": "h", "x-two": "a,b"}
    assert headers.get_list("X-Two") == ["a", "b"]
    headers["Host"] = "other"
    assert (headers["host"], len(headers)) == ("other", 2)
    with pytest.raises(AttributeError):
        _ = headers.nonsense
    assert lowered(httputil.HTTPHeaders({"X-One": "1"})) == {"x-one": "1"}
