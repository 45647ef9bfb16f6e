"""Patience: clients that send, or read, slower than is decent are cut, and cost nobody else anything.

The patience is set to a second here; the flags are the same ones that set it to others in production.
"""

import contextlib
import selectors
import socket
import time
from pathlib import Path

import pytest
from harness import wait_until
from wire import (
    GOOD,
    GOOD_ANSWER,
    MIB,
    bystanders,
    connect,
    cpu_s,
    head,
    hostile_server,
    peak_growth,
    post,
    read_answer,
    send_all,
    serving_pids,
    statuses,
)

from modelserver.http.limits import Limits
from modelserver.settings import Settings

PATIENCE_S = 1
CLIENTS = 25


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def server(request, tmp_path_factory):
    flags = ("--workers", request.param, "--timeout_read", PATIENCE_S, "--timeout_write", PATIENCE_S)
    with hostile_server(tmp_path_factory.mktemp("deadlines"), *map(str, flags)) as running:
        yield running


def test_the_patience_that_a_server_has_by_default():
    limits = Limits.of(Settings())
    assert (limits.head_s, limits.body_idle_s, limits.write_idle_s) == (20, 20, 60)
    assert limits.keep_alive_s > 60  # or proxies would send requests into connections that are being closed


def trickle(port, start, count=CLIENTS):
    """Send ``start``, then one byte each tenth of a second, on many connections until all are ended.

    Returns:
        For each: the statuses that came, and seconds from the first byte to the end.
    """
    outcome = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            sock = stack.enter_context(connect(port))
            sock.sendall(start)
            selector.register(sock, selectors.EVENT_READ, bytearray())
        started = time.monotonic()
        while selector.get_map():
            assert time.monotonic() - started < 60, f"{len(selector.get_map())} are still open"
            pause_until = time.monotonic() + 0.1
            for key, _ in selector.select(0.1):
                sock, got = key.fileobj, key.data
                try:
                    piece = sock.recv(65536)
                except ConnectionError:
                    piece = b""
                got += piece
                if not piece:
                    selector.unregister(sock)
                    outcome.append((statuses(got), time.monotonic() - started))
            time.sleep(max(0.0, pause_until - time.monotonic()))  # the pace of the slow clients
            for key in list(selector.get_map().values()):
                with contextlib.suppress(ConnectionError):
                    key.fileobj.send(b"a")
    return outcome


# row 17
def test_slow_heads_are_cut_and_idle_connections_are_not(server):
    with bystanders(server), connect(server.port) as idle, connect(server.port) as unused:
        idle.sendall(post(GOOD))
        assert read_answer(idle).status == 200
        used = cpu_s(server)
        outcome = trickle(server.port, b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
        assert len(outcome) == CLIENTS
        for got, after_s in outcome:
            assert got in ((408,), ())
            assert PATIENCE_S * 0.9 < after_s < PATIENCE_S + 10
        for sock in (idle, unused):  # both have waited longer than a head may take
            sock.sendall(post(GOOD))
            assert read_answer(sock).body == GOOD_ANSWER
        assert cpu_s(server) - used < 5


# row 18
@pytest.mark.parametrize(
    "framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
def test_slow_bodies_are_cut(server, framing):
    body = b"" if "Length" in framing else b"FFFF\r\n"
    with bystanders(server):
        outcome = trickle(server.port, head("/v1/models/echo:predict", framing) + body)
    assert len(outcome) == CLIENTS
    for got, after_s in outcome:
        assert got in ((408,), ())
        assert PATIENCE_S * 0.9 < after_s < PATIENCE_S + 10


# row 18
def test_a_body_above_the_floor_may_take_longer_than_the_patience(server):
    size = 20_000
    with bystanders(server), connect(server.port) as sock:
        started = time.monotonic()
        sock.sendall(head("/v1/models/anything:predict", f"Content-Length: {size}", "Content-Type: x/y"))
        for _ in range(20):  # 10,000 bytes a second
            sock.sendall(b"x" * (size // 20))
            time.sleep(0.1)  # the pace of the client
        answer = read_answer(sock)
        assert answer.status == 200
        assert time.monotonic() - started > PATIENCE_S


# row 19
def test_who_never_reads_is_dropped_and_costs_little_memory(server):
    def sockets():
        links = [link for pid in serving_pids(server) for link in Path(f"/proc/{pid}/fd").iterdir()]
        count = 0
        for link in links:
            with contextlib.suppress(FileNotFoundError):
                count += str(link.readlink()).startswith("socket:")
        return count

    clients, request = 4, post(b'{"instances":[%b1]}' % (b"1," * 10_000))  # 80 MB of answers
    with bystanders(server), peak_growth(server) as growth, contextlib.ExitStack() as stack:
        before = sockets()
        used = cpu_s(server)
        for _ in range(clients):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError):  # the server stops reading what it cannot answer
                send_all(sock, request * 1000)
        wait_until(lambda: sockets() <= before, 60, "the connections' end")
        assert cpu_s(server) - used < 10
    assert growth[0] < clients * 4 * MIB
