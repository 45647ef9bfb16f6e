"""Many large bodies at once: what they hold together is bounded, and given back whatever becomes of them."""

import contextlib
import gzip
import json

import pytest
from harness import wait_until
from wire import (
    MIB,
    bystanders,
    connect,
    head,
    hostile_server,
    peak_growth,
    post,
    read_answer,
    send_all,
)

MOST = 16 * MIB
SIZE = 3 * MIB
SPARE = 12 * MIB
BODY = b'{"instances":[1],"seconds":2}'
LARGE = BODY + b" " * (SIZE - len(BODY))
CLIENTS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ("--max_buffer_size", str(4 * MIB), "--max_in_flight_bytes", str(MOST), "--timeout_read", "5")
    with hostile_server(tmp_path_factory.mktemp("body_memory"), *flags) as running:
        yield running


def assert_all_is_given_back(server):
    """As many large bodies as there is room for are taken again."""

    def answers():
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(server.port)) for _ in range(MOST // SIZE)]
            for sock in socks:
                send_all(sock, post(LARGE))
            return all(read_answer(sock).status == 200 for sock in socks)

    wait_until(answers, what="room for large bodies")


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_what_all_bodies_hold_is_bounded(server, framing):
    size = f"{len(LARGE):x}\r\n".encode()
    start, end = {
        "Content-Length": (post(LARGE)[:-1], LARGE[-1:]),
        "chunked": (
            head("/v1/models/echo:predict", "Transfer-Encoding: chunked") + size + LARGE,
            b"\r\n0\r\n\r\n",
        ),
    }[framing]
    with bystanders(server), peak_growth(server) as growth, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server.port)) for _ in range(CLIENTS)]
        for sock in socks:  # all of them at once, as far as they get
            send_all(sock, start)
        answers = []
        for sock in socks:
            send_all(sock, end)
            with contextlib.suppress(ConnectionError):
                answers.append(read_answer(sock))
    refused = [answer for answer in answers if answer.status == 503]
    taken = [answer for answer in answers if answer.status == 200]
    assert len(taken) >= MOST // SIZE - 1
    assert refused
    assert len(refused) + len(taken) == len(answers)
    for answer in refused:
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Connection"] == "close"
        assert "--max_in_flight_bytes" in answer.error()
    for answer in taken:
        assert json.loads(answer.body) == {"predictions": [1]}
    assert growth[0] < MOST + SPARE
    assert_all_is_given_back(server)


def test_a_body_that_finds_no_room_is_refused_unread(server):
    with contextlib.ExitStack() as stack:
        for _ in range(MOST // SIZE):
            send_all(stack.enter_context(connect(server.port)), post(LARGE)[:-1])

        def refusal():
            with connect(server.port) as sock:
                sock.sendall(post(LARGE)[:100])  # its head says how much will come
                sock.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    return read_answer(sock)

        answer = wait_until(refusal, what="a refusal")  # when all that was sent has been read
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
    assert_all_is_given_back(server)


def test_what_clients_that_left_had_sent_is_given_back(server):
    for _ in range(5):
        with bystanders(server, count=1), contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(server.port)) for _ in range(MOST // SIZE)]
            for number, sock in enumerate(
                socks
            ):  # some in the middle of the body, some in that of the answer
                send_all(sock, post(LARGE, "/v1/models/late:predict")[: -1 if number % 2 else None])
        assert_all_is_given_back(server)


def test_slow_bodies_that_are_cut_and_failures_give_it_back(server):
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server.port)) for _ in range(MOST // SIZE)]
        for number, sock in enumerate(socks):
            path = ("/v1/models/echo:predict", "/none", "/form", "/v1/models/none:predict", "/")[number % 5]
            send_all(sock, post(LARGE, path)[:-1])
        assert read_answer(socks[0]).status == 408
        for sock, status in zip(socks[1:], (404, 400, 404, 405), strict=False):
            with contextlib.suppress(ConnectionError):
                send_all(sock, b" ")
                assert read_answer(sock).status in (status, 408)
    assert_all_is_given_back(server)


def test_what_gzip_bodies_become_counts_too(server):
    request = post(gzip.compress(LARGE), "/v1/models/late:predict", "Content-Encoding: gzip")
    assert len(request) < 10_000
    with bystanders(server), peak_growth(server) as growth, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server.port)) for _ in range(CLIENTS)]
        for sock in socks:
            sock.sendall(request)
        got = [read_answer(sock).status for sock in socks]
    assert got.count(200) >= MOST // SIZE
    assert got.count(503) > 0
    assert got.count(200) + got.count(503) == CLIENTS
    assert growth[0] < MOST + SPARE
    assert_all_is_given_back(server)
