"""Worker processes that die, hang or cannot start (rows 1-6, 9, 14 of the matrix)."""

import http.client
import json
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from clients import Clients
from harness import run, wait_until

GOOD = {"instances": ["good"]}
GONE = (ConnectionError, http.client.HTTPException, OSError)


def ready(server, workers=2):
    server.wait_ready("model", "on_loop")
    wait_until(lambda: server.text().count("is ready") >= workers, what="all workers ready")
    return server


def calls(server, action):
    """Process ids of the workers that have begun such a call."""
    noted = server.log.parent / "calls"
    lines = noted.read_text().splitlines() if noted.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(action + " ")]


def answers(server, body=GOOD, model="model"):
    response = server.predict(body, model)
    return response.status == 200 and response.json()["predictions"] == body["instances"]


class Keeping(Clients):
    """Clients that keep their connections as long as the server does; requests may be lost."""

    def __init__(self, server, count):
        super().__init__(server, count)
        self.lost = 0
        self._lock = threading.Lock()

    def ask(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while not self.stop.is_set():
            text = f"good-{number}"
            try:
                connection.request("POST", "/v1/models/model:predict", json.dumps({"instances": [text]}))
                response = connection.getresponse()
                body = response.read()
                right = response.status == 200 and json.loads(body)["predictions"] == [text]
            except GONE:
                connection.close()
                with self._lock:
                    self.lost += 1
                continue
            with self._lock:
                self.right += right
                if not right:
                    self.wrong.append((response.status, body))
        connection.close()


# row 1
def test_a_killed_worker_costs_its_own_requests_only(faulty):
    with faulty("--workers", "2") as server:
        before = ready(server) and server.workers()
        with Keeping(server, 16) as clients:
            wait_until(lambda: clients.right > 100)
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda: len(set(server.workers()) - set(before)) == 1, 20, "a new worker")
            wait_until(lambda: server.text().count("is ready") == 3, 20, "a new worker ready")
            so_far = clients.right
            wait_until(lambda: clients.right > so_far + 100)
        assert clients.wrong == []
        assert clients.lost <= 16  # one request of each client at most
        assert before[1] in server.workers()


# row 2
def test_all_workers_killed_at_once(faulty):
    with faulty("--workers", "2") as server:
        for pid in ready(server).workers():
            os.kill(pid, signal.SIGKILL)
        # Not refused: the supervisor holds the sockets, and the next worker takes what waits there.
        assert server.get("/").json() == {"status": "alive"}
        wait_until(lambda: answers(server), 30)
        wait_until(lambda: len(server.workers()) == 2, 30)


# row 2, 4: one worker is replaced like any other
def test_one_worker_under_supervision_is_back_within_a_second(faulty):
    with faulty("--supervise", "true") as server:
        ready(server, 1)
        for action in ("kill", "exit", "segfault"):
            with pytest.raises(GONE):
                server.predict({"instances": [action]})
            assert answers(server)
        text = server.text()
        assert "died: signal 9 (Killed, perhaps for want of memory); a new one starts in 0.1 s" in text
        assert "died: exit code 0; a new one starts in 0.2 s" in text
        assert "died: signal 11 (Segmentation fault); a new one starts in 0.4 s" in text


# row 3
def test_a_stopped_worker_does_not_stop_the_others(faulty):
    with faulty("--workers", "2", "--timeout", "60") as server:
        stopped, other = ready(server).workers()
        os.kill(stopped, signal.SIGSTOP)
        try:
            pids = {server.predict(GOOD).json()["pid"] for _ in range(10)}
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert pids == {other}
        assert set(server.workers()) == {stopped, other}


# row 3
def test_an_event_loop_that_stands_still_has_its_worker_replaced(faulty):
    with faulty("--workers", "2", "--timeout", "1") as server, socket.socket() as client:
        before = set(ready(server).workers())
        client.connect(("127.0.0.1", server.port))
        body = json.dumps({"instances": ["spin"]}).encode()
        client.sendall(
            b"POST /v1/models/on_loop:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        (hung,) = wait_until(lambda: calls(server, "spin"))
        client.settimeout(30)
        assert answers(server)  # by the other one
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        wait_until(lambda: len(server.workers()) == 2 and hung not in server.workers())
        assert f"(pid {hung}): its event loop has stood still for" in server.text()
        assert before - {hung} < set(server.workers())
        assert answers(server)


# row 3, 56: a machine that slept, or a virtual one that was paused
def test_workers_that_stood_still_with_the_supervisor_are_not_killed(faulty):
    with faulty("--supervise", "true", "--timeout", "0.5") as server:
        (worker,) = ready(server, 1).workers()
        os.kill(worker, signal.SIGSTOP)
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(4)  # the pause itself
        os.kill(server.process.pid, signal.SIGCONT)
        time.sleep(1.5)  # the supervisor looks at least once
        os.kill(worker, signal.SIGCONT)
        assert answers(server)
        assert server.workers() == [worker]
        assert "stood still" not in server.text()


# row 9, and 3
@pytest.mark.parametrize("action", ["sleep", "spin"])
def test_a_predict_that_never_returns_has_its_worker_replaced(faulty, action):
    with faulty("--supervise", "true", "--timeout", "1.5") as server:
        ready(server, 1)
        started = time.monotonic()
        response = server.predict({"instances": [action, 1e6]})
        elapsed = time.monotonic() - started
        assert response.status == 504
        assert response.json() == {"error": "Model model did not answer within 1.5 s (--timeout)."}
        assert 1.5 <= elapsed < 10
        (hung,) = calls(server, action)
        assert answers(server, model="on_loop")  # other models go on
        wait_until(lambda: "its thread is given up" in server.text())
        wait_until(lambda: answers(server))  # what waits behind it moves
        wait_until(lambda: server.workers() and hung not in server.workers(), 30, "the hung worker gone")
        assert answers(server)


# row 9
def test_without_a_supervisor_a_call_that_never_returns_costs_a_thread_and_at_last_the_process(faulty):
    with faulty("--timeout", "0.2") as server:
        server.wait_ready("model")
        for hung in range(1, 9):
            assert server.predict({"instances": ["sleep", 1e6]}).status == 504
            wait_until(lambda hung=hung: server.text().count("its thread is given up") == hung)
            if hung < 8:
                assert answers(server)
        assert server.process.wait(30) == 1
        assert "8 calls of models have not returned; stopping" in server.text()


# row 5
def test_a_crash_loop_while_loading_backs_off_and_ends(faulty):
    with faulty("--workers", "2", LOAD="dies") as server:
        assert server.process.wait(60) == 1
        loads = len(calls(server, "load"))
        assert 5 <= loads <= 10  # no fork storm
        text = server.text()
        for delay in ("0.1", "0.2", "0.4", "0.8"):
            assert f"died: exit code 1; a new one starts in {delay} s" in text
        assert "no worker was ever ready, giving up" in text


# row 6
@pytest.mark.parametrize("action", ["allocate", "kill"])
def test_out_of_memory(faulty, action):
    """An allocation that fails is that request's 503; what the system kills for it is replaced."""
    with faulty("--supervise", "true") as server:
        (worker,) = ready(server, 1).workers()
        for pid in (worker, server.process.pid):
            used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + 512 * 1024 * 1024
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        if action == "allocate":
            response = server.predict({"instances": ["allocate", 2 * 1024**3]})
            assert response.status == 503
            assert response.json() == {"error": "Not enough memory for this request."}
            assert server.workers() == [worker]
        else:
            with pytest.raises(GONE):
                server.predict({"instances": ["kill"]})
        assert answers(server)


# row 14
@pytest.mark.parametrize("flags", [("--workers", "2"), ("--supervise", "true")])
def test_workers_end_with_a_killed_supervisor_and_free_the_port(faulty, flags):
    with faulty(*flags) as server:
        workers = ready(server, 2 if "--workers" in flags else 1).workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 5, "no orphan")
        with socket.create_server(("127.0.0.1", server.port)):
            pass


# row 15
@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80,
    reason="this machine lets everybody listen on port 80",
)
def test_a_port_that_is_not_allowed_is_one_line():
    program = (
        "import os, modelserver, modelserver.model_server\n"
        "modelserver.Model\n"  # imported while the files can be read
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setuid(65534)\n"
        "model = modelserver.Model('m'); model.load()\n"
        "modelserver.ModelServer(http_port=80).start([model])"
    )
    done = run(["-c", program])
    assert done.returncode == 1
    assert done.stderr == (
        "modelserver: Cannot listen on port 80: Permission denied. Choose another with --http_port.\n"
    )
