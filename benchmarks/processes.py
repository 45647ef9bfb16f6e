"""Server processes: start, ask, count what their process tree uses, stop.

Only processes started here are ever ended, by their process id.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from materials import Request

TICKS = os.sysconf("SC_CLK_TCK")
START_S = 120.0
STOP_S = 20.0
TOLERANCE = 1e-4


class BenchmarkError(Exception):
    """A figure that cannot be had: a server that does not start, or answers wrongly."""


@dataclass(frozen=True)
class Server:
    """How to start one. In `arguments`, `{port}` stands for the port."""

    peer: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time that each process of the tree has used."""
        used = {}
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        return used

    def pss_mb(self) -> float:
        """Memory of the process tree; what processes share is counted once."""
        total = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def failure(self, what: str) -> BenchmarkError:
        """An error that shows the end of the server's log."""
        return BenchmarkError(f"{what}\n{self.log.read_text(errors='replace')[-1500:]}")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def command_environment(server: Server) -> dict[str, str]:
    """The environment of a server: none of the caller's settings for servers, one thread for each forward."""
    unwanted = ("MODELSERVER_", "MOSEC_", "KSERVE_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    kept.pop("PORT", None)
    return kept | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"} | dict(server.environment)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: Server, python: Path, log: Path) -> Iterator[Running]:
    """Start a server, which is not ready yet, and stop it at the end."""
    port = free_port()
    command = [str(python), *(argument.replace("{port}", str(port)) for argument in server.arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=command_environment(server),
        )
    try:
        yield Running(process, port, log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    below = tree(process.pid)[1:] if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    if process.poll() is None:
        below = tree(process.pid)[1:]
        process.kill()
        process.wait()
    for pid in below:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def ask(port: int, request: Request) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": request.content_type, **dict(request.headers)}
        connection.request("POST", request.path, request.body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_for_answer(server: Running, request: Request, pause_s: float = 0.05) -> list[float]:
    """Ask until there is an answer, and return its numbers."""
    deadline = time.monotonic() + START_S
    last = "no answer"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise server.failure(f"it ended with status {server.process.returncode}")
        try:
            status, body = ask(server.port, request)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return numbers(body)
            last = f"{status} {body[:300]!r}"
        time.sleep(pause_s)
    raise server.failure(f"no right answer within {START_S:.0f} s: {last}")


def numbers(body: bytes) -> list[float]:
    """The numbers of an answer, V1's `predictions` or V2's `outputs`."""
    answer = json.loads(body)
    found: list[float] = []
    _collect(answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"], found)
    return found


def check_equal(got: list[float], expected: list[float], who: str) -> None:
    """Refuse numbers that differ by more than `TOLERANCE`."""
    if len(got) != len(expected) or any(
        abs(one - other) > TOLERANCE for one, other in zip(got, expected, strict=True)
    ):
        raise BenchmarkError(f"{who} answers {got[:6]}, expected {expected[:6]}")


def _collect(value: Any, found: list[float]) -> None:
    if isinstance(value, list):
        for item in value:
            _collect(item, found)
    else:
        found.append(float(value))
