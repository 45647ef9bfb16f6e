"""Answers that come piece by piece, as a client on a real socket sees them."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import time

import pytest
from harness import serving, wait_until
from wire import Bystander, connect, log_lines, peak_growth, read_answer, until_closed

NDJSON, TEXT, BYTES, SSE = (
    "application/x-ndjson",
    "text/plain; charset=utf-8",
    "application/octet-stream",
    "text/event-stream",
)
KINDS = ("asynchronous", "plain", "returned")


class Gates:
    """Where models wait for a file."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def new(self):
        """A name that no gate has had."""
        self.count += 1
        return f"gate-{self.count}"

    def open(self, name):
        (self.folder / name).touch()


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    return Gates(tmp_path_factory.mktemp("gates"))


@pytest.fixture(scope="module")
def start(programs, gates, tmp_path_factory):
    def started(*flags):
        folder = tmp_path_factory.mktemp("streaming")
        return serving(
            [programs / "streaming.py", *flags],
            folder / "log",
            env={"GATES": str(gates.folder), "PYTHONUNBUFFERED": "1"},
            port_flag="--on_tornado" not in flags,
        )

    return started


@pytest.fixture(scope="module")
def server(start):
    with start("--model_threads", "2") as running:
        yield running.wait_ready("echo")


class Stream:
    """A request, and its answer as it comes.

    Attributes:
        name: of the request, in its headers and in the log.
    """

    _number = itertools.count(1)

    def __init__(self, server, rows, model="asynchronous", *fields, verb="predict", version="1.1", v2=False):
        self.open(connect(server.port))
        self.name = f"stream-{next(self._number)}-"
        if not any(field.startswith("X-Request-ID: ") for field in fields):
            fields = (*fields, f"X-Request-ID: {self.name}")
        self.send(rows, model, *fields, verb=verb, version=version, v2=v2)

    def open(self, sock):
        self.sock, self.file = sock, sock.makefile("rb")

    def send(self, rows, model="asynchronous", *fields, verb="predict", version="1.1", v2=False):
        if v2:
            path = f"/v2/models/{model}/infer"
            inputs = [{"name": "x", "datatype": "BYTES", "shape": [len(rows)], "data": rows}]
            sent = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        else:
            path, sent = f"/v1/models/{model}:{verb}", {"instances": rows}
        body = json.dumps(sent).encode()
        lines = [f"POST {path} HTTP/{version}", "Host: h", *fields, f"Content-Length: {len(body)}", "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def head(self):
        """Status and fields, when they are there."""
        lines = list(iter(lambda: self.file.readline().rstrip(b"\r\n").decode("latin-1"), ""))
        fields = dict(line.split(": ", 1) for line in lines[1:])
        assert len(fields) == len(lines) - 1, lines
        self.fields = {name.lower(): value for name, value in fields.items()}
        return int(lines[0].split()[1]), self.fields

    def chunk(self):
        """The next one, when it is there; ``b""`` is the last, ``None`` an end without it."""
        size = self.file.readline()
        if not size:
            return None
        data = self.file.read(int(size, 16) + 2)
        assert data[-2:] == b"\r\n"
        return data[:-2]

    def chunks(self):
        """All until the last one, which must come."""
        found = list(iter(self.chunk, b""))
        assert None not in found
        return found

    def is_broken(self):
        """Whether the answer ends here, and not as a whole one."""
        return self.chunk() is None

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def lines_of(server, text):
    """Waits until the log has lines with a text, and returns them."""
    return wait_until(
        lambda: [line for line in log_lines(server, 0) if text in line], what=f"{text!r} in the log"
    )


def assert_counted(server, stream, status):
    """The access log has the stream, with this status."""
    assert f" {status} " in lines_of(server, f"ms {stream.name}")[0]


def requests_total(server, model, status):
    page = server.get("/metrics").body.decode()
    label = f'model="{model}",verb="predict",status="{status}"'
    found = re.search(rf"modelserver_requests_total{{{label}}} (\d+)", page)
    return int(found[1]) if found else 0


# -- what comes


def event(*lines):
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


WHOLE = [
    (["text", "other", "dict"], TEXT, ["a\nü".encode(), b"other", b'{"row":1}\n']),
    (
        ["dict", "list", "array", "text"],
        NDJSON,
        [b'{"row":1}\n', b"[1,2.5]\n", b"[0,1,2]\n", "a\nü".encode()],
    ),
    (["bytes", "no text"], BYTES, [b"raw\n", b"\xff\x00"]),
    (["empty", "empty", "other"], TEXT, [b"other"]),
    ([], TEXT, []),
]
EVENTS = [
    (["text", "dict", "bytes", "empty"], [event("a", "ü"), event('{"row":1}'), event("raw", ""), event("")]),
    ([], []),
]


@pytest.mark.parametrize("model", KINDS)
class TestWhatComes:
    @pytest.mark.parametrize(("rows", "content_type", "pieces"), WHOLE)
    def test_as_chunks(self, server, model, rows, content_type, pieces):
        with Stream(server, rows, model, "Accept: */*") as stream:
            status, fields = stream.head()
            assert (status, fields["content-type"]) == (200, content_type)
            assert fields["transfer-encoding"] == "chunked"
            assert fields["x-accel-buffering"] == "no"
            assert {"content-length", "cache-control", "connection"}.isdisjoint(fields)
            assert stream.chunks() == pieces

    @pytest.mark.parametrize(("rows", "events"), EVENTS)
    def test_as_events(self, server, model, rows, events):
        with Stream(server, rows, model, "Accept: application/json, TEXT/Event-Stream;q=0.9") as stream:
            status, fields = stream.head()
            assert (status, fields["content-type"], fields["cache-control"]) == (200, SSE, "no-cache")
            assert stream.chunks() == events

    def test_one_by_one(self, server, gates, model):
        if model == "returned":
            model = "rewritten"
        first, second = gates.new(), gates.new()
        rows = ["one", f"wait {first}", "two", f"wait {second}", "three"]
        shown = [b"<one>", b"<two>", b"<three>"] if model == "rewritten" else [b"one", b"two", b"three"]
        with Stream(server, rows, model) as stream:
            assert stream.head()[0] == 200
            assert stream.chunk() == shown[0]  # and the gate is closed
            gates.open(first)
            assert stream.chunk() == shown[1]
            gates.open(second)
            assert stream.chunks() == shown[2:]

    @pytest.mark.parametrize(
        ("row", "status", "text"),
        [
            ("invalid", 400, "row 3 is too long"),
            ("value", 500, "ValueError : in the middle"),
            ("exit", 500, "the model called SystemExit"),
            ("cancelled", 500, "CancelledError : "),
            ("unready", 503, "Model with name m is not ready."),
            ("none", 500, "TypeError : the model returned None, expected dict, list, str or bytes"),
            ("odd", 500, "TypeError : the model returned an object of type Odd, expected dict"),
        ],
    )
    def test_an_error_before_the_first_item_is_an_ordinary_answer(self, server, model, row, status, text):
        answer = server.predict({"instances": [row]}, model, headers={"Accept": SSE})
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
        assert answer.json()["error"].startswith(text)
        assert server.process.poll() is None

    @pytest.mark.parametrize("row", ["invalid", "value", "exit", "cancelled", "odd"])
    def test_an_error_behind_it_breaks_the_answer_off(self, server, model, row):
        before = requests_total(server, model, 500)
        with Stream(server, ["one", row, "two"], model) as stream:
            assert stream.head()[0] == 200
            assert stream.chunk() == b"one"
            assert stream.is_broken()
        assert requests_total(server, model, 500) == before + 1
        assert_counted(server, stream, 500)
        lines_of(server, f"predict of model {model} failed [{stream.name}]")
        assert server.predict({"instances": ["one"]}, model).body == b"one"

    @pytest.mark.parametrize(
        ("row", "text"),
        [
            ("value", "ValueError : in the middle"),
            ("no text", "TypeError : the model gave 2 bytes that are no UTF-8 text"),
        ],
    )
    def test_an_error_behind_it_is_an_event(self, server, model, row, text):
        with Stream(server, ["one", row], model, f"Accept: {SSE}") as stream:
            stream.head()
            assert stream.chunk() == event("one")
            kind, data, *rest = stream.chunk().decode().split("\n")
            assert (kind, rest) == ("event: error", ["", ""])
            assert json.loads(data.removeprefix("data: "))["error"].startswith(text)
            assert stream.is_broken()

    def test_the_next_request_on_the_connection(self, server, model):
        with Stream(server, ["one", "two"], model) as stream:
            stream.send(["three"], model)  # pipelined
            answers = []
            for _ in range(2):
                stream.head()
                answers.append(stream.chunks())
            stream.send(["four"], "echo")
            assert read_answer(stream.sock).body == b'{"predictions":["four"]}'
        assert answers == [[b"one", b"two"], [b"three"]]

    def test_http_1_0(self, server, model):
        with Stream(server, ["one", "two"], model, "Connection: keep-alive", version="1.0") as stream:
            head, _, body = until_closed(stream.sock).partition(b"\r\n\r\n")
        assert body == b"onetwo"
        assert b"chunked" not in head
        assert b"Connection: close" in head

    def test_http_1_0_that_fails_is_reset(self, server, model):
        with Stream(server, ["one", "value"], model, version="1.0") as stream:
            stream.head()
            with pytest.raises(ConnectionResetError):
                stream.file.read()

    def test_no_gzip(self, server, model):
        with Stream(server, ["long"], model, "Accept-Encoding: gzip") as stream:
            _, fields = stream.head()
            assert "content-encoding" not in fields
            assert b"".join(stream.chunks()) == b"x" * 100_000


class TestV2:
    """``/v2/models/NAME/infer``: an item is an answer of its own."""

    @pytest.mark.parametrize("model", KINDS)
    def test_one_by_one(self, server, gates, model):
        gate = gates.new()
        rows = ["one", "dict"] if model == "returned" else ["one", f"wait {gate}", "dict"]
        with Stream(server, rows, model, v2=True) as stream:
            status, fields = stream.head()
            assert (status, fields["content-type"]) == (200, TEXT)
            assert stream.chunk() == b"one"
            gates.open(gate)
            assert stream.chunks() == [b'{"row":1}\n']

    def test_tensors_are_json(self, server):
        fields = (f"Accept: {SSE}", "X-Request-ID: mine")
        with Stream(server, ["tensors", "array", "predictions"], "plain", *fields, v2=True) as stream:
            stream.head()
            answers = [json.loads(each.decode().removeprefix("data: ")) for each in stream.chunks()]
        assert [answer["outputs"][0]["data"] for answer in answers] == [[0, 1], [0, 1, 2], [1, 2]]
        assert [answer["model_name"] for answer in answers] == ["named", "plain", "plain"]
        assert [answer["id"] for answer in answers] == ["7", "mine", "mine"]

    def test_tensors_in_v1(self, server):
        answer = server.predict({"instances": ["tensors"]}, "plain")
        assert answer.headers["Content-Type"] == NDJSON
        assert answer.json()["outputs"][0]["data"] == [0, 1]

    def test_an_error_first(self, server):
        with Stream(server, ["invalid"], v2=True) as stream:
            answer = read_answer(stream.sock)
        assert (answer.status, answer.error()) == (400, "row 3 is too long")


class TestHeaders:
    def test_are_read_when_the_first_item_is_there(self, server):
        with Stream(server, ["one", "two"], "headed", "X-Request-ID: mine") as stream:
            _, fields = stream.head()
            assert (fields["x-item"], fields["x-request-id"]) == ("one", "mine")
            assert fields["transfer-encoding"] == "chunked"
            assert "content-length" not in fields
            assert stream.chunks() == [b"one", b"two"]

    @pytest.mark.parametrize("content_type", ["text/csv", "text/event-stream"])
    def test_a_type_of_the_models_own_is_its_own_business(self, server, content_type):
        with Stream(server, ["one"], "headed", f"Accept: {SSE}", f"X-Type: {content_type}") as stream:
            _, fields = stream.head()
            assert fields["content-type"] == content_type
            assert stream.chunks() == [b"one"]

    def test_one_that_cannot_be_sent(self, server):
        answer = server.predict({"instances": []}, "broken")
        assert answer.status == 500
        assert "the response header 'x-item' cannot be sent" in answer.json()["error"]


class TestIterators:
    def test_any_iterator_and_any_verb(self, server):
        with Stream(server, ["one", "dict"], "plain", verb="explain") as stream:
            stream.head()
            assert stream.chunks() == [b"one", b'{"row":1}\n']

    def test_generators_are_not_joined(self, server):
        streams = [Stream(server, [f"row {n}"], "joining") for n in range(8)]
        for number, stream in enumerate(streams):
            with stream:
                assert read_answer(stream.sock).body == f"row {number}".encode()

    def test_an_iterator_of_a_call_for_several_is_an_error(self, server):
        answer = server.predict({"instances": ["one"]}, "shared")
        assert answer.status == 500
        assert answer.json()["error"].startswith(
            "predict returned an iterator for a call that several requests"
        )

    def test_health_beside_one_that_never_waits(self, server):
        with Stream(server, [], "restless") as stream:
            stream.head()
            assert server.get("/v1/models/echo").status == 200
            assert server.predict({"instances": ["one"]}, "echo").status == 200


# -- the client


class TestTheClientLeaves:
    def test_while_an_item_is_awaited(self, server, gates):
        rows = ["one", f"wait {gates.new()}"]
        with Stream(server, rows) as stream:
            stream.head()
            assert stream.chunk() == b"one"
        lines_of(server, f"tidied asynchronous {rows}")  # and nobody has opened the gate
        assert_counted(server, stream, 499)

    def test_before_the_first_item(self, server, gates):
        gate = gates.new()
        rows = [f"wait {gate}", "value"]
        with Stream(server, rows, "plain") as stream:
            lines_of(server, f"plain is at wait {gate}")
        assert_counted(server, stream, 499)
        gates.open(gate)
        lines_of(server, f"closed plain {rows} in model-plain-")
        assert not [line for line in log_lines(server, 0) if stream.name in line and "failed" in line]

    def test_while_a_step_runs_on_a_thread(self, server, gates):
        gate = gates.new()
        rows = ["one", f"wait {gate}", "two"]
        with Stream(server, rows, "plain") as stream:
            stream.head()
            assert stream.chunk() == b"one"
            lines_of(server, f"plain is at wait {gate}")
        assert_counted(server, stream, 499)
        assert server.predict({"instances": ["one"]}, "plain").body == b"one"  # on the second thread
        gates.open(gate)
        lines_of(server, f"closed plain {rows} in model-plain-")

    def test_while_it_is_written_to(self, server):
        with Stream(server, ["leaves"], "restless") as stream:
            stream.head()
        lines_of(server, "closed restless ['leaves']")
        assert_counted(server, stream, 499)

    @pytest.mark.parametrize("rows", [[], ["waits"]])
    def test_a_stream_that_fails_to_close_is_told(self, server, rows):
        with Stream(server, rows, "untidy") as stream:
            stream.head()
            assert stream.chunk() == b"first"
        (line,) = lines_of(server, f"closing its stream, failed [{stream.name}]")
        assert line.endswith("ValueError : cannot tidy up")


def slow_reader(server):
    """A connection for whose answers the client's system has little room."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", server.port))
    stream = Stream.__new__(Stream)
    stream.open(sock)
    return stream


def test_a_slow_reader_is_not_given_more_than_it_takes(server):
    count = 48
    with peak_growth(server) as growth, Bystander(server.port) as other, slow_reader(server) as stream:
        stream.send([count], "large")
        stream.head()

        def given():
            return server.request("POST", "/v1/models/large:explain", b"{}").json()["given"]

        seen = [wait_until(given)]
        while len(seen) < 20 or seen[-1] != seen[-20]:  # it has stopped
            seen.append(given())
        assert seen[-1] < count / 2  # the system's own buffers hold some
        assert sum(map(len, stream.chunks())) == count * 2**20
    assert given() == count
    assert growth[0] < 16 * 2**20
    other.assert_unharmed()


# -- the server


@pytest.fixture(scope="module")
def hasty(start):
    with start("--timeout", "1.5", "--max_queue_size", "2", "--enable_cors") as running:
        yield running.wait_ready("echo")


class TestTime:
    @pytest.mark.parametrize("model", ["asynchronous", "plain"])
    def test_to_the_first_item(self, hasty, gates, model):
        gate = gates.new()
        answer = hasty.predict({"instances": [f"wait {gate}"]}, model)
        gates.open(gate)
        assert answer.status == 504
        assert answer.json() == {"error": f"Model {model} did not answer within 1.5 s (--timeout)."}

    @pytest.mark.parametrize("model", ["asynchronous", "plain"])
    def test_between_two_items(self, hasty, gates, model):
        gate = gates.new()
        rows = ["one", f"wait {gate}", "two"]
        with Stream(hasty, rows, model, f"Accept: {SSE}") as stream:
            stream.head()
            assert stream.chunk() == event("one")
            assert b"did not answer within 1.5 s" in stream.chunk()
            assert stream.is_broken()
        gates.open(gate)
        lines_of(hasty, f"closed {model} {rows}")
        assert_counted(hasty, stream, 500)

    def test_a_model_that_goes_on_is_asked_for_nothing_more(self, hasty, gates):
        gate = gates.new()
        with Stream(hasty, [gate], "stubborn") as stream:
            assert read_answer(stream.sock).status == 504
            lines_of(hasty, f"{gate} was told")
            gates.open(gate)
            lines_of(hasty, f"{gate} was closed")
            stream.send(["next"], "echo")
            assert read_answer(stream.sock).body == b'{"predictions":["next"]}'
        assert f"{gate} was asked for more" not in hasty.text()

    def test_is_not_the_clients(self, hasty):
        with slow_reader(hasty) as stream:
            stream.send([24], "large")
            stream.head()
            due = time.monotonic() + 2.0  # and more than `--timeout`
            wait_until(lambda: time.monotonic() > due)
            assert sum(map(len, stream.chunks())) == 24 * 2**20

    def test_is_not_that_of_all_items(self, hasty, gates):
        names = [gates.new() for _ in range(5)]
        with Stream(hasty, ["one", *(row for name in names for row in (f"wait {name}", name))]) as stream:
            stream.head()
            assert stream.chunk() == b"one"
            started = time.monotonic()
            for number, name in enumerate(names, 1):
                wait_until(lambda due=started + 0.4 * number: time.monotonic() > due)
                gates.open(name)
                assert stream.chunk() == name.encode()
            assert stream.chunk() == b""
        assert time.monotonic() - started > 1.5

    def test_a_stream_waits_in_the_queue_until_its_end(self, hasty):
        with Stream(hasty, [], "restless") as one, Stream(hasty, [], "restless") as two:
            one.head(), two.head()
            answer = hasty.predict({"instances": []}, "restless")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        wait_until(lambda: "restless" not in in_queue(hasty), what="an empty queue")

    def test_cors_fields(self, hasty):
        with Stream(hasty, ["one"], "asynchronous", "Origin: http://a") as stream:
            _, fields = stream.head()
            assert fields["access-control-allow-origin"] == "*"


def in_queue(server):
    """The models that requests wait for."""
    page = server.get("/metrics").body.decode()
    return re.findall(r'modelserver_queue_length{model="([^"]+)"} [1-9]', page)


class TestTheEnd:
    @pytest.mark.parametrize("model", ["asynchronous", "plain"])
    def test_what_has_begun_is_finished(self, start, gates, model):
        gate = gates.new()
        with start("--workers", "2") as running:
            running.wait_ready("echo")
            streams = [Stream(running, ["one", f"wait {gate}", "two"], model) for _ in range(2)]
            for stream in streams:
                stream.head()
                assert stream.chunk() == b"one"
            running.process.send_signal(signal.SIGTERM)
            lines_of(running, "requests in flight")
            gates.open(gate)
            for stream in streams:
                with stream:
                    assert stream.chunks() == [b"two"]
            assert running.process.wait(60) == 0

    def test_what_does_not_end_is_ended_visibly(self, start, gates):
        with start("--grace_period", "0.5") as running:
            running.wait_ready("echo")
            rows = ["one", f"wait {gates.new()}"]
            chunked, unframed = Stream(running, rows), Stream(running, rows, version="1.0")
            for stream in (chunked, unframed):
                stream.head()
            assert chunked.chunk() == b"one"
            assert unframed.file.read(3) == b"one"
            running.process.send_signal(signal.SIGTERM)
            with chunked:
                assert chunked.is_broken()
            with unframed, pytest.raises(ConnectionResetError):
                unframed.file.read()
            assert running.process.wait(60) == 1
            assert running.text().count(f"tidied asynchronous {rows}") == 2
            assert "Traceback" not in running.text()


@pytest.fixture(scope="module")
def tornado_server(start):
    with start("--on_tornado") as running:
        yield running.wait_ready("echo")
        running.process.kill()


class TestOnTornado:
    """The application on tornado's own server."""

    @pytest.fixture
    def server(self, tornado_server):
        return tornado_server

    def test_one_by_one(self, server, gates):
        gate = gates.new()
        with Stream(server, ["one", f"wait {gate}", "two"], "asynchronous", f"Accept: {SSE}") as stream:
            _, fields = stream.head()
            assert (fields["content-type"], fields["transfer-encoding"]) == (SSE, "chunked")
            assert stream.chunk() == event("one")
            gates.open(gate)
            assert stream.chunks() == [event("two")]
            stream.send(["three"])
            assert read_answer(stream.sock).body == b"three"

    @pytest.mark.parametrize("fields", [(), (f"Accept: {SSE}",)])
    def test_an_error_in_the_middle(self, server, fields):
        with Stream(server, ["one", "value"], "asynchronous", *fields) as stream:
            stream.head()
            assert b"one" in stream.chunk()
            if fields:
                assert stream.chunk().startswith(b"event: error\n")
            assert stream.is_broken()
        assert server.predict({"instances": ["value"]}, "asynchronous").status == 500

    def test_the_client_leaves(self, server, gates):
        for rows in (["one", f"wait {gates.new()}"], ["one", *["long"] * 100]):
            with Stream(server, rows) as stream:
                stream.head()
                assert stream.chunk() == b"one"
            lines_of(server, f"tidied asynchronous {rows}")

    def test_http_1_0(self, server):
        with Stream(server, ["one", "two"], version="1.0") as stream:
            assert until_closed(stream.sock).endswith(b"\r\n\r\nonetwo")
