"""What a small request costs, beside a bare tornado Application that answers with fixed bytes.

Both servers run at once and are measured in turn, so that the machine's mood falls on both. The figure to
quote is CPU time per request, and the ratio; wall rates on a shared machine are only an order of magnitude.

    make bench
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
ROWS = b'{"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}'
TICKS = os.sysconf("SC_CLK_TCK")

BARE_TORNADO = """
import asyncio, sys
from tornado import netutil, web
ANSWER = b'{"predictions":[[0.007,0.628,0.363],[0.008,0.643,0.348]]}'
class Predict(web.RequestHandler):
    def post(self):
        self.set_header("Content-Type", "application/json")
        self.finish(ANSWER)
async def main():
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    from tornado.httpserver import HTTPServer
    server = HTTPServer(web.Application([("/v1/models/iris:predict", Predict)]))
    server.add_sockets(sockets)
    print(f"Listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def started(name: str, command: list[str], folder: Path) -> Iterator[tuple[int, int]]:
    """Run a server; gives its process id and port."""
    sys.path.insert(0, str(ROOT / "tests"))
    from harness import LISTENING, request, wait_until

    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        found = wait_until(lambda: LISTENING.search(log.read_bytes()), 60)
        port = int(found[1])
        path = "/v1/models/iris:predict"
        wait_until(lambda: request(port, "POST", path, ROWS).status == 200, 60)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(pid: int, port: int, body: Path, clients: int, seconds: float) -> dict[str, float]:
    before = cpu_seconds(pid)
    command = [
        sys.executable, str(HERE / "load.py"), str(port), "/v1/models/iris:predict", str(body),
        str(clients), str(seconds),
    ]  # fmt: skip
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    result["cpu_us"] = (cpu_seconds(pid) - before) / result["requests"] * 1e6
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each server")
    options = parser.parse_args()
    archives = {
        "PyTorch iris": ROOT / "examples/iris_pytorch/iris.tgz",
        "TensorFlow iris": ROOT / "examples/iris_tensorflow/iris.tar.gz",
    }
    for archive in archives.values():
        if not archive.exists():
            subprocess.run([sys.executable, str(archive.parent / "train.py")], check=True)
    commands = {"bare tornado": [sys.executable, "-c", BARE_TORNADO]}
    for name, archive in archives.items():
        commands[name] = [
            sys.executable, "-m", "modelserver", f"iris={archive}", "--http_port", "0",
        ]  # fmt: skip
        commands[f"{name}, no access log"] = [*commands[name], "--access_log", "false"]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        body = folder / "body.json"
        body.write_bytes(ROWS)
        running = {
            name: stack.enter_context(started(name.replace(" ", "_"), command, folder))
            for name, command in commands.items()
        }
        print(f"{'':32}{'clients':>8}{'req/s':>9}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}{'vs bare':>9}")
        for clients in (1, 16, 64):
            results: dict[str, list[dict[str, float]]] = {name: [] for name in running}
            for _ in range(options.rounds):
                for name, (pid, port) in running.items():
                    results[name].append(measure(pid, port, body, clients, options.seconds))
            median = {
                name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                for name, runs in results.items()
            }
            base = median["bare tornado"]["rate"]
            for name, row in median.items():
                print(
                    f"{name:32}{clients:>8}{row['rate']:>9.0f}{row['cpu_us']:>9.0f}{row['p50_ms']:>9.2f}"
                    f"{row['p99_ms']:>9.2f}{row['rate'] / base:>8.2f}x"
                )


if __name__ == "__main__":
    main()
