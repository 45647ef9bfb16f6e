"""Runs the load generator: `wrk` where it is installed, else `load.py`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from materials import Request
from processes import BenchmarkError

HERE = Path(__file__).resolve().parent
Kind = Literal["wrk", "python"]


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise BenchmarkError(f"the load generator failed: {done.stderr[-500:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    if result["not_ok"] or result["lost"]:
        raise BenchmarkError(
            f"{result['not_ok']} answers were errors and {result['lost']} connections were lost, "
            f"of {result['requests']} requests by {clients} clients"
        )
    if not result["requests"]:
        raise BenchmarkError(f"no answer in {seconds:.0f} s to {clients} clients")
    return Sample(int(result["requests"]), result["seconds"], result["p50_ms"], result["p99_ms"])
