"""Runs the load generator: `wrk`, or `load.py` without it; `h2load` for gRPC; or tritonclient."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from materials import Request
from processes import BenchmarkError, ask

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parent / ".venv-clients" / "bin" / "python"
Kind = Literal["wrk", "python"]
_H2LOAD = re.compile(
    r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout.*traffic:.*\((\d+)\) data", re.DOTALL
)


@dataclass(frozen=True)
class Sample:
    """What one run of the generator saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def choose(wanted: str = "auto") -> Kind:
    """The generator to use; says so if it is the second choice."""
    if wanted == "python" or (wanted == "auto" and not shutil.which("wrk")):
        if wanted == "auto":
            print("[bench] wrk is not installed (apt-get install wrk): a generator in Python is used, which "
                  "may well be slower than the servers", file=sys.stderr, flush=True)  # fmt: skip
        return "python"
    return "wrk"


def describe(kind: Kind) -> str:
    """The generator's name and version."""
    if kind == "python":
        return "load.py, a load generator in Python"
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(shown.split()[:2]) or "wrk"


def run(kind: Kind, port: int, request: Request, clients: int, seconds: float, folder: Path) -> Sample:
    """Ask with N clients for some seconds.

    Raises:
        BenchmarkError: an answer was not 200, a connection was lost, or there was no answer at all.
    """
    body = folder / "body"
    body.write_bytes(request.body)
    if request.client == "tritonclient":
        return _checked(_json_of(_tritonclient(port, request, seconds, body), seconds), clients)
    if request.protocol == "grpc":
        return _checked(_h2load(port, request, clients, seconds, folder), clients)
    headers = [text for header in request.headers for text in header]
    headers += ["Content-Type", request.content_type]
    if kind == "wrk":
        whole = max(1, round(seconds))
        command = ["wrk", "-t1", f"-c{clients}", f"-d{whole}s", "--timeout", "30s",
                   "-s", str(HERE / "post.lua"),
                   f"http://127.0.0.1:{port}{request.path}", "--", str(body), *headers]  # fmt: skip
    else:
        command = [sys.executable, str(HERE / "load.py"), str(port), request.path, str(clients), str(seconds),
                   str(body), *headers]  # fmt: skip
    return _checked(_json_of(command, seconds), clients)


def _json_of(command: list[str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise BenchmarkError(f"the load generator failed: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _checked(result: dict[str, Any], clients: int) -> Sample:
    if result["not_ok"] or result["lost"]:
        raise BenchmarkError(
            f"{result['not_ok']} answers were errors and {result['lost']} connections were lost, "
            f"of {result['requests']} requests by {clients} clients"
        )
    if not result["requests"]:
        raise BenchmarkError(f"no answer in {result['seconds']:.0f} s to {clients} clients")
    return Sample(int(result["requests"]), result["seconds"], result["p50_ms"], result["p99_ms"])


def _tritonclient(port: int, request: Request, seconds: float, body: Path) -> list[str]:
    if not CLIENTS.exists():
        raise BenchmarkError("there is no .venv-clients: make setup makes it")
    length = dict(request.headers).get("Inference-Header-Content-Length", "0")
    script = str(HERE / "load_tritonclient.py")
    return [str(CLIENTS), script, request.protocol, str(port), str(seconds), str(body), length]


def _h2load(port: int, request: Request, clients: int, seconds: float, folder: Path) -> dict[str, Any]:
    """gRPC by h2load, a connection for each client.

    It does not see gRPC's status, which stands behind the answer. A call that fails has no message, so the
    bytes of the messages tell how many succeeded.
    """
    if not shutil.which("h2load"):
        raise BenchmarkError("h2load is not installed (apt-get install nghttp2-client)")
    log = folder / "log"
    headers = [("content-type", request.content_type), *request.headers]
    command = ["h2load", "-D", str(max(1, round(seconds))), "-c", str(clients), "-m", "1",
               "-d", str(folder / "body"), f"--log-file={log}",
               *(f"-H{name}: {value}" for name, value in headers),
               f"http://127.0.0.1:{port}{request.path}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise BenchmarkError(f"the load generator failed: {(done.stderr or done.stdout)[-500:]}")
    _, answer = ask(port, request)
    whole = max(1, round(seconds))
    found = h2load_figures(done.stdout, log.read_text(), answer_bytes=len(answer), seconds=whole)
    if found is None:
        raise BenchmarkError(f"the load generator says {done.stdout[-500:]}")
    return found


def h2load_figures(said: str, log: str, *, answer_bytes: int, seconds: float) -> dict[str, Any] | None:
    """What h2load saw; `None` if it says nothing of the kind.

    Args:
        said: its output.
        log: its file of requests: when, status, microseconds.
        answer_bytes: of the message of an answer, which all have.
        seconds: that it measured.
    """
    counted = _H2LOAD.search(said)
    if counted is None:
        return None
    succeeded, failed, errored, timed_out, data = map(int, counted.groups())
    took = sorted(int(line.split("\t")[2]) for line in log.splitlines())
    with_message = data // (5 + answer_bytes)
    return {
        "requests": succeeded,
        "seconds": seconds,
        "not_ok": failed + max(0, succeeded - with_message),
        "lost": errored + timed_out,
        "p50_ms": took[len(took) // 2] / 1000 if took else 0.0,
        "p99_ms": took[int(len(took) * 0.99)] / 1000 if took else 0.0,
    }
