"""Starts an example's `serve.py` as a user would, in a process of its own, and talks to it as curl would."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
START_S = 120.0  # with importing TensorFlow on a busy machine
STOP_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ExampleServer:
    """One example's `serve.py`, running."""

    def __init__(self, folder: Path, flags: list[str], log: Path, environ: dict[str, str]) -> None:
        self.log = log
        self.port = free_port()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "serve.py", "--http_port", str(self.port), *flags],
                cwd=folder,
                env=clean_environment() | environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self, model: str) -> None:
        """Return when the model is ready; fail with the program's output if it ends or takes too long."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if self.ask("GET", f"/v1/models/{model}").status == 200:
                    return
            except (ConnectionError, TimeoutError):
                pass  # not listening yet
            try:
                code = self.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"serve.py ended with exit code {code} before it was ready:\n{self.output()}")
        pytest.fail(f"serve.py was not ready after {START_S:.0f} s:\n{self.output()}")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, content_type: str = "application/json", **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, data, {"Content-Type": content_type} | names)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"serve.py still ran {STOP_S:.0f} s after SIGTERM:\n{self.output()}")

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """The environment without what would set the server up or reach a home folder's model cache."""
    drop = ("MODELSERVER_", "PYTHON", "TORCH_HOME")
    kept = {k: v for k, v in os.environ.items() if k != "PORT" and not k.startswith(drop)}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


class Training:
    """An example's `train.py`, run once; `output` is what it printed."""

    def __init__(self, name: str, folder: Path, archive: str) -> None:
        self.name = name
        self.folder = folder
        self.archive = folder / archive
        self.output = self.run()

    def run(self, *flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "train.py", "--output", str(self.folder), *flags],
            cwd=EXAMPLES / self.name,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def trained_pytorch(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training("iris_pytorch", tmp_path_factory.mktemp("iris_pytorch"), "iris.tgz")


@pytest.fixture(scope="session")
def trained_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training("iris_tensorflow", tmp_path_factory.mktemp("iris_tensorflow"), "iris.tar.gz")


@pytest.fixture(scope="class")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ExampleServer]:
    """The example that the test class names, started once for the class; SIGTERM must end it with 0."""
    example = request.cls
    scratch = tmp_path_factory.mktemp(example.name)
    example.prepare(scratch)
    flags = []
    if example.archive == "made by serve.py":
        flags = ["--output", str(scratch)]
    elif example.archive:
        flags = ["--output", str(request.getfixturevalue(example.archive).folder)]
    running = ExampleServer(
        EXAMPLES / example.name, flags, scratch / "output.txt", {"TORCH_HOME": str(scratch)}
    )
    try:
        running.wait_until_ready(example.model)
        yield running
        code = running.stop()
        assert code == 0, f"exit code {code} after SIGTERM:\n{running.output()}"
    finally:
        running.end()
