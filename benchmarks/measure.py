"""Measures a group: all its servers up, every answer checked, then round after round in turn.

Alternating puts the machine's mood on all contenders alike; the median of the rounds is the figure.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import generator
from contenders import Contender, Group
from materials import small
from processes import (
    START_S,
    BenchmarkError,
    Running,
    Server,
    ask,
    check_equal,
    command_environment,
    numbers,
    running,
    wait_for_answer,
)

Figures = dict[str, float]
_ANSWERING_SHARE = 0.1  # a worker that used less CPU than this share of the busiest one answered nothing
_MEMORY_TRIES = 5


@dataclass
class Row:
    """One contender at one number of clients: its figures, or why there are none."""

    contender: str
    peer: str
    clients: int
    figures: Figures = field(default_factory=dict)
    runs: list[Figures] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """How long and how often, and with what."""

    seconds: float
    rounds: int
    load: generator.Kind
    folder: Path
    python: Callable[[str], Path]

    def log(self, name: str) -> Path:
        """Where a server writes."""
        return self.folder / "logs" / (name.replace(" ", "_").replace(",", "") + ".log")


def measure(group: Group, plan: Plan) -> list[Row]:
    """All rows of a group. A contender that fails gives rows with an error; the others go on."""
    if group.kind == "start":
        return _measure_start(group, plan)
    if group.kind == "memory":
        return _measure_memory(group, plan)
    if group.kind == "growth":
        return _measure_growth(group, plan)
    return _measure_load(group, plan)


def _measure_load(group: Group, plan: Plan) -> list[Row]:
    rows = [
        Row(contender.name, contender.server.peer, clients)
        for clients in group.clients
        for contender in group.contenders
    ]
    by_name = {contender.name: contender for contender in group.contenders}
    with contextlib.ExitStack() as stack:
        up = _start_all(group, plan, stack, rows)
        for clients in group.clients:
            todo = [row for row in rows if row.clients == clients and not row.error]
            for number in range(plan.rounds + 1):
                for row in todo:
                    if not row.error:
                        contender = by_name[row.contender]
                        _add_run(row, up[contender.server], contender, plan, is_warm_up=number == 0)
    for row in rows:
        row.figures = _median(row.runs) if not row.error else {}
    return rows


def _start_all(
    group: Group, plan: Plan, stack: contextlib.ExitStack, rows: list[Row]
) -> dict[Server, Running]:
    """Start the servers side by side, and see that all give the same answer."""
    up: dict[Server, Running] = {}
    for contender in group.contenders:
        if contender.server not in up:
            python = plan.python(contender.server.peer)
            server = running(contender.server, python, plan.log(contender.name))
            up[contender.server] = stack.enter_context(server)
    expected: list[float] | None = None
    for contender in group.contenders:
        try:
            answer = wait_for_answer(up[contender.server], contender.request)
            if expected is not None and group.same_answer:
                check_equal(answer, expected, contender.name)
            expected = expected or answer
        except BenchmarkError as error:
            for row in rows:
                if row.contender == contender.name:
                    _fail(row, error)
    return up


def _add_run(row: Row, server: Running, contender: Contender, plan: Plan, *, is_warm_up: bool) -> None:
    try:
        seconds = min(1.0, plan.seconds) if is_warm_up else plan.seconds
        run = _load(server, contender, row.clients, seconds, plan)
    except (BenchmarkError, subprocess.TimeoutExpired) as error:
        _fail(row, server.failure(str(error)))
    else:
        if not is_warm_up:
            row.runs.append(run)


def _load(server: Running, contender: Contender, clients: int, seconds: float, plan: Plan) -> Figures:
    before = server.cpu_seconds()
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        request = contender.request
        sample = generator.run(plan.load, server.port_for(request), request, clients, seconds, Path(folder))
    after = server.cpu_seconds()
    cpu = sum(used - before.get(pid, 0.0) for pid, used in after.items())
    return {
        "rate": sample.requests / sample.seconds,
        "p50_ms": sample.p50_ms,
        "p99_ms": sample.p99_ms,
        "cpu_us": cpu / sample.requests * 1e6,
    }


def _measure_start(group: Group, plan: Plan) -> list[Row]:
    rows = [Row(contender.name, contender.server.peer, 1) for contender in group.contenders]
    expected: list[float] | None = None
    for number in range(plan.rounds + 1):  # the first fills the disk cache and writes bytecode
        for row, contender in zip(rows, group.contenders, strict=True):
            if row.error:
                continue
            try:
                answer, seconds = _start_once(contender, plan)
                check_equal(answer, expected or answer, contender.name)
            except BenchmarkError as error:
                _fail(row, error)
                continue
            expected = expected or answer
            if number:
                row.runs.append({"start_s": seconds})
    for row in rows:
        row.figures = _median(row.runs) if not row.error else {}
    return rows


def _start_once(contender: Contender, plan: Plan) -> tuple[list[float], float]:
    python = plan.python(contender.server.peer)
    started = time.perf_counter()
    if "{port}" not in contender.server.arguments:  # no server: it prints its answer and ends
        command = [str(python), *contender.server.arguments]
        environment = command_environment(contender.server)
        done = subprocess.run(command, capture_output=True, env=environment, timeout=START_S, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise BenchmarkError(f"{contender.name} failed: {done.stderr.decode()[-500:]}")
        return numbers(done.stdout), seconds
    with running(contender.server, python, plan.log(contender.name)) as server:
        answer = wait_for_answer(server, contender.request, pause_s=0.005)
        return answer, time.perf_counter() - started


def _measure_memory(group: Group, plan: Plan) -> list[Row]:
    """One server at a time: what two share would count half for each."""
    rows = []
    for contender in group.contenders:
        row = Row(contender.name, contender.server.peer, group.clients[0])
        rows.append(row)
        try:
            python = plan.python(contender.server.peer)
            with running(contender.server, python, plan.log(contender.name)) as server:
                wait_for_answer(server, contender.request)
                row.figures = {"pss_mb": _memory_once(server, contender, group.clients[0], plan)}
                row.runs.append(row.figures)
        except BenchmarkError as error:
            _fail(row, error)
    return rows


def _memory_once(server: Running, contender: Contender, clients: int, plan: Plan) -> float:
    """The memory once every worker has answered; told by the CPU that processes used."""
    for _ in range(_MEMORY_TRIES):
        before = server.cpu_seconds()
        _load(server, contender, clients, max(2.0, plan.seconds), plan)
        used = [seconds - before.get(pid, 0.0) for pid, seconds in server.cpu_seconds().items()]
        if sum(seconds > _ANSWERING_SHARE * max(used) for seconds in used) >= contender.workers:
            return server.pss_mb()
    raise server.failure(f"{contender.name}: not every worker answered")


def _measure_growth(group: Group, plan: Plan) -> list[Row]:
    """One server at a time and a fresh one each time: what a process has once had it may keep."""
    rows = []
    for contender in group.contenders:
        row = Row(contender.name, contender.server.peer, group.clients[0])
        rows.append(row)
        for _ in range(plan.rounds):
            try:
                row.runs.append(_growth_once(contender, plan))
            except BenchmarkError as error:
                _fail(row, error)
                break
        row.figures = _median(row.runs) if not row.error else {}
    return rows


def _growth_once(contender: Contender, plan: Plan) -> Figures:
    request = contender.request
    with running(contender.server, plan.python(contender.server.peer), plan.log(contender.name)) as server:
        wait_for_answer(server, small(request))
        idle = server.resident_mb()
        server.forget_peak()
        try:
            status, answer = ask(server.port_for(request), request)
        except (OSError, http.client.HTTPException) as error:
            raise server.failure(f"{contender.name}: {error!r}") from error
        if status != 200:
            raise server.failure(f"{contender.name} answers {status}: {answer[:200]!r}")
        return {"copies": (server.peak_mb() - idle) / (len(request.body) / 2**20)}


def _median(runs: list[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}


def _fail(row: Row, error: Exception) -> None:
    row.error = str(error)
    print(f"[bench] FAILED: {row.contender}, {row.clients} clients: {error}", flush=True)
