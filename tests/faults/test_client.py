"""What servers and networks do to a client, and what its user sees: of threads, of asyncio and of uvloop."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import uvloop
from scripted_server import Scripted, answer

from modelserver.client import patience as patience_module
from modelserver.client.asynchronous import AsyncClient
from modelserver.client.blocking import Client
from modelserver.client.failures import CallFailed, CallTimeout, ServerUnreachable, UnreadableAnswer

ROWS = np.array([[1, 2]])
GOOD = b'{"predictions":[3]}'
ANSWER = answer(GOOD)
LARGE = np.zeros(3_000_000)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class OfLoop:
    """An ``AsyncClient`` that is called like a ``Client``."""

    def __init__(self, runner, url, **options):
        self._runner = runner
        self.client = AsyncClient(url, **options)

    def infer(self, *args, **options):
        return self._runner.run(self.client.infer(*args, **options))

    def is_ready(self, *args):
        return self._runner.run(self.client.is_ready(*args))

    def close(self):
        self._runner.run(self.client.close())


@pytest.fixture(params=["threads", *LOOPS])
def connect(request):
    """Makes clients, and closes them at the end."""
    made = []
    if request.param == "threads":
        yield lambda url, **options: made.append(Client(url, **{"protocol": "v1", **options})) or made[-1]
        for client in made:
            client.close()
        return
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield (
            lambda url, **options: (
                made.append(OfLoop(runner, url, **{"protocol": "v1", **options})) or made[-1]
            )
        )
        for client in made:
            client.close()


def predictions(client, **options):
    return client.infer("m", ROWS, **options).array.tolist()


def test_one_connection_is_kept_for_calls_to_come(connect):
    with Scripted([ANSWER, ANSWER, ANSWER]) as server:
        client = connect(server.url)
        assert [predictions(client) for _ in range(3)] == [[3]] * 3
        client.close()
        assert server.gone.wait(30)
    assert [request.connection for request in server.requests] == [0, 0, 0]


def test_what_is_sent(connect):
    with Scripted([ANSWER]) as server:
        client = connect(server.url + "/prefix/", headers={"X-Tenant": "ä"}, api_key="secret")
        predictions(client, id="7", headers={"traceparent": "00-1"})
        client.close()
    [request] = server.requests
    assert request.line == "POST /prefix/v1/models/m:predict HTTP/1.1"
    assert request.body == b'{"instances":[[1,2]]}'
    assert request.headers == {
        "host": server.url.removeprefix("http://"),
        "user-agent": "modelserver",
        "accept-encoding": "identity",
        "x-tenant": "ä",
        "authorization": "Bearer secret",
        "content-type": "application/json",
        "x-request-id": "7",
        "traceparent": "00-1",
        "content-length": "21",
    }


def test_a_gateway_is_asked_for_a_host_of_its_own(connect):
    with Scripted([ANSWER]) as server:
        client = connect(server.url, headers={"host": "iris.example.com"})
        predictions(client)
        client.close()
    assert server.requests[0].headers["host"] == "iris.example.com"


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
        + GOOD[:5]
        + b"\r\ne\r\n"
        + GOOD[5:]
        + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\nX: 1\r\n\r\n" + ANSWER,
        answer(GOOD, "200 "),
        answer(GOOD, X="1") + b"surplus",
    ],
    ids=["chunks", "an interim answer first", "no reason phrase", "bytes behind it"],
)
def test_answers_of_several_kinds(connect, sent):
    def in_pieces(connection):
        for start in range(0, len(sent), 7):
            connection.sendall(sent[start : start + 7])

    with Scripted([in_pieces], [sent]) as server:
        client = connect(server.url)
        assert predictions(client) == [3]
        assert predictions(client) == [3]
        client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + GOOD,
        b"HTTP/1.0 200 OK\r\nContent-Length: 19\r\n\r\n" + GOOD,
        answer(GOOD, Connection="close"),
    ],
    ids=["no length", "HTTP/1.0", "close"],
)
def test_an_answer_after_which_the_connection_ends(connect, sent):
    with Scripted([sent], [ANSWER]) as server:
        client = connect(server.url)
        assert [predictions(client), predictions(client)] == [[3], [3]]
        client.close()
    assert [request.connection for request in server.requests] == [0, 1]


# -- connections that end


@pytest.fixture
def generous(monkeypatch):
    """What is at once on a machine with other things to do."""
    monkeypatch.setattr(patience_module, "AT_ONCE_S", 30.0)


def test_a_kept_connection_that_the_server_closes_when_asked_again_costs_nothing(connect, generous):
    # Closed only when the second request is there, so the client cannot know before.
    with Scripted([ANSWER, lambda connection: None], [ANSWER]) as server:
        client = connect(server.url)
        assert [predictions(client), predictions(client)] == [[3], [3]]
        client.close()
    assert [request.connection for request in server.requests] == [0, 0, 1]


def test_a_kept_connection_that_ends_while_the_model_works_is_not_asked_again(connect):
    def work_and_die(connection):
        threading.Event().wait(4 * patience_module.AT_ONCE_S)  # the work

    with Scripted([ANSWER, work_and_die], [ANSWER]) as server:
        client = connect(server.url)
        predictions(client)
        with pytest.raises(ServerUnreachable, match="was closed before an answer came"):
            predictions(client)
        assert len(server.requests) == 2
        assert predictions(client) == [3]
        client.close()


def test_a_kept_connection_that_ends_before_a_large_request_is_sent_is_tried_anew(connect, monkeypatch):
    monkeypatch.setattr(patience_module, "AT_ONCE_S", -1.0)  # only what could not be sent is tried again
    with Scripted([ANSWER, lambda connection: None], [ANSWER], reads_bodies=False) as server:
        client = connect(server.url)
        assert client.infer("m", [1]).array.tolist() == [3]
        assert client.infer("m", LARGE).array.tolist() == [3]
        client.close()


def test_a_kept_connection_that_the_server_has_closed_is_not_used(connect, monkeypatch):
    monkeypatch.setattr(patience_module, "AT_ONCE_S", -1.0)
    answered, closed = threading.Event(), threading.Event()

    def answer_and_close(connection):
        connection.sendall(ANSWER)
        assert answered.wait(30)
        connection.shutdown(socket.SHUT_WR)
        closed.set()

    with Scripted([answer_and_close], [ANSWER]) as server:
        client = connect(server.url)
        predictions(client)
        answered.set()
        assert closed.wait(30)  # the loop does not run here, and has not heard of it
        assert predictions(client) == [3]
        client.close()


def test_it_is_tried_once_more_only(connect, generous):
    with Scripted([ANSWER, lambda connection: None], [lambda connection: None], [ANSWER]) as server:
        client = connect(server.url)
        predictions(client)
        with pytest.raises(ServerUnreachable, match="was closed before an answer came"):
            predictions(client)
        assert predictions(client) == [3]
        client.close()
    assert [request.connection for request in server.requests] == [0, 0, 1, 2]


def test_a_new_connection_that_ends_is_an_error(connect):
    with Scripted([lambda connection: None], [ANSWER]) as server:
        client = connect(server.url)
        with pytest.raises(ServerUnreachable) as caught:
            predictions(client)
        assert predictions(client) == [3]
        client.close()
    error = caught.value
    assert str(error) == f"{server.url}/v1/models/m:predict: {error.reason}"
    assert (error.status, error.reason) == (502, "the connection was closed before an answer came")
    assert isinstance(error, ConnectionError)


@pytest.mark.parametrize(
    "sent",
    [
        ANSWER[:-1],
        ANSWER[:20],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + GOOD[:5] + b"\r\n",
    ],
    ids=["body", "head", "chunks"],
)
def test_an_answer_that_is_cut_off(connect, sent):
    with Scripted([ANSWER, sent], [ANSWER]) as server:
        client = connect(server.url)
        predictions(client)
        with pytest.raises(ServerUnreachable, match="in the middle of the answer"):
            predictions(client)
        assert predictions(client) == [3]
        client.close()
    assert len(server.requests) == 3  # it was not asked again


def test_nobody_listens(connect):
    with Scripted([]) as server:
        url = server.url
    client = connect(url, timeout=30)
    assert client.is_ready("m") is False
    with pytest.raises(ServerUnreachable, match=r"/v1/models/m:predict: cannot connect: Connection refused"):
        predictions(client)


def test_a_host_that_is_none(connect):
    with pytest.raises(ServerUnreachable, match=r"cannot connect: .*[Nn]ame"):
        predictions(connect("http://nowhere.invalid", timeout=30))


def test_a_server_that_refuses_a_large_body_before_it_has_read_it(connect):
    def refuse(connection):
        connection.sendall(answer(b'{"error":"too large"}', "413 Content Too Large", Connection="close"))
        connection.shutdown(socket.SHUT_WR)

    with Scripted([refuse], reads_bodies=False) as server:
        client = connect(server.url)
        with pytest.raises(CallFailed, match="answered 413: too large") as caught:
            client.infer("m", LARGE)
        assert server.gone.wait(30)
    assert caught.value.status == 413


def test_threads_hear_a_server_that_refuses_and_closes_at_once():
    refusal = answer(b'{"error":"too large"}', "413 Content Too Large", Connection="close")
    with (
        Scripted([refusal], [], reads_bodies=False) as server,
        Client(server.url, protocol="v1") as client,
        pytest.raises(CallFailed, match="answered 413: too large"),
    ):
        client.infer("m", LARGE)


# -- time


def test_a_server_that_does_not_answer(connect):
    with Scripted([lambda connection: connection.recv(1)]) as server:
        client = connect(server.url, timeout=0.2)
        with pytest.raises(CallTimeout, match=r"/v1/models/m:predict: no answer within 0.2 s") as caught:
            predictions(client)
        assert server.gone.wait(30)  # its connection is closed
        client.close()
    assert caught.value.status == 504
    assert isinstance(caught.value, TimeoutError)
    assert len(server.requests) == 1


def test_an_answer_that_drips_does_not_move_the_deadline(connect):
    slow = answer(b" " * 100_000)

    def dripping(connection):
        for byte in slow:
            connection.sendall(bytes((byte,)))
            time.sleep(0.005)

    with Scripted([dripping]) as server:
        client = connect(server.url)
        started = time.monotonic()
        with pytest.raises(CallTimeout, match=r"within 0.3 s"):
            predictions(client, timeout=0.3)
        assert 0.29 < time.monotonic() - started < 30
        client.close()


def test_a_refusal_is_tried_again_when_the_server_says(connect):
    busy = answer(b'{"error":"busy"}', "503 Service Unavailable", Retry_After="1")
    with Scripted([busy, ANSWER]) as server:
        started = time.monotonic()
        client = connect(server.url)
        assert predictions(client) == [3]
        assert time.monotonic() - started >= 1
        client.close()
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_retries_have_a_number(connect, status):
    busy = answer(b'{"error":"busy"}', status)
    with Scripted([busy] * 3) as server:
        client = connect(server.url, retries=2)
        with pytest.raises(CallFailed, match="busy"):
            predictions(client)
        client.close()
    assert len(server.requests) == 3


def test_a_wait_that_would_be_longer_than_the_timeout_is_not_begun(connect):
    busy = answer(b'{"error":"busy"}', "503 Service Unavailable", Retry_After="600")
    with Scripted([busy]) as server:
        client = connect(server.url)
        with pytest.raises(CallFailed) as caught:
            predictions(client)
        client.close()
    assert (caught.value.status, caught.value.reason, caught.value.retry_after_s) == (503, "busy", 600)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error", "504 Gateway Timeout"])
def test_other_errors_are_not_tried_again(connect, status):
    with Scripted([answer(b'{"error":"no"}', status)]) as server:
        client = connect(server.url)
        with pytest.raises(CallFailed, match=f"answered {status[:3]}: no"):
            predictions(client)
        client.close()
    assert len(server.requests) == 1


# -- answers that are none


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"220 mail.example.com ESMTP\r\n", "the answer is no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "the answer is no HTTP/1.1"),
        (answer(b"<html>"), "the answer cannot be read"),
        (answer(b"{}"), "no predictions"),
        (answer(b'{"predictions":[[1],[2,3]]}'), "is no tensor"),
        (answer(b"\x1f\x8b", Content_Encoding="gzip"), "gzip"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "its head is larger than 64 KiB"),
        (answer(b'{"predictions":["\\ud800"]}'), "the answer cannot be read"),
    ],
    ids=["mail", "lengths", "html", "empty", "ragged", "gzip", "head", "surrogate"],
)
def test_answers_that_cannot_be_read(connect, sent, text):
    with Scripted([sent]) as server:
        client = connect(server.url)
        with pytest.raises(UnreadableAnswer, match=text) as caught:
            predictions(client)
        client.close()
    assert caught.value.status == 502


# -- tasks


@pytest.fixture(params=LOOPS)
def runner(request):
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)  # the poll itself


@pytest.mark.parametrize("body", [ROWS, np.zeros(3_000_000)], ids=["reading", "writing"])
def test_a_cancelled_call_closes_its_connection(runner, body):
    def wait_for_the_end(connection):
        connection.settimeout(30)
        while connection.recv(65536):
            pass

    async def run(server):
        async with AsyncClient(server.url, protocol="v1") as client:
            task = asyncio.create_task(client.infer("m", body))
            await until(lambda: server.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answer = await client.infer("m", ROWS)
            assert answer.array.tolist() == [3]

    # The second connection is only taken when the first has ended.
    with Scripted([wait_for_the_end], [ANSWER], reads_bodies=False) as server:
        runner.run(run(server))


def test_tasks_wait_for_a_connection_while_there_are_as_many_as_allowed(runner):
    async def run(server):
        async with AsyncClient(server.url, protocol="v1", max_connections=1) as client:
            answers = await asyncio.gather(*(client.infer("m", ROWS) for _ in range(5)))
            assert [each.array.tolist() for each in answers] == [[3]] * 5
            slow = asyncio.create_task(client.infer("m", ROWS))
            await until(lambda: len(server.requests) == 6)
            with pytest.raises(CallTimeout):  # it waits for the connection of the first
                await client.infer("m", ROWS, timeout=0.1)
            slow.cancel()
            await asyncio.wait([slow])

    with Scripted([ANSWER] * 5 + [lambda connection: connection.recv(1)]) as server:
        runner.run(run(server))
        assert server.gone.wait(30)
    assert len(server.requests) == 6


def test_a_client_in_a_process_that_was_forked_leaves_the_connections_to_its_parent(monkeypatch):
    with Scripted([ANSWER, ANSWER], [ANSWER]) as server, Client(server.url, protocol="v1") as client:
        predictions(client)
        monkeypatch.setattr("os.getpid", lambda: -1)
        predictions(client)
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_connection_on_which_a_request_is_half_sent_is_not_used_again(runner):
    def refuse(connection):
        connection.sendall(answer(b'{"error":"too large"}', "413 Content Too Large"))
        assert heard.wait(30)  # before, nothing more is read
        while connection.recv(65536):
            pass

    heard = threading.Event()

    async def run(server):
        async with AsyncClient(server.url) as client:
            with pytest.raises(CallFailed, match="too large"):
                await client.infer("m", {"x": np.zeros(10_000_000)})
            heard.set()
            with pytest.raises(UnreadableAnswer):
                await client.infer("m", {"x": ROWS})

    with Scripted([refuse], [ANSWER], reads_bodies=False) as server:
        runner.run(run(server))
    assert [request.connection for request in server.requests] == [0, 1]


# -- gRPC


class OfGrpc(grpc.GenericRpcHandler):
    """A server of gRPC that answers every method by a function."""

    def __init__(self, function):
        self._function = function
        self.calls = 0
        self._server = grpc.server(ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((self,))
        self.url = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details):
        def answer(message, context):
            self.calls += 1
            return self._function(context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait(30)


@pytest.mark.parametrize("metadata", [(("x-request-id", "1"),), (("retry-after", "0"),)])
def test_what_the_server_says_is_asked_again(connect, metadata):
    def refuse(context):
        context.set_trailing_metadata(metadata)
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    with OfGrpc(refuse) as server:
        client = connect(server.url, protocol="v2", retries=1)
        with pytest.raises(CallFailed, match="answered 503: busy"):
            client.infer("m", {"x": ROWS})
        assert server.calls == 2


def test_unavailable_that_may_be_a_broken_connection_is_not(connect):
    with OfGrpc(lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")) as server:
        client = connect(server.url, protocol="v2")
        with pytest.raises(ServerUnreachable, match="closed before an answer came: Socket closed") as caught:
            client.infer("m", {"x": ROWS})
        assert client.is_ready("m") is False
        assert server.calls == 2
    assert caught.value.status == 502
    assert str(caught.value).startswith(server.url)


def test_a_connection_of_grpc_that_ends_while_the_model_works(connect):
    asked = []

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test has ended
            with connection, contextlib.suppress(ConnectionError):
                connection.settimeout(30)
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2's SETTINGS, empty
                received = b""
                while b"a-model-that-breaks" not in received and (data := connection.recv(65536)):
                    received += data
                asked.append(received)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            client = connect(f"grpc://127.0.0.1:{listener.getsockname()[1]}", protocol="v2", timeout=30)
            with pytest.raises(ServerUnreachable, match="was closed before an answer came"):
                client.infer("a-model-that-breaks", {"x": ROWS})
            assert sum(b"a-model-that-breaks" in each for each in asked) == 1
            client.close()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def test_grpc_without_a_server(connect):
    with Scripted([]) as server:
        url = server.url.replace("http", "grpc")
    client = connect(url, protocol="v2", timeout=30)
    assert client.is_ready("m") is False
    with pytest.raises(ServerUnreachable) as caught:
        client.infer("m", {"x": ROWS})
    assert caught.value.reason == "cannot connect: Connection refused"
    assert str(caught.value).startswith(url)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.2:1: Custom verification "
            "check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            "TLS: the certificate is for another name",
        ),
        (
            "failed to connect to all addresses; last error: INTERNAL: ipv4:127.0.0.1:1: Failed parsing "
            "HTTP/2 (Trying to connect an http1.x server (HTTP status 400))",
            "cannot connect: the port speaks HTTP/1.1 and no gRPC",
        ),
        ("errors resolving h:1: [Domain name not found]", "cannot connect: the host's name is not known"),
        ("", "the connection was closed before an answer came: UNAVAILABLE"),
    ],
)
def test_what_grpc_says_of_connections_is_told_in_words(text, told):
    with OfGrpc(lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, text)) as server:
        with Client(server.url) as client, pytest.raises(ServerUnreachable) as caught:
            client.models()
        assert caught.value.reason.startswith(told)
        assert "127.0.0" not in caught.value.reason


def test_tasks_of_grpc_wait_while_there_are_as_many_as_allowed(runner):
    lock, under_way, seen = threading.Lock(), set(), []

    def work(context):
        with lock:
            under_way.add(context)
            seen.append(len(under_way))
        threading.Event().wait(0.05)  # the work
        with lock:
            under_way.discard(context)
        return b""

    async def run(url):
        async with AsyncClient(url, max_connections=2) as client:
            await asyncio.gather(*(client.models() for _ in range(8)))

    with OfGrpc(work) as server:
        runner.run(run(server.url))
    assert len(seen) == 8
    assert max(seen) <= 2
