"""Server processes: start one, look into ``/proc`` for what it uses, stop it.

Only processes started here are ever ended, by their process id.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_S = 120.0
STOP_S = 60.0
_LISTENING = re.compile(rb"Listening on https?://[^ ,]*:(\d+)")
_READY = re.compile(rb"Worker \d+ \(pid (\d+)\) is ready")
_KEPT_LOG = 200_000


class SoakError(Exception):
    """A server that does not start, or does not do what it should."""


@dataclass(frozen=True)
class Use:
    """What the processes that answer use, together.

    Attributes:
        rss: resident bytes.
        descriptors: open files.
        threads: of all kinds.
        blocks: pieces of memory that Python has handed out; 0: not known.
    """

    rss: int
    descriptors: int
    threads: int
    blocks: int = 0


@dataclass
class Server:
    """A running server. Its log is read all the time, and its end is kept."""

    process: subprocess.Popen[bytes]
    workers: int
    log: bytearray = field(default_factory=bytearray)
    ready: list[int] = field(default_factory=list)  # process ids, in the order of getting ready
    port: int = 0

    def pids(self) -> list[int]:
        """The processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [int(pid) for path in children for pid in path.read_text().split()]
        return found or [self.process.pid]

    def use(self) -> Use:
        """What the processes that answer use now."""
        rss = descriptors = threads = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, KeyError):  # it is just ending
                status = dict(re.findall(r"(\w+):\s+(\d+)", Path(f"/proc/{pid}/status").read_text()))
                opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                rss += 1024 * int(status["VmRSS"])
                threads += int(status["Threads"])
                descriptors += opened
        return Use(rss, descriptors, threads)

    def failure(self, what: str) -> SoakError:
        """An error that shows the end of the log."""
        return SoakError(f"{what}\n{self.log.decode(errors='replace')[-3000:]}")

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers have ever been ready."""
        until = time.monotonic() + START_S
        while len(self.ready) < count:
            if time.monotonic() > until or self.process.poll() is not None:
                raise self.failure(f"not {count} workers ready within {START_S:g} s")
            time.sleep(0.05)

    def read_log(self) -> None:
        """Read what the server logs until it ends."""
        assert self.process.stdout is not None
        rest = b""
        while piece := self.process.stdout.read1(65536):  # type: ignore[attr-defined]
            self.log += piece
            del self.log[:-_KEPT_LOG]
            text = rest + piece
            if not self.port and (found := _LISTENING.search(text)):
                self.port = int(found[1])
            end = text.rfind(b"\n") + 1
            self.ready += map(int, _READY.findall(text[:end]))
            rest = text[end:]


@contextlib.contextmanager
def serving(arguments: Sequence[str | Path], workers: int, env: Mapping[str, str]) -> Iterator[Server]:
    """Run ``python ARGUMENTS`` on a free port until the block ends; then it must stop as it should.

    Raises:
        SoakError: it does not start, or its exit status is not 0.
    """
    command = [sys.executable, *map(str, arguments), "--http_port", "0", "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **env},
    )
    assert process.stdout is not None
    server = Server(process, workers)
    reader = threading.Thread(target=server.read_log)
    reader.start()
    try:
        until = time.monotonic() + START_S
        while not server.port:
            if time.monotonic() > until or process.poll() is not None:
                raise server.failure("the server does not start")
            time.sleep(0.05)
        yield server
        process.send_signal(signal.SIGTERM)
        if status := process.wait(STOP_S):
            raise server.failure(f"the server ended with {status}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()
