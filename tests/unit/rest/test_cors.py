"""CORS: headers on every answer where it is on, none where it is off, and what a browser asks first."""

import asyncio
import contextlib

import pytest
from in_memory import MemoryServer
from tornado import httpclient, httpserver, testing, web

from modelserver import InvalidInput, Model, ModelServer

HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
PREDICT = b'{"instances": [[1]]}'


def asking(method, path, body=b"", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def read(written):
    """Status, headers and body of the answer; a header that comes twice fails."""
    head, _, body = written.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = dict(pairs)
    assert len(headers) == len(pairs), lines
    return int(first.split()[1]), headers, body


def of_cors(headers):
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-")}


@contextlib.contextmanager
def serving(**settings):
    server = MemoryServer(**settings)
    yield server
    server._loop.close()


@pytest.fixture(scope="module")
def server():
    with serving(enable_cors=True, max_buffer_size=1000) as server:
        yield server


@pytest.fixture(scope="module")
def plain():
    with serving(max_buffer_size=1000) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("secret-key\n")
    with serving(enable_cors=True, api_key_file=str(keys)) as server:
        yield server


EVERY_KIND = {
    "a prediction": (asking("POST", "/v1/models/strict:predict", PREDICT), 200),
    "a bad request": (asking("POST", "/v1/models/strict:predict", b"{"), 400),
    "no such model": (asking("POST", "/v1/models/no:predict", PREDICT), 404),
    "not implemented": (asking("POST", "/v1/models/strict:explain", PREDICT), 501),
    "a body too large": (asking("POST", "/v1/models/strict:predict", b"1" * 2000), 413),
    "an unknown coding": (asking("POST", "/v1/models/strict:predict", PREDICT, Content_Encoding="br"), 415),
    "liveness": (asking("GET", "/"), 200),
    "the status": (asking("GET", "/v1/models/strict"), 200),
    "a status that is not there": (asking("GET", "/v1/models/no"), 404),
    "the metrics": (asking("GET", "/metrics"), 200),
    "no such path": (asking("GET", "/nothing"), 404),
    "the wrong method": (asking("GET", "/v1/models/strict:predict"), 405),
    "a preflight": (asking("OPTIONS", "/v1/models/strict:predict", Origin="https://shop.example"), 200),
    "a preflight of nobody": (asking("OPTIONS", "/v1/models/strict:predict"), 400),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_answer_has_the_headers_once(server, kind):
    request, expected = EVERY_KIND[kind]
    status, headers, _ = read(server.send(request))
    assert status == expected
    assert of_cors(headers) == HEADERS


def test_an_answer_is_the_same_but_for_the_headers(server, plain):
    for kind, (request, _) in EVERY_KIND.items():
        if "preflight" in kind or "metrics" in kind:
            continue
        status, headers, body = read(server.send(request))
        others = {name: value for name, value in headers.items() if name not in HEADERS}
        assert (status, others, body) == read(plain.send(request)), kind


def test_without_it_no_answer_has_one(plain):
    for kind, (request, expected) in EVERY_KIND.items():
        status, headers, _ = read(plain.send(request))
        assert of_cors(headers) == {}, kind
        assert status == (405 if "preflight" in kind else expected), kind


@pytest.mark.parametrize(
    "path", ["/v1/models/strict:predict", "/v1/any/thing", "/V1/models/x", "/v2/health/live"]
)
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8000", 200),
        ("https://shop.example", 200),
        ("HTTPS://shop.example", 200),
        ("null", 400),
        ("file://", 400),
        ("httpx://shop.example", 400),
        ("shop.example", 400),
        ("", 400),
    ],
)
def test_a_preflight_is_answered_by_its_origin(server, path, origin, expected):
    status, headers, body = read(server.send(asking("OPTIONS", path, Origin=origin)))
    assert status == expected
    assert (body == b"") == (expected == 200)
    assert of_cors(headers) == HEADERS
    assert origin == "" or origin not in str(headers)


@pytest.mark.parametrize("path", ["/", "/metrics", "/other"])
def test_other_paths_have_no_preflight(server, path):
    status, _, _ = read(server.send(asking("OPTIONS", path, Origin="https://shop.example")))
    assert status == (404 if path == "/other" else 405)


def test_a_preflight_may_have_a_body_and_another_request_behind_it(server):
    """Its body is thrown away, and never read as a request."""
    first = asking("OPTIONS", "/v1/models/strict:predict", b"x" * 500, Origin="http://h")
    first = first.replace(b"Connection: close\r\n", b"")
    written = server.send(first + asking("GET", "/"))
    assert written.count(b"HTTP/1.1 200 OK") == 2
    assert written.endswith(b'{"status":"alive"}')
    status, headers, _ = read(server.send(asking("OPTIONS", "/v1/", b"x" * 2000, Origin="http://h")))
    assert (status, of_cors(headers)) == (413, HEADERS)


def test_a_preflight_needs_no_key_and_what_follows_does(keyed):
    with_keys = HEADERS | {"Access-Control-Allow-Headers": "Content-Type, Authorization, X-API-Key"}
    path = "/v1/models/strict:predict"
    asked = {"Origin": "http://h", "Access_Control_Request_Method": "POST"}
    status, headers, body = read(keyed.send(asking("OPTIONS", path, **asked)))
    assert (status, of_cors(headers), body) == (200, with_keys, b"")
    status, headers, _ = read(keyed.send(asking("POST", path, PREDICT, Origin="http://h")))
    assert (status, of_cors(headers)) == (401, with_keys)
    status, headers, _ = read(
        keyed.send(asking("POST", path, PREDICT, Origin="http://h", X_API_Key="secret-key"))
    )
    assert (status, of_cors(headers)) == (200, with_keys)


@pytest.mark.parametrize("path", ["/", "/metrics", "/v1", "/own"])
def test_options_of_other_paths_need_a_key(keyed, path):
    status, _, _ = read(keyed.send(asking("OPTIONS", path, Origin="http://h")))
    assert status == 401


class Picky(Model):
    def predict(self, payload, headers, response_headers):
        response_headers["access-control-allow-origin"] = "https://shop.example"
        if payload.get("bad"):
            raise InvalidInput("bad")
        return {"predictions": [1] * 20_000}


class OwnHandler(web.RequestHandler):
    def get(self):
        self.set_header("Access-Control-Allow-Headers", "X-Mine")
        self.write("mine")


def test_what_a_hook_or_handler_sets_stays_also_on_tornados_own_server():
    server = ModelServer(access_log=False, enable_cors=True)
    model = Picky("picky")
    model.load()
    server.register_model(model)
    application = server.create_application()
    application.add_handlers(".*", [("/own", OwnHandler)])

    async def main():
        sock, port = testing.bind_unused_port()
        http_server = httpserver.HTTPServer(application)
        http_server.add_socket(sock)
        client = httpclient.AsyncHTTPClient(force_instance=True)
        base = f"http://127.0.0.1:{port}"
        found = []
        for request in (
            httpclient.HTTPRequest(f"{base}/v1/models/picky:predict", method="POST", body="{}"),
            httpclient.HTTPRequest(f"{base}/v1/models/picky:predict", method="POST", body='{"bad": 1}'),
            httpclient.HTTPRequest(f"{base}/own"),
            httpclient.HTTPRequest(f"{base}/v1/x", method="OPTIONS", headers={"Origin": "http://h"}),
        ):
            response = await client.fetch(request, raise_error=False)
            found.append((response.code, dict(response.headers.get_all()), response.headers))
        client.close()
        http_server.stop()
        await http_server.close_all_connections()
        return found

    predicted, refused, own, preflight = asyncio.run(main())
    picky = HEADERS | {"Access-Control-Allow-Origin": "https://shop.example"}
    assert (predicted[0], of_cors(predicted[1])) == (200, picky)
    assert predicted[2].get_list("Content-Encoding") == []
    assert (refused[0], of_cors(refused[1])) == (400, HEADERS)
    assert (own[0], of_cors(own[1])) == (200, HEADERS | {"Access-Control-Allow-Headers": "X-Mine"})
    assert (preflight[0], of_cors(preflight[1])) == (200, HEADERS)
