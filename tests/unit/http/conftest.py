"""A server in the test's own event loop, on a real socket, and a client that reads answers byte by byte."""

import asyncio
import contextlib
import gc
import socket
from dataclasses import dataclass

import pytest
import uvloop
from tornado import httputil

from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
QUICK = {"sweep_s": 0.02}


@dataclass
class Answer:
    status: int
    headers: httputil.HTTPHeaders
    body: bytes


class Client:
    """One connection to the server."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self, *, head=False):
        start = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, fields = start.partition("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = httputil.HTTPHeaders.parse(fields)
        if head or int(status) in (100, 204, 304):
            return Answer(int(status), headers, b"")
        if headers.get("Transfer-Encoding") == "chunked":
            assert "Content-Length" not in headers
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "Content-Length" in headers:
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        else:
            body = await self.reader.read()
        return Answer(int(status), headers, body)

    async def ended(self):
        """Everything that still comes until the server closes; a reset counts as nothing."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            return await self.reader.read()
        return b""

    def leave(self):
        self.writer.transport.abort()


class Served:
    """A running server."""

    def __init__(self, server, port):
        self.server = server
        self.port = port
        self._clients = []

    async def client(self, limit=2**16, **options):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit, **options))
        self._clients.append(client)
        return client

    async def is_empty(self):
        while self.server.connections:
            await asyncio.sleep(0)

    async def end(self):
        for client in self._clients:
            client.leave()
        async with asyncio.timeout(10):
            await self.is_empty()


@contextlib.asynccontextmanager
async def _serving(application, certificate=None, **limits):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = HTTPServer(application, Limits(**{**QUICK, **limits}), certificate=certificate)
    await server.start([sock])
    served = Served(server, sock.getsockname()[1])
    try:
        yield served
        await served.end()
    finally:
        await server.stop_accepting()
        server.close()
        await asyncio.sleep(0)


@pytest.fixture
def serving():
    """``async with serving(application, **limits) as served``."""
    return _serving


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine function in each kind of loop; anything that asyncio complains of fails the test."""

    def run(main, timeout_s=30):
        complaints = []

        async def guarded():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: complaints.append(context))
            async with asyncio.timeout(timeout_s):
                await main()
            gc.collect()  # what was never retrieved complains when it is collected
            await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(guarded())
        gc.collect()
        assert complaints == []

    return run


class Recorder(httputil.HTTPServerConnectionDelegate):
    """Keeps every request and answers it with its number; a request may be made to wait."""

    def __init__(self):
        self.requests = []
        self.lost = []
        self.gates = {}

    def start_request(self, server_conn, request_conn):
        return _Recording(self, request_conn)


class _Recording(httputil.HTTPMessageDelegate):
    def __init__(self, recorder, connection):
        self._recorder = recorder
        self._connection = connection
        self._body = b""

    def headers_received(self, start_line, headers):
        self._start_line = start_line
        self._headers = headers

    def data_received(self, chunk):
        self._body += chunk

    def finish(self):
        recorder = self._recorder
        number = len(recorder.requests)
        recorder.requests.append((*self._start_line[:2], self._headers, self._body))
        gate = recorder.gates.get(number)
        if gate is None:
            self._answer(number)
        else:
            gate.add_done_callback(lambda _: self._answer(number))

    def _answer(self, number):
        body = b"%d" % number
        headers = httputil.HTTPHeaders({"Content-Length": str(len(body))})
        self._connection.write_headers(httputil.ResponseStartLine("HTTP/1.1", 200, "OK"), headers, body)
        self._connection.finish()

    def on_connection_close(self):
        self._recorder.lost.append(self._start_line.path)


@pytest.fixture
def recorder():
    """An application that keeps what it was asked."""
    return Recorder()


@pytest.fixture(scope="session")
def make_recorder():
    """The class of such applications."""
    return Recorder
