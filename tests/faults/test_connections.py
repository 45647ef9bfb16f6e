"""Connections in numbers: many that are idle, more than there are descriptors, many that are cut."""

import contextlib
import json
import resource
import socket
import statistics
import struct
import time
from pathlib import Path

import pytest
from harness import serving, wait_until
from wire import GOOD, GOOD_ANSWER, bystanders, connect, cpu_s, head, post, read_answer, rss, serving_pids

LIMIT = 96
RESERVE = 16
KINDS = {
    "uvloop": ([], {}),
    "asyncio": ([], {"NO_UVLOOP": "1"}),
    "two workers": (["--workers", "2"], {}),
}
GATE = post(b'{"instances":["%b"]}' % (b"x" * 6), "/v1/models/gate:predict").replace(b"x" * 6, b"%b")
WHO = post(b'{"instances":[0]}', "/v1/models/who:predict")


def serve(programs, folder, *flags, **env):
    return serving([programs / "endured.py", *flags], folder / "log", env=env)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def few_descriptors(request, programs, tmp_path):
    """A server that may have ``LIMIT`` descriptors in each process that answers."""
    flags, env = request.param
    with serve(programs, tmp_path, *flags, DESCRIPTORS=str(LIMIT), **env) as server:
        server.wait_ready("echo")
        if flags:
            wait_until(lambda: server.text().count("is ready") == 2, what="both workers ready")
        yield server


def ask(sock, data=WHO):
    sock.sendall(data)
    return read_answer(sock)


def reset(sock):
    """Leave without a word, and without a port that is kept for a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fill(stack, server):
    """Open connections, each after it has asked, until the server has no room; gives those that stay."""
    kept = []
    for _ in range(10 * LIMIT):
        sock = stack.enter_context(connect(server.port))
        answer = ask(sock)
        if answer.status == 503:
            return kept, sock, answer
        assert answer.status == 200
        kept.append(sock)
    raise AssertionError("never full")


def log_of_trouble(server):
    return [line for line in server.text().splitlines() if not line.startswith("2") or " INFO " not in line]


# row 39
def test_ten_thousand_idle_connections(programs, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    many = min(10_000, hard - 600)  # fewer only where the system allows no more
    assert many >= 2_000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (many + 400, hard))
    clients = []
    try:
        with serve(programs, tmp_path, "--timeout_keep_alive", "300") as server:
            server.wait_ready("echo")
            (pid,) = serving_pids(server)
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (min(hard, 1 << 20), hard)
            for _ in range(100):  # what grows once
                connect(server.port).close()
            memory = rss(server)
            for _ in range(many):
                clients.append(connect(server.port))
                clients[-1].sendall(post(GOOD))
            assert all(read_answer(sock).body == GOOD_ANSWER for sock in clients)
            assert (rss(server) - memory) / many < 12_000  # measured: 4,100
            times = {"kept": [], "new": []}
            until = time.monotonic() + 3.5  # a few sweeps over all of them
            kept = connect(server.port)
            while time.monotonic() < until:
                for kind in times:
                    started = time.perf_counter()
                    sock = kept if kind == "kept" else connect(server.port)
                    assert ask(sock, post(GOOD)).body == GOOD_ANSWER
                    times[kind].append(time.perf_counter() - started)
                    if sock is not kept:
                        reset(sock)
            for kind in times:
                assert statistics.median(times[kind]) < 0.1
                assert max(times[kind]) < 2
            assert all(ask(sock, post(GOOD)).status == 200 for sock in clients[:: many // 50])
            for sock in (*clients, kept):
                reset(sock)
            wait_until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 50, what="all are closed")
            assert not log_of_trouble(server)
    finally:
        for sock in clients:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# row 39
def test_without_descriptors_new_connections_get_503_and_the_others_go_on(few_descriptors):
    server = few_descriptors
    pids = serving_pids(server)
    with contextlib.ExitStack() as stack, bystanders(server):
        kept, refused, answer = fill(stack, server)
        for pid in pids:  # every worker has been filled, not one of them
            assert len(list(Path(f"/proc/{pid}/fd").iterdir())) >= LIMIT - RESERVE - 1
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Connection"] == "close"
        assert "as many connections as it can take" in answer.error()
        assert refused.recv(1) == b""
        for _ in range(100):
            with connect(server.port) as sock:
                assert ask(sock).status == 503
            with connect(server.port) as sock:
                assert ask(sock, head("/", method="GET")).status == 200  # full, not dead
        used = cpu_s(server)
        time.sleep(1)  # what is measured is what it does meanwhile
        assert cpu_s(server) - used < 0.5
        owners = [(int(ask(sock).body[16:-2]), sock) for sock in kept]
        assert {pid for pid, _ in owners} == set(pids)
        for pid, sock in owners:
            if pid == pids[0]:
                reset(sock)

        def has_room():
            with connect(server.port) as sock:
                return ask(sock).status == 200

        wait_until(has_room)
        for _ in range(20):  # the worker that has room takes all of them
            assert int(ask(stack.enter_context(connect(server.port))).body[16:-2]) == pids[0]
        assert all(ask(sock).status == 200 for pid, sock in owners if pid != pids[0])
    wait_until(lambda: len(log_of_trouble(server)) >= len(pids), what="a line of each")
    server.stop()
    lines = log_of_trouble(server)
    assert len(lines) == len(pids), lines
    for line in lines:
        assert "New connections are answered 503" in line
        assert f"may have {LIMIT} open files" in line


# row 39
def test_a_flood_of_connections_that_say_nothing(few_descriptors):
    server = few_descriptors
    with contextlib.ExitStack() as stack, bystanders(server):
        fill(stack, server)
        flood = [stack.enter_context(connect(server.port)) for _ in range(400)]
        for sock in flood:  # each gets its 503, or the end, long before a keep-alive connection would
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(9, socket.MSG_WAITALL) in (b"", b"HTTP/1.1 ")
    with connect(server.port) as sock:
        wait_until(lambda: server.get("/v1/models/echo").status == 200, what="room again")
    assert len(log_of_trouble(server)) <= len(serving_pids(server))


# row 39
def test_a_model_that_takes_every_descriptor(few_descriptors):
    server = few_descriptors
    take, give = (
        post(b'{"instances":["%b"]}' % what, "/v1/models/hog:predict") for what in (b"take", b"give")
    )
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(server.port)) for _ in range(8)]
        owners = {int(ask(sock).body[16:-2]): sock for sock in kept}
        assert set(owners) == set(serving_pids(server))
        for sock in owners.values():
            assert b"Too many open files" in ask(sock, take).body
        waiting = [stack.enter_context(connect(server.port)) for _ in range(50)]
        for sock in waiting:
            with contextlib.suppress(ConnectionError):
                sock.sendall(WHO)
        used = cpu_s(server)
        time.sleep(1)  # what is measured is what it does meanwhile
        assert cpu_s(server) - used < 0.5
        assert all(ask(sock).status == 200 for sock in kept)
        for sock in owners.values():
            assert ask(sock, give).status == 200
        with connect(server.port) as sock:
            wait_until(lambda: server.get("/v1/models/echo").status == 200, what="room again")
    assert len(log_of_trouble(server)) <= 2 * len(serving_pids(server)), log_of_trouble(server)


# row 39
def test_max_connections(programs, tmp_path):
    with serve(programs, tmp_path, "--max_connections", "5") as server, contextlib.ExitStack() as stack:
        server.wait_ready("echo")
        kept, _, _ = fill(stack, server)
        assert len(kept) == 5
        wait_until(lambda: "--max_connections 5" in server.text(), what="a line about it")
        kept[0].close()
        wait_until(lambda: server.get("/v1/models/echo").status == 200)


# row 41
@pytest.mark.parametrize("workers", [1, 2], ids=["one worker", "two workers"])
def test_clients_that_leave_are_not_worked_for(programs, tmp_path, workers):
    calls = tmp_path / "calls"
    with (
        serve(programs, tmp_path, "--workers", workers, CALLS=str(calls)) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_ready("echo")
        if workers > 1:
            wait_until(lambda: server.text().count("is ready") == workers, what="both workers ready")
        stayed = [stack.enter_context(connect(server.port)) for _ in range(4 * workers)]
        watched = {int(ask(sock).body[16:-2]): sock for sock in stayed}
        assert set(watched) == set(serving_pids(server))
        stayed = [sock for sock in stayed if sock not in watched.values()]
        at_rest, threads = inside(watched), count_threads(watched)
        for sock in stayed:  # one of them keeps its worker's gate busy
            sock.sendall(GATE % b"stayed")
        wait_until(lambda: calls.exists() and len(calls.read_text().split()) == workers)
        wait_until(lambda: total(inside(watched), "tasks") >= total(at_rest, "tasks") + len(stayed))
        before = inside(watched)

        for _ in range(2):
            leaving = [connect(server.port) for _ in range(200)]
            for sock in leaving:
                sock.sendall(GATE % b"left__")
            wait_until(
                lambda: total(inside(watched), "descriptors") >= total(before, "descriptors") + 200,
                what="all of them are taken",
            )
            with bystanders(server):
                for sock in leaving:
                    reset(sock)
            wait_until(lambda: inside(watched) == before, what="nothing of them is left")

        calls.with_suffix(".open").touch()
        assert all(read_answer(sock).status == 200 for sock in stayed)
        assert calls.read_text().split() == ["stayed"] * len(stayed)

        for _ in range(200):  # and some that leave while the model runs
            sock = connect(server.port)
            sock.sendall(GATE % b"left__")
            reset(sock)
        wait_until(lambda: inside(watched) == at_rest, what="nothing of them is left")
        assert all(ask(sock, post(GOOD)).body == GOOD_ANSWER for sock in (*stayed, *watched.values()))
        assert count_threads(watched) <= threads + workers  # the log's writer may have begun meanwhile
        server.stop()
        assert not log_of_trouble(server)


def count_threads(pids):
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)


def inside(watched):
    return [json.loads(ask(sock, post(GOOD, "/v1/models/inside:predict")).body) for sock in watched.values()]


def total(states, what):
    return sum(state[what] for state in states)
