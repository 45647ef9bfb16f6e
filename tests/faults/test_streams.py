"""An answer that fails after it has begun ends so that the client sees it: never as if it were whole."""

import http.client
import socket
from functools import partial

import pytest
from wire import (
    GOOD_ANSWER,
    bystanders,
    connect,
    head,
    log_lines,
    post,
    read_answer,
    until_closed,
)

PIECES = b"".join(b"piece %d;" % number for number in range(5))


def test_a_stream_that_does_not_fail_is_whole(server):
    with connect(server.port) as sock:
        for _ in range(2):
            sock.sendall(head("/stream/whole", method="GET"))
            answer = read_answer(sock, "GET")
            assert (answer.status, answer.body) == (200, PIECES)
            assert answer.headers["Transfer-Encoding"] == "chunked"


# row 62
def test_a_chunked_answer_that_fails_has_no_last_chunk(server):
    seen = len(server.log.read_bytes())
    with bystanders(server):
        with connect(server.port) as sock:
            sock.sendall(head("/stream/fails", method="GET") + head("/stream/whole", method="GET"))
            got = until_closed(sock)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.endswith(b"piece 4;\r\n")  # all that was written, and no end
        with connect(server.port) as sock:
            sock.sendall(head("/stream/fails", method="GET"))
            with pytest.raises(http.client.IncompleteRead) as failure:
                read_answer(sock, "GET")
        assert failure.value.partial == PIECES
    log = "\n".join(log_lines(server, seen))
    assert log.count("ValueError: failed in the middle") == 2


# row 62
def test_an_answer_with_a_length_that_fails_is_short(server):
    with bystanders(server), connect(server.port) as sock:
        sock.sendall(head("/stream/counted", method="GET"))
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            read_answer(sock, "GET")


# row 62
def test_an_answer_to_http_1_0_that_fails_is_reset(server):
    # The end of the connection is the end of the body there: only a reset says that it is not the end.
    with bystanders(server), connect(server.port) as sock:
        sock.sendall(head("/stream/fails", method="GET", version="1.0"))
        with pytest.raises(ConnectionResetError):
            list(iter(partial(sock.recv, 65536), b""))


# row 62
def test_what_waits_behind_it_on_the_connection_is_not_answered(server):
    with bystanders(server):
        for _ in range(20):
            with connect(server.port) as sock:
                sock.sendall(head("/stream/fails", method="GET") + post(b'{"instances":[1]}'))
                sock.shutdown(socket.SHUT_WR)
                assert GOOD_ANSWER not in until_closed(sock)
