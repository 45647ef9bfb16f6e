"""Logs: a pipe that nobody reads, floods, hostile text, JSON, probes; and the names of requests."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from harness import LISTENING, environment, request, serving, wait_until
from wire import talk

PROGRAM = Path(__file__).parents[1] / "e2e" / "programs" / "failing.py"
LONG = "x" * 1000
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (INFO|WARNING|ERROR) modelserver\.[a-z]+: "


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving([PROGRAM], tmp_path_factory.mktemp("failing") / "log") as server:
        yield server.wait_ready("threaded")


@pytest.fixture(scope="module")
def json_server(tmp_path_factory):
    flags = ["--log_format", "json", "--workers", "2", "--access_log_probes", "true"]
    with serving([PROGRAM, *flags], tmp_path_factory.mktemp("json") / "log") as server:
        yield server.wait_ready("threaded")


def predict(client, model="threaded", instances=("echo",), target="", **headers):
    """Ask on a connection that is kept."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request("POST", f"/v1/models/{model}:predict{target}", json.dumps({"instances": instances}), sent)
    response = client.getresponse()
    return response, response.read()


@contextlib.contextmanager
def client_of(port):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        yield client
    finally:
        client.close()


def lines_with(server, text):
    """The log's lines with a text, as soon as there are any."""
    return wait_until(lambda: [line for line in server.text().splitlines() if text in line], what=text)


# -- a pipe that nobody reads


class Piped:
    """A server whose standard error is a small pipe that is read when the test wants it."""

    def __init__(self, *flags):
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self.reader = reader
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "--http_port", "0", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writer,
            env=environment(),
        )
        os.close(writer)
        self.seen = b""
        self.read_until(lambda: LISTENING.search(self.seen))
        self.port = int(LISTENING.search(self.seen)[1])

    def read_until(self, condition):
        while not condition():
            piece = os.read(self.reader, 65536)
            assert piece, self.seen
            self.seen += piece

    def wait_ready(self):
        """Read on meanwhile: nothing of the start shall be in the way."""
        with self.reading():
            wait_until(lambda: request(self.port, "GET", "/v1/models/threaded").status == 200, 120)

    @contextlib.contextmanager
    def reading(self):
        over = threading.Event()
        os.set_blocking(self.reader, False)

        def read():
            while not over.wait(0.005):
                with contextlib.suppress(BlockingIOError):
                    self.seen += os.read(self.reader, 65536)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            os.set_blocking(self.reader, True)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.reader)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def piped():
    """``piped(*flags)`` starts a server; it is ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*flags):
            server = Piped(*flags)
            stack.callback(server.end)
            server.wait_ready()
            return server

        yield start


# row 57
def test_a_full_pipe_stops_nothing_and_when_it_moves_the_gap_is_told(piped):
    server = piped()
    count = 1500  # of more than 1 kB each: more than is kept
    slowest = 0.0
    with client_of(server.port) as client:
        for number in range(count):
            started = time.monotonic()
            response, _ = predict(client, target=f"?{LONG}", X_Request_ID=f"n-{number}")
            assert response.status == 200
            slowest = max(slowest, time.monotonic() - started)
        for _ in range(50):
            assert predict(client, instances=["value", "text"])[0].status == 500
        assert request(server.port, "GET", "/").status == 200
    assert slowest < 10  # a loop that waits for the pipe would wait for ever
    with server.reading():
        wait_until(lambda: b"log lines were lost" in server.seen)
        with client_of(server.port) as client:
            assert predict(client, X_Request_ID="behind-the-gap")[0].status == 200
        wait_until(lambda: b" behind-the-gap\n" in server.seen)
    text = server.seen.decode()
    lost = sum(map(int, re.findall(r"(\d+) log lines were lost: nobody read them in time", text)))
    kept = [int(number) for number in re.findall(r" n-(\d+)$", text, re.M)]
    assert kept == sorted(set(kept))  # access lines come, and are lost, several at once
    assert 0 < len(kept) < count
    assert lost >= count - len(kept)
    with server.reading():
        assert server.stop() == 0
        wait_until(lambda: b"Stopping" in server.seen)


# row 57
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("reader", ["stopped", "gone"])
def test_a_server_that_nobody_listens_to_serves_and_stops(piped, reader, workers):
    server = piped("--workers", workers)
    if reader == "gone":
        os.close(server.reader)
    for _ in range(4):
        with client_of(server.port) as client:
            for _ in range(100):
                assert predict(client, target=f"?{LONG}")[0].status == 200
                assert predict(client, instances=["value", LONG])[0].status == 500
    assert talk(server.port, b"garbage\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert request(server.port, "GET", "/").status == 200
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 30


# row 57
def test_a_server_without_standard_streams_serves_and_no_client_gets_what_is_printed(tmp_path):
    with socket.socket() as taken:  # nobody can be told a free port: there is no log
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    script = tmp_path / "closed.py"
    script.write_text(
        "import os, modelserver\n"
        "class Prints(modelserver.Model):\n"
        "    def predict(self, payload):\n"
        "        for number in (1, 2):\n"
        "            os.write(number, b'printed by a library')\n"
        "        return {'predictions': []}\n"
        "modelserver.ModelServer().start([Prints('threaded')])\n"
    )
    command = f'exec "$0" "$1" --http_port {port} --host 127.0.0.1 <&- >&- 2>&-'
    process = subprocess.Popen(["/bin/sh", "-c", command, sys.executable, script], env=environment())
    try:

        def is_ready():
            with contextlib.suppress(ConnectionError):
                return request(port, "GET", "/v1/models/threaded").status == 200

        wait_until(is_ready, 120)
        for number in (0, 1, 2):  # else the next socket gets it, or the loop's own descriptor
            assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path("/dev/null")
        for _ in range(20):
            with client_of(port) as client:
                response, body = predict(client)
                assert (response.status, body) == (200, b'{"predictions":[]}')
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# -- floods


# row 57
def test_a_flood_of_bad_requests_or_of_failures_is_a_few_lines_and_a_count(tmp_path):
    clients, each, failures = 4, 12_500, 500
    with serving([PROGRAM], tmp_path / "log") as server:
        server.wait_ready("threaded")
        with client_of(server.port) as client:
            for number in range(failures):
                response, _ = predict(client, "hooks", ["timeout", ""], X_Request_ID=f"flood-{number}")
                assert response.status == 500
            # One that is rarer is not lost among them.
            assert predict(client, "hooks", ["recursion"], X_Request_ID="rare-1")[0].status == 500
        started = time.monotonic()
        flood(server.port, clients, each)
        periods = (time.monotonic() - started) // 10 + 2
        assert server.predict({"instances": ["echo"]}, "threaded").status == 200

        refused = wait_until(lambda: told_of(server, REFUSED, MORE_REFUSED, clients * each))
        assert 10 <= refused <= 10 * periods
        assert (
            len(lines_with(server, ": 400, the bytes received are not an HTTP/1.1 request")) <= 11 * periods
        )
        assert wait_until(lambda: told_of(server, FAILED, MORE_FAILED, failures)) <= 20
        assert lines_with(server, "predict of model hooks failed [rare-1]: RecursionError")
        named = re.findall(r" 500 \d+\.\d\dms flood-\d+$", server.text(), re.M)
        assert len(named) == failures  # each is in the access log


REFUSED, MORE_REFUSED = "Refused a request from", r"Refused (\d+) more requests in the last 10 s"
FAILED = r"predict of model hooks failed \[flood-"
MORE_FAILED = r"(\d+) more failures in the last 10 s: predict of model hooks: TimeoutError"


def flood(port, clients, each):
    """Send bytes that are no request, on connections of their own."""
    failures = []

    def ask():
        try:
            for _ in range(each):
                with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                    sock.sendall(b"\x16\x03\x01 forged\r\n\r\n")
                    assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def told_of(server, one, more, count):
    """How many events have a line of their own, once all of them are in the log, in a line or in a count."""
    text = server.text()
    alone = len(re.findall(one, text))
    return alone if alone + sum(map(int, re.findall(more, text))) == count else 0


# -- hostile text


FORGED = "x\r\n2026-01-01 00:00:00,000 1 INFO modelserver.server: forged \x1b[31m\x00 ä\u202e"


def only_lines_of_ours(text):
    """The log's lines, which are all printable ASCII and begin as ours do."""
    lines = text.splitlines()
    bad = [line for line in lines if not (line.isascii() and line.isprintable())]
    assert bad == []
    assert [line for line in lines if not (line.startswith("  ") or re.match(STAMP, line))] == []
    return lines


# row 57
def test_no_text_of_a_client_or_a_model_forges_a_line(server):
    body = json.dumps({"instances": ["value", FORGED]})
    for model in ("threaded", "in-place", "async"):
        response = server.request(
            "POST", f"/v1/models/{model}:predict", body, headers={"X-Request-ID": "f-1"}
        )
        assert response.status == 500
    talk(server.port, b'GET /"\\%0d%0a2026 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
    talk(server.port, b"GET /\x1b[31m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    lines_with(server, r'GET /"\\%0d%0a2026 404')
    lines = only_lines_of_ours(server.text())
    assert [line for line in lines if line.startswith("2026-01-01 00:00:00")] == []


# row 57
def test_every_line_is_json_from_the_first_to_the_last(tmp_path):
    arguments = [PROGRAM, "--log_format", "json", "--workers", "2", "--access_log_probes", "true"]
    with serving(arguments, tmp_path / "log") as server:
        server.wait_ready("threaded")
        body = json.dumps({"instances": ["value", FORGED]})
        for _ in range(4):
            sent = {"X-Request-ID": 'quo"ted\\'}
            assert server.request("POST", "/v1/models/async:predict", body, headers=sent).status == 500
        talk(server.port, b'GET /"\\{ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
        talk(server.port, b"garbage\r\n\r\n")
        wait_until(lambda: server.text().count('"logger":"modelserver.access"') >= 5)  # not written at once
        os.kill(server.workers()[0], signal.SIGKILL)
        lines_with(server, "died: signal 9")
        assert server.stop() == 0
    records = [orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    common = {"time", "level", "logger", "pid"}
    assert all(common <= record.keys() for record in records)
    by_logger = collections.defaultdict(list)
    for record in records:
        by_logger[record["logger"].rpartition(".")[2]].append(record)
    access = {"remote", "method", "path", "status", "seconds", "request_id"}
    assert all(access <= record.keys() for record in by_logger["access"])
    failed = [record for record in by_logger["access"] if record["status"] == 500]
    assert {(r["request_id"], r["model"], r["path"]) for r in failed} == {
        ('quo"ted\\', "async", "/v1/models/async:predict")
    }
    assert any(record["path"] == '/"\\{' for record in by_logger["access"])
    assert {record["request_id"] for record in by_logger["model"]} == {'quo"ted\\'}
    assert "forged" in by_logger["model"][0]["exception"]
    messages = [record["message"] for record in by_logger["server"]]
    assert any(message.startswith("Refused a request") for message in messages)
    assert any("died: signal 9" in message for message in messages)
    assert any(message.startswith("Stopping") for message in messages)


def test_a_format_that_does_not_exist_is_refused_at_the_start(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, "--log_format", "xml"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    assert "--log_format is 'xml' and must be one of: text, json." in done.stderr


# -- the names of requests


def cases():
    good = b'{"instances":["echo"]}'
    bad = b'{"instances":["value"]}'
    return {
        "predict": ("POST", "/v1/models/threaded:predict", good, 200),
        "in place": ("POST", "/v1/models/in-place:predict", good, 200),
        "a failure": ("POST", "/v1/models/threaded:predict", bad, 500),
        "no JSON": ("POST", "/v1/models/threaded:predict", b"{", 400),
        "no such model": ("POST", "/v1/models/nobody:predict", good, 404),
        "not ready": ("POST", "/v1/models/unready:predict", good, 503),
        "a page": ("GET", "/v1/models", None, 200),
        "a probe": ("GET", "/", None, 200),
        "no such page": ("GET", "/nothing", None, 404),
        "another method": ("GET", "/v1/models/threaded:predict", None, 405),
        "too large": ("POST", "/v1/models/threaded:predict", b"x" * (10 * 2**20 + 1), 413),
        "large": (
            "POST",
            "/v1/models/threaded:predict",
            b'{"instances":["echo","' + b"x" * 200_000 + b'"]}',
            200,
        ),
        "as gzip": ("POST", "/v1/models/threaded:predict", b'{"instances":["big","100000"]}', 200),
    }


@pytest.mark.parametrize("name", cases())
def test_every_answer_has_a_name_and_the_log_has_it_too(json_server, name):
    method, path, body, status = cases()[name]
    own = f"own-{name.replace(' ', '-')}!"
    coded = {"Accept-Encoding": "gzip"} if name == "as gzip" else {}
    given = request(json_server.port, method, path, body, {"X-Request-ID": own, **coded})
    assert (given.status, given.headers.get_all("X-Request-ID")) == (status, [own])
    made = [request(json_server.port, method, path, body, coded).headers["X-Request-ID"] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9]+", each) for each in made)
    for each in (own, *made):
        lines = lines_with(json_server, f'"request_id":"{each}"')
        wait_until(lambda each=each: access_line(json_server, each)["status"] == status)
        if status == 500:
            (failure,) = [json.loads(line) for line in lines if "modelserver.model" in line] or [None]
            if failure is not None:  # of many alike some are only counted
                assert f"failed [{each}]: ValueError : " in failure["message"]
    assert "X-Error-ID" not in given.headers


def access_line(server, request_id):
    lines = [line for line in server.text().splitlines() if f'"request_id":"{request_id}"' in line]
    (line,) = [json.loads(line) for line in lines if '"modelserver.access"' in line] or [{"status": None}]
    return line


def test_a_failure_is_logged_under_the_name_that_its_client_gave_it(server):
    sent = {"X-Request-ID": "mine-500"}
    response = server.predict({"instances": ["assertion", "no"]}, "async", headers=sent)
    assert (response.status, response.headers["X-Request-ID"]) == (500, "mine-500")
    lines_with(
        server, "ERROR modelserver.model: predict of model async failed [mine-500]: AssertionError : no"
    )


@pytest.mark.parametrize(
    "name",
    ["", "a b", "ä", "x" * 129, "tab\there", "\x7f"],
    ids=["empty", "blank", "latin", "long", "tab", "DEL"],
)
def test_a_name_that_cannot_be_passed_on_is_replaced(server, name):
    answer = talk(
        server.port,
        b"GET /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Request-ID: "
        + name.encode("latin-1")
        + b"\r\n\r\n",
    )
    if answer.startswith(b"HTTP/1.1 400 "):
        assert name == "\x7f"  # no text of HTTP's
        return
    (sent,) = re.findall(rb"(?i)X-Request-ID: (.*)\r\n", answer)
    assert re.fullmatch(rb"[0-9a-f]{12}-[0-9]+", sent)


def test_the_longest_name_is_taken(server):
    name = "".join(map(chr, range(0x21, 0x7F))) + "x" * 34
    response = server.predict({"instances": ["echo"]}, "threaded", headers={"X-Request-ID": name})
    assert response.headers["X-Request-ID"] == name


def test_a_model_sees_the_name_and_may_answer_with_another(server):
    own = server.predict({"instances": []}, "named", headers={"X-Request-ID": "mine-7"})
    assert own.json() == {"predictions": ["mine-7"]}
    for _ in range(2):  # the second time by the short way
        made = server.predict({"instances": []}, "named")
        assert made.json() == {"predictions": [made.headers["X-Request-ID"]]}
    assert server.predict({"instances": []}, "renamed").headers.get_all("X-Request-ID") == ["from-the-model"]


def test_names_repeat_neither_over_workers_nor_over_restarts(json_server, tmp_path):
    def names(server):
        return [server.get("/v1/models").headers["X-Request-ID"] for _ in range(40)]

    seen = names(json_server)
    with serving([PROGRAM, "--workers", "2"], tmp_path / "log") as other:
        seen += names(other.wait_ready("threaded"))
        os.kill(other.workers()[0], signal.SIGKILL)
        wait_until(lambda: other.text().count("is ready") == 3)
        seen += names(other)
    assert len(set(seen)) == len(seen)
    assert len({name.partition("-")[0] for name in seen}) >= 3


# -- probes


PROBES = ("/", "/v1/models/threaded")


def test_probes_that_are_answered_well_write_no_line(server):
    for path in (*PROBES, "/v1/models/threaded?from=kubelet") * 3:
        assert server.get(path).status == 200
    for _ in range(3):
        assert server.get("/v1/models/unready").status == 503
    assert server.get("/v1/models", headers={"X-Request-ID": "after-the-probes"}).status == 200
    lines_with(server, "after-the-probes")
    lines = [line for line in server.text().splitlines() if "modelserver.access" in line]
    assert [line for line in lines if re.search(r"GET (/|/v1/models/threaded(\?\S+)?) 200 ", line)] == []
    assert 1 <= sum("GET /v1/models/unready 503 " in line for line in lines) <= 2


def test_probes_can_be_asked_for(json_server):
    for path in PROBES:
        assert json_server.get(path, headers={"X-Request-ID": f"probe{path}"}).status == 200
        lines_with(json_server, f'"path":"{path}","status":200')
