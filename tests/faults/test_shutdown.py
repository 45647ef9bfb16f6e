"""Stopping and restarting a server that is in use (rows 11-13 of the matrix)."""

import concurrent.futures
import http.client
import json
import signal
import socket
import time
from pathlib import Path

import pytest
from clients import Clients
from harness import request, serving, wait_until

GOOD = {"instances": ["good"]}


def begun(server, action="sleep"):
    noted = server.log.parent / "calls"
    return noted.read_text().split().count(action) if noted.exists() else 0


def is_closed(connection):
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def ready(server, workers):
    server.wait_ready("model", "on_loop")
    if workers > 1:
        wait_until(lambda: server.text().count("is ready") >= workers, what="all workers ready")
    return server


# row 11
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_what_is_in_flight_and_closes_what_is_idle(faulty, workers):
    with (
        faulty("--workers", str(workers)) as server,
        concurrent.futures.ThreadPoolExecutor(33) as pool,
    ):
        ready(server, workers)
        idle = []
        for _ in range(8):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().read()
            idle.append(connection.sock)
        busy = [
            pool.submit(
                server.predict, {"instances": ["sleep", 3]}, "on_loop", headers={"Connection": "keep-alive"}
            )
            for _ in range(32)
        ]
        wait_until(lambda: begun(server) == 32)
        children = server.workers()
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping" in server.text())
        assert server.get("/v1/models/model").status == 503
        for connection in idle:
            wait_until(lambda connection=connection: is_closed(connection))
            connection.close()
        for call in busy:
            assert call.result().status == 200
            assert call.result().headers["Connection"] == "close"
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 20
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


# row 12
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_with_1_and_leaves_no_orphan(faulty, workers, second):
    with faulty("--workers", str(workers)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        ready(server, workers)
        call = pool.submit(server.predict, {"instances": ["sleep", 60]}, timeout_s=90)
        wait_until(lambda: begun(server))
        children = server.workers()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping" in server.text())
        started = time.monotonic()
        assert server.stop(second) == 1
        assert time.monotonic() - started < 10
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        assert call.exception() is not None


class Traffic(Clients):
    """Each answer must be right, and nobody may be turned away."""

    def __init__(self, server, count):
        super().__init__(server, count)
        self.pids = set()

    def ask(self, number):
        """On one connection as long as the server keeps it, or on a new one for each request."""
        keeps = number % 2 == 0
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while not self.stop.is_set():
            try:
                connection.request("POST", "/v1/models/model:predict", json.dumps(GOOD))
                response = connection.getresponse()
                body = response.read()
            except (ConnectionError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                connection.close()
                continue
            if response.status == 200 and json.loads(body)["predictions"] == ["good"]:
                self.right += 1
                self.pids.add(json.loads(body)["pid"])
            else:
                self.wrong.append((response.status, body))
            if not keeps:
                connection.close()
        connection.close()


# row 12: SIGHUP
@pytest.mark.parametrize("workers", [1, 2])
def test_a_rolling_restart_loses_nothing(faulty, workers):
    with faulty("--supervise", "true", "--workers", str(workers)) as server:
        before = set(ready(server, workers).workers())
        with Traffic(server, 6) as traffic:
            wait_until(lambda: traffic.right > 200)
            server.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: len(server.workers()) == workers and not before & set(server.workers()),
                60,
                "every worker replaced",
            )
            after = set(server.workers())
            wait_until(lambda: traffic.pids >= after, what="answers of all new workers")
        assert traffic.wrong == []
        assert server.process.poll() is None


def test_a_rolling_restart_runs_the_program_again_as_it_is_now(tmp_path):
    program = tmp_path / "program.py"
    text = (
        "import modelserver\n"
        "class Versioned(modelserver.Model):\n"
        "    def predict(self, payload): return {'predictions': [VERSION]}\n"
        "model = Versioned('model'); model.load()\n"
        "modelserver.ModelServer(workers=2).start([model])\n"
    )
    program.write_text("VERSION = 1\n" + text)
    with serving([program], tmp_path / "log") as server:
        ready_at_first = lambda count: server.text().count("is ready") >= count  # noqa: E731
        wait_until(lambda: ready_at_first(2))
        assert server.predict(GOOD).json() == {"predictions": [1]}
        program.write_text("raise SystemExit('a mistake')\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the workers before it go on" in server.text())
        assert server.predict(GOOD).json() == {"predictions": [1]}
        program.write_text("VERSION = 2\n" + text)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ready_at_first(4))
        wait_until(
            lambda: {json.dumps(server.predict(GOOD).json()) for _ in range(4)} == {'{"predictions": [2]}'}
        )
        wait_until(lambda: len(server.workers()) == 2)


# row 13
@pytest.mark.parametrize("flags", [("--workers", "1"), ("--workers", "2"), ("--supervise", "true")])
def test_sigterm_while_loading(programs, tmp_path, flags):
    with serving([programs / "lifecycle.py", *flags], tmp_path / "log", env={"LOAD": "slow"}) as server:
        assert server.get("/").status == 200
        children = server.workers()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10  # load() sleeps for 20 s
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        with pytest.raises(ConnectionRefusedError):
            request(server.port, "GET", "/")


def test_the_port_is_free_at_once(faulty):
    with faulty("--workers", "2") as server:
        ready(server, 2)
        assert server.stop() == 0
        with socket.create_server(("127.0.0.1", server.port)):
            pass
