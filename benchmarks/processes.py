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

import numpy as np
from materials import Request

TICKS = os.sysconf("SC_CLK_TCK")
START_S = 120.0
ANSWER_S = 120.0
STOP_S = 20.0
TOLERANCE = 1e-4


class BenchmarkError(Exception):
    """A figure that cannot be had: a server that does not start, or answers wrongly."""


@dataclass(frozen=True)
class Server:
    """How to start one. In `arguments`, `{port}` stands for the port and `{grpc_port}` for that of gRPC."""

    peer: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    log: Path

    def port_for(self, request: Request) -> int:
        """Where a request goes."""
        return self.grpc_port if request.protocol == "grpc" else self.port

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

    def resident_mb(self) -> float:
        """Memory of the one process that serves, now."""
        return self._status("VmRSS")

    def forget_peak(self) -> None:
        """Let `peak_mb` begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The most memory that the process has had since `forget_peak`."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) / 1024

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
    port, grpc_port = free_port(), free_port()
    places = {"{port}": str(port), "{grpc_port}": str(grpc_port)}
    command = [str(python), *(places.get(argument, argument) for argument in server.arguments)]
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
        yield Running(process, port, grpc_port, log)
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
    """One request on a connection of its own. A gRPC call that fails is a `ConnectionError`."""
    if request.protocol == "grpc":
        return 200, _call(port, request)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        headers = {"Content-Type": request.content_type, **dict(request.headers)}
        connection.request("POST", request.path, request.body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _call(port: int, request: Request) -> bytes:
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call = channel.unary_unary(request.path, None, None)
        try:
            answer: bytes = call(request.body[5:], timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise ConnectionError(f"{error.code()}: {error.details()}") from None
    return answer


def wait_for_answer(server: Running, request: Request, pause_s: float = 0.05) -> list[float]:
    """Ask until there is an answer, and return its numbers."""
    deadline = time.monotonic() + START_S
    last = "no answer"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise server.failure(f"it ended with status {server.process.returncode}")
        try:
            status, body = ask(server.port_for(request), request)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return message_numbers(body) if request.protocol == "grpc" else numbers(body)
            last = f"{status} {body[:300]!r}"
        time.sleep(pause_s)
    raise server.failure(f"no right answer within {START_S:.0f} s: {last}")


def numbers(body: bytes) -> list[float]:
    """The numbers of an answer, V1's `predictions` or V2's `outputs`."""
    answer = json.loads(body)
    found: list[float] = []
    _collect(answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"], found)
    return found


def message_numbers(message: bytes) -> list[float]:
    """The numbers of V2's answer over gRPC: of its first output, raw or not."""
    from modelserver.protocols.v2_messages import ModelInferResponse

    answer = ModelInferResponse.FromString(message)
    if answer.raw_output_contents:
        found: list[float] = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
        return found
    return [float(value) for value in answer.outputs[0].contents.fp32_contents]


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
