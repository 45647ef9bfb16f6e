"""What tornado promises its applications, promised here too."""

import asyncio
import logging

import pytest
from tornado import httputil, iostream, web

BIG = b"x" * 10_000_000


def handlers(events):
    class Plain(web.RequestHandler):
        def get(self):
            self.write("plain")

        def head(self):
            self.set_header("Content-Length", "5")

        def options(self):
            self.set_status(204)

        def put(self):
            self.set_status(304)

        def post(self):
            self.finish(str(len(self.request.body)))

    class Raises(web.RequestHandler):
        def get(self):
            raise ValueError("plain error")

        def log_exception(self, *args):
            events.append("logged")

    class BadHead(web.RequestHandler):
        def get(self):
            self._headers["X-Bad"] = "a\r\nb"  # past tornado's own check
            self.finish("never")

        def log_exception(self, kind, *args):
            events.append(kind.__name__)

    class Writer(web.RequestHandler):
        async def get(self):
            for number in range(3):
                self.write(f"{number},")
                await self.flush()
            await asyncio.sleep(0)

    class TooLittle(web.RequestHandler):
        def get(self):
            self.set_header("Content-Length", "9")
            self.request.connection.write_headers(
                httputil.ResponseStartLine("HTTP/1.1", 200, "OK"), self._headers, b"short"
            )
            try:
                self.request.connection.finish()
            except httputil.HTTPOutputError:
                events.append("refused")
            self._finished = True

    @web.stream_request_body
    class Streamed(web.RequestHandler):
        size = 0

        async def prepare(self):
            await asyncio.sleep(0)
            if self.request.headers.get("X-Refuse"):
                self.set_status(403)
                self.finish("refused")

        async def data_received(self, chunk):
            if chunk == b"raise":
                raise ValueError("streamed error")
            await asyncio.sleep(0)
            self.size += len(chunk)

        def post(self):
            self.write(str(self.size))

        def on_connection_close(self):
            events.append("left")
            super().on_connection_close()

    class LongPoll(web.RequestHandler):
        async def get(self):
            events.append("polling")
            self.left = asyncio.get_running_loop().create_future()
            await self.left
            self.write("to nobody")
            with pytest.raises(iostream.StreamClosedError):
                await self.flush()
            await asyncio.sleep(0)
            events.append("over")

        def on_connection_close(self):
            events.append("left")
            self.left.set_result(None)

    class Big(web.RequestHandler):
        async def get(self):
            self.write(BIG)
            try:
                async with asyncio.timeout(0.02):
                    await self.flush()
            except TimeoutError:
                events.append("timeout")
            self.write(b"end")
            await self.flush()
            events.append("taken")

    return web.Application(
        [
            ("/plain", Plain),
            ("/raises", Raises),
            ("/bad-head", BadHead),
            ("/writer", Writer),
            ("/too-little", TooLittle),
            ("/streamed", Streamed),
            ("/poll", LongPoll),
            ("/big", Big),
        ]
    )


@pytest.fixture
def events():
    return []


@pytest.fixture
def application(events):
    return handlers(events)


def asking(method, path, extra=b"", version=b"1.1"):
    return b"%s %s HTTP/%s\r\nHost: h\r\n%s\r\n" % (method, path, version, extra)


def test_ordinary_handlers(run, serving, application):
    async def main():
        async with serving(application) as served:
            client = await served.client()
            client.send(asking(b"GET", b"/plain"))
            answer = await client.answer()
            assert (answer.body, answer.headers["Content-Length"]) == (b"plain", "5")
            client.send(asking(b"HEAD", b"/plain"))
            answer = await client.answer(head=True)
            assert (answer.status, answer.headers["Content-Length"]) == (200, "5")
            client.send(asking(b"OPTIONS", b"/plain"))
            assert (await client.answer()).status == 204
            client.send(asking(b"PUT", b"/plain", b"Content-Length: 0\r\n"))
            answer = await client.answer()
            assert (answer.status, "Transfer-Encoding" in answer.headers) == (304, False)
            client.send(asking(b"POST", b"/plain", b"Content-Length: 3\r\n") + b"abc")
            assert (await client.answer()).body == b"3"

    run(main)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_written_stream_is_chunked_or_ends_with_the_connection(run, serving, application, keeps):
    async def main():
        async with serving(application) as served:
            client = await served.client()
            client.send(asking(b"GET", b"/writer"))
            answer = await client.answer()
            assert (answer.body, answer.headers["Transfer-Encoding"]) == (b"0,1,2,", "chunked")
            client.send(asking(b"GET", b"/writer", b"Connection: keep-alive\r\n" * keeps, b"1.0"))
            answer = await client.answer()
            assert (answer.body, answer.headers["Connection"]) == (b"0,1,2,", "close")
            assert "Transfer-Encoding" not in answer.headers

    run(main)


def test_a_streamed_body(run, serving, application, events):
    async def main():
        async with serving(application) as served:
            client = await served.client()
            client.send(asking(b"POST", b"/streamed", b"Content-Length: 1000000\r\n") + BIG[:1_000_000])
            assert (await client.answer()).body == b"1000000"
            client.send(asking(b"POST", b"/streamed", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
            assert (await client.answer()).status == 100
            client.send(b"abc")
            assert (await client.answer()).body == b"3"

    run(main)
    assert events == []


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_an_early_answer_ends_the_connection_and_is_read_while_the_body_comes(
    run, serving, application, expect
):
    async def main():
        async with serving(application) as served:
            client = await served.client()
            head = asking(b"POST", b"/streamed", b"X-Refuse: 1\r\nContent-Length: 10000000\r\n" + expect)
            client.send(head if expect else head + BIG[:5_000_000])
            answer = await client.answer()
            assert (answer.status, answer.body) == (403, b"refused")
            if not expect:
                client.send(BIG[5_000_000:] + asking(b"GET", b"/plain"))
                await client.writer.drain()
            assert await client.ended() == b""

    run(main)


def test_a_handler_is_told_once_that_its_client_left(run, serving, application, events):
    async def main():
        events.clear()
        async with serving(application) as served:
            client = await served.client()
            client.send(asking(b"GET", b"/poll"))
            while events != ["polling"]:
                await asyncio.sleep(0)
            client.leave()
            while "over" not in events:
                await asyncio.sleep(0)
            client = await served.client()
            client.send(asking(b"POST", b"/streamed", b"Content-Length: 9\r\n") + b"abc")
            while not any(connection._line for connection in served.server.connections):
                await asyncio.sleep(0)
            client.leave()
            await served.is_empty()
        assert events == ["polling", "left", "over", "left"]

    run(main)


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [(b"/raises", 500, ["logged"]), (b"/bad-head", None, ["ValueError"]), (b"/too-little", 200, ["refused"])],
)
def test_a_handler_that_fails(run, serving, application, events, path, status, told, caplog):
    async def main():
        events.clear()
        async with serving(application) as served:
            client = await served.client()
            client.send(asking(b"GET", path))
            if path == b"/raises":
                assert (await client.answer()).status == status
                client.send(asking(b"GET", b"/plain"))
                assert (await client.answer()).body == b"plain"
            else:
                assert b"0\r\n\r\n" not in await client.ended()  # never what looks like a whole answer
        assert events == told

    run(main)


def test_a_slow_flush_that_is_given_up_harms_no_later_one(run, serving, application, events):
    async def main():
        events.clear()
        async with serving(application) as served:
            client = await served.client(limit=1000)
            client.send(asking(b"GET", b"/big"))
            while "timeout" not in events:
                await asyncio.sleep(0.001)
            client.reader._limit = 2**20
            assert (await client.answer()).body == BIG + b"end"
            while "taken" not in events:
                await asyncio.sleep(0)

    run(main)


class Failing(httputil.HTTPServerConnectionDelegate):
    """Raises where it is told to."""

    def __init__(self, where, error, *, later=False):
        self.where = where
        self.error = error
        self.later = later

    def _at(self, where):
        if where == self.where:
            raise self.error

    async def _later(self, where):
        await asyncio.sleep(0)
        self._at(where)

    def start_request(self, server_conn, request_conn):
        self._at("start")
        application = self

        class Delegate(httputil.HTTPMessageDelegate):
            def headers_received(self, start_line, headers):
                return application._later("head") if application.later else application._at("head")

            def data_received(self, chunk):
                return application._later("body") if application.later else application._at("body")

            def finish(self):
                if application.where == "answer":
                    head = httputil.ResponseStartLine("HTTP/1.1", 200, "OK")
                    request_conn.write_headers(head, httputil.HTTPHeaders(), b"half")
                    raise application.error
                application._at("finish")
                answer = httputil.ResponseStartLine("HTTP/1.1", 204, "No Content")
                request_conn.write_headers(answer, httputil.HTTPHeaders())
                request_conn.finish()

            def on_connection_close(self):
                application._at("close")

        return Delegate()

    def on_close(self, server_conn):
        self._at("end")


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(
    ("where", "later"),
    [("start", 0), ("head", 0), ("head", 1), ("body", 0), ("body", 1), ("finish", 0), ("answer", 0)],
)
def test_an_application_that_raises(run, serving, where, later, pipelined, caplog):
    application = Failing(where, ValueError("from the application"), later=bool(later))
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"

    async def main():
        caplog.clear()
        async with serving(application) as served:
            client = await served.client()
            if pipelined:
                application.where = None
                client.send(request)
                assert (await client.answer()).status == 204
                application.where = where
                client.send(request * 3)
            else:
                client.send(request)
            if where == "answer":
                assert b"0\r\n\r\n" not in await client.ended()
            else:
                answer = await client.answer()
                assert (answer.status, answer.headers["Connection"]) == (500, "close")
                assert b"from the application" not in answer.body
            assert await client.ended() == b""
            application.where = None
            client = await served.client()
            client.send(request)
            assert (await client.answer()).status == 204
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [record.exc_info[1] for record in errors] == [application.error]

    run(main)


@pytest.mark.parametrize("where", ["close", "end"])
def test_an_application_that_raises_when_the_client_leaves(run, serving, where, caplog):
    async def main():
        caplog.clear()
        application = Failing(where, ValueError("from the application"))
        async with serving(application) as served:
            client = await served.client()
            client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx")
            while not any(connection._line for connection in served.server.connections):
                await asyncio.sleep(0)
            client.leave()
            await served.is_empty()
        assert [record.exc_info[1] for record in caplog.records] == [application.error]

    run(main)


def test_a_request_that_the_application_calls_malformed_is_a_400(run, serving, caplog):
    async def main():
        async with serving(Failing("head", httputil.HTTPInputError("no"))) as served:
            client = await served.client()
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.answer()).status == 400
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    run(main)
