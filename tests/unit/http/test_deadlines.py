"""Patience: every way of being slow ends, and quickly in these tests."""

import asyncio
import contextlib
import json
import resource
import socket
import time

import pytest
from tornado import httputil, web

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


def error(answer):
    assert answer.headers["Connection"] == "close"
    return answer.status, json.loads(answer.body)["error"]


async def trickle(client, data, until):
    """One byte at a time, until the server has had enough."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            client.send(bytes((byte,)))
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.shield(until)
            except TimeoutError:
                continue
            return


@pytest.mark.parametrize("sent", ["first", "behind an answer"])
def test_a_slow_head(run, serving, recorder, sent):
    async def main():
        async with serving(recorder, head_s=0.15, keep_alive_s=60) as served:
            client = await served.client()
            if sent == "behind an answer":
                gate = recorder.gates[len(recorder.requests)] = asyncio.get_running_loop().create_future()
                client.send(GET + GET[:3])
                while not served.server.connections or not recorder.requests:
                    await asyncio.sleep(0)
                gate.set_result(None)
                assert (await client.answer()).status == 200
                recorder.gates.clear()
                recorder.requests.clear()
            answer = asyncio.ensure_future(client.answer())
            head = b"GET / HTTP/1.1\r\nX: " + b"x" * 1000
            await trickle(client, head[3 * (sent != "first") :], answer)
            status, text = error(await answer)
            assert (status, "head" in text) == (408, True)
            assert await client.ended() == b""

    run(main)


@pytest.mark.parametrize("sends", [0, 1000])
def test_a_body_that_stands_still_or_only_trickles(run, serving, recorder, sends):
    async def main():
        async with serving(recorder, body_idle_s=0.15) as served:
            client = await served.client()
            client.send(POST % 10_000)
            answer = asyncio.ensure_future(client.answer())
            await trickle(client, b"x" * sends, answer)
            status, text = error(await answer)
            assert (status, "body" in text) == (408, True)
            assert recorder.requests == []

    run(main)


def test_a_body_above_the_floor_takes_its_time(run, serving, recorder):
    async def main():
        recorder.requests.clear()
        async with serving(recorder, body_idle_s=0.1, min_body_rate=50) as served:
            client = await served.client()
            client.send(POST % 40)
            answer = asyncio.ensure_future(client.answer())
            await trickle(client, b"x" * 40, answer)  # 100 bytes a second, for four times the patience
            assert (await answer).status == 200

    run(main)


def test_time_that_the_application_takes_is_not_the_clients(run, serving):
    taken = 0

    class Slow(httputil.HTTPServerConnectionDelegate):
        def start_request(self, server_conn, connection):
            class Delegate(httputil.HTTPMessageDelegate):
                async def headers_received(self, start_line, headers):
                    await asyncio.sleep(0.2)

                async def data_received(self, chunk):
                    nonlocal taken
                    taken += len(chunk)
                    await asyncio.sleep(0.2)

                def finish(self):
                    start_line = httputil.ResponseStartLine("HTTP/1.1", 204, "No Content")
                    connection.write_headers(start_line, httputil.HTTPHeaders())
                    connection.finish()

            return Delegate()

    async def main():
        async with serving(Slow(), body_idle_s=0.05, keep_alive_s=0.05, head_s=0.05) as served:
            client = await served.client()
            client.send(POST % 4 + b"ab")
            await asyncio.sleep(0)
            client.send(b"cd")
            assert (await client.answer()).status == 204

    run(main)
    assert taken == 4


def test_an_idle_connection_is_closed_quietly(run, serving, recorder):
    async def main():
        async with serving(recorder, keep_alive_s=0.1) as served:
            new, used = await served.client(), await served.client()
            used.send(GET)
            assert (await used.answer()).status == 200
            used.send(b"\r\n")  # empty lines are no request
            assert await new.ended() == b""
            assert await used.ended() == b""

    run(main)


class Big(web.RequestHandler):
    """A megabyte for every request."""

    served = 0

    def get(self):
        type(self).served += 1
        self.write(b"x" * 1_000_000)


def test_a_client_that_never_reads_is_dropped_and_costs_little(run, serving):
    async def main():
        Big.served = 0
        async with serving(web.Application([("/", Big)]), write_idle_s=0.2) as served:
            client = await served.client(limit=1000)
            client.send(GET * 1000)
            while not served.server.connections:
                await asyncio.sleep(0)
            (connection,) = served.server.connections
            started, used = time.monotonic(), time.process_time()
            unsent = 0
            while served.server.connections:
                unsent = max(unsent, connection._transport.get_write_buffer_size())
                await asyncio.sleep(0.01)
            assert time.process_time() - used < 0.75 * (time.monotonic() - started)  # no busy loop
            assert unsent < 2_000_000
            assert Big.served < 20  # what the system's own buffers took

    run(main)


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_reads_slowly_gets_everything(run, serving, closes):
    async def main():
        async with serving(web.Application([("/", Big)]), write_idle_s=0.3) as served:
            loop = asyncio.get_running_loop()
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", served.port))
            close = b"Connection: close\r\n\r\n"
            await loop.sock_sendall(sock, GET * 7 + GET[:-2] + (close if closes else b"\r\n"))
            got = 0
            while got < 8_000_000:  # takes several times write_idle_s
                await asyncio.sleep(0.005)
                data = await loop.sock_recv(sock, 30_000)
                assert data
                got += len(data)
            sock.close()

    run(main)


def test_two_thousand_idle_connections_keep_nobody_out(run, serving, recorder):
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count + 200)), hard))

    async def main():
        async with serving(recorder) as served:
            loop = asyncio.get_running_loop()
            socks = []
            for _ in range(count):
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", served.port))
                await loop.sock_sendall(sock, GET)
                socks.append(sock)
            for sock in socks:
                assert (await loop.sock_recv(sock, 1000)).startswith(b"HTTP/1.1 200")
            assert len(served.server.connections) == count
            client = await served.client()
            client.send(GET)
            assert (await client.answer()).status == 200
            for sock in socks:
                sock.close()

    try:
        run(main, 60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
