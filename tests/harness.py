"""Starts real server processes and talks to them, for every test that needs one.

A server is started with ``--http_port 0`` and its port is read from its log, so tests never race for one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTENING = re.compile(rb"Listening on https?://[^ ,]*:(\d+)")
START_S = 120.0
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a program: nothing of the caller's that would set a server up."""
    kept = {
        k: v for k, v in os.environ.items() if k != "PORT" and not k.startswith(("MODELSERVER_", "PYTHON"))
    }
    return kept | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"} | dict(extra or {})


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def wait_until(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "condition") -> Any:
    """Poll until ``condition`` returns something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.01)  # the poll itself; nothing here waits for a fixed time
    raise AssertionError(f"{what} not reached within {timeout_s} s")


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | str | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Response:
    """One request on a connection of its own. A mapping is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    sent = dict(headers or {})
    if isinstance(body, Mapping):
        body = json.dumps(body)
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Response:
        return request(self.port, method, path, body, **kwargs)

    def predict(self, body: Any, model: str = "model", **kwargs: Any) -> Response:
        return self.request("POST", f"/v1/models/{model}:predict", body, **kwargs)

    def post(self, path: str, body: Any, content_type: str = "application/json", **headers: str) -> Response:
        """POST bytes as they are, or anything else as JSON; ``X_Name`` becomes the header ``X-Name``."""
        sent = {"Content-Type": content_type} | {
            key.replace("_", "-"): value for key, value in headers.items()
        }
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.request("POST", path, data, headers=sent)

    def get(self, path: str, **kwargs: Any) -> Response:
        return self.request("GET", path, **kwargs)

    def is_ready(self, model: str) -> bool:
        assert self.process.poll() is None, f"the server ended:\n{self.text()}"
        return self.get(f"/v1/models/{model}").status == 200

    def wait_ready(self, *models: str, timeout_s: float = START_S) -> Server:
        for model in models:
            wait_until(lambda model=model: self.is_ready(model), timeout_s, f"{model} ready")
        return self

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Process ids of the server's children."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for path in children for pid in path.read_text().split()]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def serving(
    arguments: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    port_flag: bool = True,
    executable: str = sys.executable,
) -> Iterator[Server]:
    """Run ``python ARGUMENTS`` until the block ends, then stop it and see that nothing of it is left."""
    command = [executable, *map(str, arguments)]
    if port_flag:
        command += ["--http_port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment(env),
        )
    try:

        def port() -> int:
            assert process.poll() is None, f"the server ended:\n{log.read_text(errors='replace')}"
            found = LISTENING.search(log.read_bytes())
            return int(found[1]) if found else 0

        server = Server(process, log, wait_until(port, START_S, "listening"))
        yield server
        workers = server.workers()
        server.stop()
        leftover = [pid for pid in workers if _alive(pid)]
        assert not leftover, f"workers outlived the supervisor: {leftover}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(env),
        timeout=timeout_s,
    )


class Training:
    """An example's `train.py`, run once.

    Attributes:
        folder: where it wrote.
        archive: the packed model.
        output: what it printed.
    """

    def __init__(self, name: str, folder: Path, archive: str) -> None:
        self.name = name
        self.folder = folder
        self.archive = folder / archive
        self.output = self.run()

    def run(self, *flags: str) -> str:
        done = run(["train.py", "--output", self.folder, *flags], cwd=EXAMPLES / self.name)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
