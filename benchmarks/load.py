"""A closed-loop load generator: N keep-alive connections, each with one request in flight.

Run by the benchmarks in a process of its own; prints one JSON object. Standard library only.

    python benchmarks/load.py PORT PATH BODY_FILE CLIENTS SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path


class Client(asyncio.Protocol):
    """Sends the same request again whenever its answer is complete."""

    def __init__(self, request: bytes, latencies: list[float], failures: list[bytes]) -> None:
        self.request = request
        self.latencies = latencies
        self.failures = failures
        self.buffer = b""
        self.wanted = -1
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.wanted < 0:
            head, end, _ = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            self.wanted = len(head) + 4 + int(length)
        if len(self.buffer) >= self.wanted:
            self.latencies.append(time.perf_counter() - self.sent)
            if not self.buffer.startswith(b"HTTP/1.1 200"):
                self.failures.append(self.buffer[:200])
            self.buffer, self.wanted = b"", -1
            self.send()


async def run(port: int, path: str, body: bytes, clients: int, seconds: float) -> dict[str, float]:
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    failures: list[bytes] = []
    started = time.perf_counter()
    transports = [
        (await loop.create_connection(lambda: Client(request, latencies, failures), "127.0.0.1", port))[0]
        for _ in range(clients)
    ]
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    for transport in transports:
        transport.abort()
    if failures:
        raise SystemExit(f"{len(failures)} answers were not 200: {failures[0]!r}")
    latencies.sort()
    return {
        "requests": len(latencies),
        "rate": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    port, path, file, clients, seconds = sys.argv[1:]
    print(
        json.dumps(asyncio.run(run(int(port), path, Path(file).read_bytes(), int(clients), float(seconds))))
    )
