"""The same bytes again: a request whose head is known takes a shorter way, and must be answered alike."""

import http.client
import json
import socket
import time

import pytest
from harness import wait_until

REQUESTS = {
    "rows": ("echo", json.dumps({"instances": [[1, 2], [3, 4]]}), {}),
    "no rows": ("echo", "", {}),
    "not JSON": ("echo", "{", {}),
    "explained": ("echo:explain", json.dumps({"instances": [1, 2, 3]}), {}),
    "headers": ("headers", json.dumps({"instances": [1]}), {"X-Agent": "a"}),
    "no such model": ("nobody", "{}", {}),
    "no such verb": ("echo:nothing", "{}", {}),
    "raises": ("raises", json.dumps({"instances": ["protocol"]}), {}),
    "too large": ("echo", " " * (10 * 2**20 + 1), {}),
    "coded": ("echo", "{}", {"Content-Encoding": "br"}),
}
CHANGING = ("date", "x-request-id")


@pytest.mark.parametrize("name", REQUESTS)
def test_the_third_answer_is_the_first(zoo, name):
    model, body, headers = REQUESTS[name]
    path = f"/v1/models/{model if ':' in model else model + ':predict'}"
    connection = http.client.HTTPConnection("127.0.0.1", zoo.port, timeout=30)
    answers = []
    for _ in range(3):
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        kept = {name: value for name, value in response.headers.items() if name.lower() not in CHANGING}
        answers.append((response.status, kept, response.read()))
    connection.close()
    assert answers[1:] == answers[:1] * 2


def test_each_has_its_line_in_the_log(zoo):
    path = "/v1/models/echo:predict?repeated"
    before = zoo.text().count(path)
    connection = http.client.HTTPConnection("127.0.0.1", zoo.port, timeout=30)
    for _ in range(3):
        connection.request("POST", path, '{"instances": []}')
        assert connection.getresponse().read() == b'{"predictions":[]}'
    connection.close()
    wait_until(lambda: zoo.text().count(path) == before + 3, 10, "three lines")


def test_its_own_headers_reach_each_request(zoo):
    """Equal heads share what was read of them, and a hook may change its headers."""
    connection = http.client.HTTPConnection("127.0.0.1", zoo.port, timeout=30)
    for agent in ("a", "b", "a", "b", "a"):
        connection.request("POST", "/v1/models/headers:predict", '{"instances": [1]}', {"X-Agent": agent})
        assert json.loads(connection.getresponse().read()) == {"predictions": [agent]}
    connection.close()


def test_a_client_that_leaves_during_its_second_request_is_noticed(zoo):
    body = b'{"instances": [0.3]}'
    request = (
        b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body
    before = zoo.text().count(" 499 ")
    with socket.create_connection(("127.0.0.1", zoo.port), timeout=30) as sock:
        sock.sendall(request)
        assert b"200 OK" in sock.recv(65536)
        sock.sendall(request)
        time.sleep(0.1)  # until it sleeps; if it has not begun, it is dropped all the same
    wait_until(lambda: zoo.text().count(" 499 ") == before + 1, 10, "the line of a client that left")
