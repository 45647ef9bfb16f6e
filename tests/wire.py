"""Raw sockets, and what the system says of a process: for tests that send what no client library would.

Nothing here knows HTTP from this house: answers are read by the standard library's client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import Server, serving

GOOD = b'{"instances":[1]}'
GOOD_ANSWER = b'{"predictions":[1]}'
MIB = 2**20
PROGRAM = Path(__file__).parent / "e2e" / "programs" / "hostile.py"


@contextlib.contextmanager
def hostile_server(folder: Path, *flags: str) -> Iterator[Server]:
    """The server of programs/hostile.py, ready."""
    with serving([PROGRAM, *flags], folder / "log") as server:
        yield server.wait_ready("echo", "anything", "doubled", "numbers")


def head(
    path: str = "/v1/models/echo:predict", *fields: str, method: str = "POST", version: str = "1.1"
) -> bytes:
    """A request's head with these fields and its end."""
    lines = [f"{method} {path} HTTP/{version}", "Host: h", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, path: str = "/v1/models/echo:predict", *fields: str) -> bytes:
    """A whole request with a body."""
    return head(path, *fields, f"Content-Length: {len(body)}") + body


def connect(port: int, timeout_s: float = 60.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def error(self) -> str:
        """The text of a refusal."""
        text: str = json.loads(self.body)["error"]
        return text


def read_answer(sock: socket.socket, method: str = "POST") -> Answer:
    """One answer; raises what the standard library raises where it is cut short."""
    response = http.client.HTTPResponse(sock, method=method)
    try:
        response.begin()
        return Answer(response.status, response.headers, response.read())
    finally:
        response.close()


def answer_to(server: Server, body: bytes, model: str = "echo", *fields: str) -> Answer:
    """The answer to one predict, on a connection of its own."""
    with connect(server.port) as sock:
        send_all(sock, post(body, f"/v1/models/{model}:predict", *fields))
        return read_answer(sock)


def until_closed(sock: socket.socket) -> bytes:
    """Everything that comes until the server closes; a reset ends it too."""
    got = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            got += piece
    return bytes(got)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send as much as the server takes: it may refuse and close in the middle."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def talk(port: int, data: bytes, *, half_close: bool = False, timeout_s: float = 60.0) -> bytes:
    """What comes back on a connection of its own until the server closes it."""
    with connect(port, timeout_s) as sock:
        send_all(sock, data)
        if half_close:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        return until_closed(sock)


def statuses(answers: bytes) -> tuple[int, ...]:
    """The statuses of all answers in what came back."""
    return tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers))


def assert_serves(server: Server) -> None:
    """The next good request is right, in every worker."""
    for number in range(4 * max(1, len(server.workers()))):
        answer = server.predict({"instances": [number]}, "echo")
        assert (answer.status, answer.json()) == (200, {"predictions": [number]})


# -- what the system says


def serving_pids(server: Server) -> list[int]:
    """The processes that answer."""
    return server.workers() or [server.process.pid]


def cpu_s(server: Server) -> float:
    """Seconds of CPU that the server has used."""
    ticks = 0
    for pid in {server.process.pid, *serving_pids(server)}:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss(server: Server) -> int:
    """Resident bytes of the processes that answer, now."""
    return sum(_status(pid, "VmRSS") for pid in serving_pids(server))


@contextlib.contextmanager
def peak_growth(server: Server) -> Iterator[list[int]]:
    """The list gets, at the end, by how many bytes the resident memory of one process had grown at most."""
    pids = serving_pids(server)
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    before = {pid: _status(pid, "VmRSS") for pid in pids}
    growth: list[int] = []
    yield growth
    growth.append(max(_status(pid, "VmHWM") - before[pid] for pid in pids))


def _status(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def log_lines(server: Server, since: int) -> list[str]:
    """What the server has logged behind the first ``since`` bytes."""
    return server.log.read_bytes()[since:].decode(errors="replace").splitlines()


# -- who else is there


class Bystander:
    """Asks good requests on one connection while something else goes on.

    Attributes:
        answered: how many were right.
        slowest_s: the longest that one took.
        failure: what went wrong first.
    """

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.slowest_s = 0.0
        self.failure: Any = None
        self._port = port
        self._over = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Bystander:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with connect(self._port) as sock:
                while True:
                    started = time.monotonic()
                    sock.sendall(post(GOOD))
                    answer = read_answer(sock)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                    assert (answer.status, answer.body) == (200, GOOD_ANSWER)
                    self.answered += 1
                    self._begun.set()
                    if self._over.wait(0.01):
                        return
        except Exception as error:
            self.failure = error
        finally:
            self._begun.set()

    def assert_unharmed(self, within_s: float = 5.0) -> None:
        assert self.failure is None, repr(self.failure)
        assert self.answered
        assert self.slowest_s < within_s


@contextlib.contextmanager
def bystanders(server: Server, within_s: float = 5.0, count: int = 2) -> Iterator[Sequence[Bystander]]:
    """Good clients beside the block; none of them may be harmed, and afterwards all is well."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Bystander(server.port)) for _ in range(count)]
        yield others
    for other in others:
        other.assert_unharmed(within_s)
    assert_serves(server)
