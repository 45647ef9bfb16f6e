"""Does the server last? Real servers under a long mixed load; what they use must not grow.

    python soak/soak.py                           everything: about 15 minutes
    python soak/soak.py user torch-2 idle         some of it
    python soak/soak.py --requests 5000000 user   longer

Prints a table; the exit status is 1 if a bound is broken or an answer was wrong or lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from load import Connection, Load, Mix, Request, WrongAnswer, get, packaged_mix, post, user_mix
from processes import Server, SoakError, Use, serving
from versions import REQUESTS_EACH, Folder, upgraded
from watch import Watch, table

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
IRIS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
MB = 1e6

MOST_SLOPE_MB = 1.0
"""For 100,000 requests, all workers together."""

MOST_BLOCKS = 0.02
"""For each request, in all workers: a piece of memory, however small, that every fiftieth leaves behind."""

MOST_NEW = 32
"""Descriptors, and threads, that may be there at the end and were not at the start."""

SAMPLES = 40
WARM_UP = 5_000
IDLE, IDLE_S = 10_000, 10.0
MOST_IDLE_ANSWER_S = 0.1
MOST_IDLE_BYTES = 16_000
RESTART_REQUESTS = 10_000
UPGRADE_REQUESTS = 50_000
MOST_UPGRADE_MB = 1.0
"""For each upgrade, all workers together: torch forgets no class that became a TorchScript program."""
READY_S = 120.0


@dataclass(frozen=True)
class Endurance:
    """One server and how long it must last."""

    arguments: Sequence[str | Path]
    workers: int
    requests: int
    is_packaged: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Finding:
    """What came out, by the head of its column, and what of it breaks a bound."""

    cells: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


_USER = (HERE / "server.py",)
_TORCH_ARCHIVE = EXAMPLES / "iris_pytorch" / "iris.tgz"
_TF_ARCHIVE = EXAMPLES / "iris_tensorflow" / "iris.tar.gz"
_TORCH = ("-m", "modelserver", f"model={_TORCH_ARCHIVE}")
_TF = ("-m", "modelserver", f"model={_TF_ARCHIVE}")

ENDURANCES = {
    "user": Endurance(_USER, 1, 1_000_000),
    "user-2": Endurance(_USER, 2, 1_000_000),
    "torch": Endurance(_TORCH, 1, 300_000, is_packaged=True),
    "torch-2": Endurance(_TORCH, 2, 300_000, is_packaged=True),
    "tf": Endurance(_TF, 1, 300_000, is_packaged=True),
    "tf-2": Endurance(_TF, 2, 300_000, is_packaged=True),
}


async def endure(
    scenario: Endurance,
    requests: int,
    samples: int = SAMPLES,
    most_slope_mb: float = MOST_SLOPE_MB,
    most_blocks: float = MOST_BLOCKS,
) -> Finding:
    """Ask a server so many requests, and see that what it uses does not grow.

    A rough start and the first third are its warm-up: threads, caches and the allocator's arenas come to be.
    """
    with serving(scenario.arguments, scenario.workers, scenario.env) as server:
        await wait_ready(server)
        mix = await packaged_mix(server.port, IRIS) if scenario.is_packaged else user_mix()
        load, watch = Load(server.port, mix), Watch()
        watch.add(0, server.use())
        started = time.monotonic()
        await load.run(min(WARM_UP, requests // 10), mix.rough())
        for number in range(samples + 1):
            watch.add(load.count, await count_blocks(server, is_counted=not scenario.is_packaged))
            if number < samples:
                await load.run(requests // samples)
        seconds = time.monotonic() - started
        warm_up = load.count // 3
        slope_mb, blocks = watch.slope("rss", warm_up) * 100_000 / MB, watch.slope("blocks", warm_up)
        load.close()
        await settle(server, watch)
    warm = next(use.rss for asked, use in watch.samples if asked >= warm_up)
    finding = Finding({"requests": load.count, "seconds": f"{seconds:.0f}"})
    finding.cells |= {"MB at start": f"{watch.first.rss / MB:.1f}", "MB warm": f"{warm / MB:.1f}"}
    finding.cells |= {"MB at end": f"{watch.last.rss / MB:.1f}", "MB per 100,000": f"{slope_mb:+.3f}"}
    if not scenario.is_packaged:
        finding.cells["blocks per request"] = f"{blocks:+.4f}"
    if slope_mb > most_slope_mb:
        finding.broken.append(f"{slope_mb:.2f} MB more for 100,000 requests; allowed: {most_slope_mb:g}")
    if blocks > most_blocks:
        finding.broken.append(
            f"{blocks:.3f} pieces of memory more for each request; allowed: {most_blocks:g}"
        )
    judge_leftovers(finding, watch)
    return finding


async def count_blocks(server: Server, *, is_counted: bool = True) -> Use:
    """What the server uses, with the pieces of memory that Python has handed out."""
    blocks: dict[int, int] = {}
    request = Request("blocks", post("/v1/models/blocks:predict", b'{"instances":[]}'), 200)
    with contextlib.ExitStack() as stack:
        while is_counted and len(blocks) < server.workers:
            connection = Connection(server.port)  # another one: it may reach another worker
            stack.callback(connection.leave)
            pid, count = json.loads(await connection.ask(request))["predictions"]
            blocks[pid] = count
    return replace(server.use(), blocks=sum(blocks.values()))


def judge_leftovers(finding: Finding, watch: Watch) -> None:
    """Compare descriptors and threads at the end with those at the start."""
    for what in ("descriptors", "threads"):
        more = getattr(watch.last, what) - getattr(watch.first, what)
        finding.cells[f"new {what}"] = more
        if more > MOST_NEW:
            finding.broken.append(f"{more} more {what} at the end; allowed: {MOST_NEW}")


async def settle(server: Server, watch: Watch) -> None:
    """Take a last sample when the server has closed, too, what its clients have closed."""
    for _ in range(50):
        watch.add(watch.samples[-1][0], server.use())
        if watch.last.descriptors <= watch.first.descriptors and len(server.pids()) == server.workers:
            return
        await asyncio.sleep(0.1)


async def wait_ready(server: Server) -> None:
    """Wait until every worker is ready."""
    if server.workers > 1:
        await asyncio.to_thread(server.wait_for_workers, server.workers)
    until = time.monotonic() + READY_S
    while True:
        connection = Connection(server.port)
        try:
            await connection.ask(Request("ready", get("/v1/models/model"), 200))
            return
        except (WrongAnswer, OSError):
            if time.monotonic() > until:
                raise server.failure("the model is not ready") from None
            await asyncio.sleep(0.1)
        finally:
            connection.leave()


async def idle(number: int = IDLE) -> Finding:
    """Hold so many idle connections, and see that a good request is still answered at once."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    number = min(number, hard - 500)
    small = user_mix().small
    with serving((*_USER, "--timeout_keep_alive", "600"), 1, {}) as server:
        await wait_ready(server)
        watch = Watch()
        watch.add(0, server.use())
        started = time.monotonic()
        held = [Connection(server.port) for _ in range(number)]
        for connection in held:
            await connection.ask(small)
        watch.add(number, server.use())
        each = (watch.last.rss - watch.first.rss) / number
        times = []
        asking = Connection(server.port)
        until = time.monotonic() + IDLE_S
        while time.monotonic() < until:
            asked = time.perf_counter()
            await asking.ask(small)
            times.append(time.perf_counter() - asked)
        seconds = time.monotonic() - started
        for connection in (*held, asking):
            connection.leave()
        await settle(server, watch)
    median_ms, worst_ms = statistics.median(times) * 1000, max(times) * 1000
    finding = Finding({"requests": number + len(times), "seconds": f"{seconds:.0f}"})
    judge_leftovers(finding, watch)
    finding.cells["note"] = (
        f"{number} held, {each:.0f} bytes each; an answer takes {median_ms:.2f} ms, at worst {worst_ms:.0f}"
    )
    if number < IDLE:
        finding.broken.append(f"only {number} connections: the hard limit of open files is {hard}")
    if median_ms > MOST_IDLE_ANSWER_S * 1000:
        finding.broken.append(f"a good request takes {median_ms:.0f} ms")
    if each > MOST_IDLE_BYTES:
        finding.broken.append(f"an idle connection takes {each:.0f} bytes")
    return finding


async def restart(requests: int = RESTART_REQUESTS) -> Finding:
    """Replace all workers, again and again, under load: every request is answered, and rightly."""
    small = user_mix().small
    mix = Mix(small, [(2_000, replace(small, kind="new connection", alone=True))])
    with serving(_USER, 2, {}) as server:
        await wait_ready(server)
        load, watch = Load(server.port, mix, clients=8, pipeline=1), Watch()
        await load.run(200)
        watch.add(0, server.use())
        started = time.monotonic()
        rounds = 0
        while load.count < requests or rounds < 2:
            rounds += 1
            os.kill(server.process.pid, signal.SIGHUP)
            replaced = asyncio.create_task(asyncio.to_thread(server.wait_for_workers, 2 + 2 * rounds))
            while not replaced.done():
                await load.run(200)
            await replaced
        seconds = time.monotonic() - started
        load.close()
        await settle(server, watch)
    finding = Finding({"requests": load.count, "seconds": f"{seconds:.0f}"})
    judge_leftovers(finding, watch)
    finding.cells["note"] = f"{rounds} rolling restarts, 0 requests lost"
    return finding


async def upgrades(archive: Path, workers: int, requests: int) -> Finding:
    """Upgrade a packaged model again and again under load: its memory comes back, and no request is lost."""
    with tempfile.TemporaryDirectory() as where:
        folder = Folder.of(archive, Path(where))
        arguments = ("-m", "modelserver", f"model={folder.path}", "--file_system_poll_wait_seconds", "0.2")
        with serving(arguments, workers, {}) as server:
            await wait_ready(server)
            load, watch = Load(server.port, await packaged_mix(server.port, IRIS), clients=8), Watch()
            watch.add(0, server.use())
            started = time.monotonic()
            while folder.number < max(10, requests // REQUESTS_EACH):
                await upgraded(server.port, folder, load)
                watch.add(folder.number, server.use())
            seconds = time.monotonic() - started
            load.close()
            await settle(server, watch)
    upgrade_mb = watch.slope("rss", folder.number // 3) / MB
    finding = Finding({"requests": load.count, "seconds": f"{seconds:.0f}"})
    finding.cells |= {"MB at start": f"{watch.first.rss / MB:.1f}", "MB at end": f"{watch.last.rss / MB:.1f}"}
    judge_leftovers(finding, watch)
    finding.cells["note"] = f"{folder.number - 1} upgrades, {upgrade_mb:+.3f} MB each, 0 requests lost"
    if upgrade_mb > MOST_UPGRADE_MB:
        finding.broken.append(f"{upgrade_mb:.2f} MB more for each upgrade; allowed: {MOST_UPGRADE_MB:g}")
    return finding


def scenarios() -> dict[str, Callable[[int | None], Awaitable[Finding]]]:
    """All of them, by name; each takes a number of requests, or ``None`` for its own."""

    def lasting(scenario: Endurance) -> Callable[[int | None], Awaitable[Finding]]:
        return lambda requests: endure(scenario, requests or scenario.requests)

    return {
        **{name: lasting(scenario) for name, scenario in ENDURANCES.items()},
        "idle": lambda requests: idle(),
        "restart": lambda requests: restart(requests or RESTART_REQUESTS),
        "versions": lambda requests: upgrades(_TORCH_ARCHIVE, 2, requests or UPGRADE_REQUESTS),
        "versions-tf": lambda requests: upgrades(_TF_ARCHIVE, 2, requests or UPGRADE_REQUESTS),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios that are named, or all."""
    known = scenarios()
    parser = argparse.ArgumentParser(description="Real servers under a long mixed load; nothing may grow.")
    parser.add_argument("scenario", nargs="*", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--requests", type=int, help="to each server; default: 1,000,000 to a user's model")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.scenario) - set(known):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    rows: list[dict[str, object]] = []
    broken: list[str] = []
    for name in arguments.scenario or known:
        print(f"[soak] {name}", file=sys.stderr, flush=True)
        try:
            finding = asyncio.run(known[name](arguments.requests))
        except (WrongAnswer, SoakError) as error:
            broken.append(f"{name}: {error}")
        else:
            rows.append({"scenario": name, **finding.cells})
            broken += [f"{name}: {what}" for what in finding.broken]
    print(table(rows))
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
