"""A closed-loop load generator: N keep-alive connections, each with one request in flight.

For machines without `wrk`: it prints the same line of JSON. It is Python, so above some thousand requests a
second it is the generator that is measured. Standard library only.

    python benchmarks/load.py PORT PATH CLIENTS SECONDS BODY_FILE [HEADER VALUE ...]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path


class Client(asyncio.Protocol):
    """Sends the same request again whenever its answer is complete."""

    def __init__(self, request: bytes, latencies: list[float], refused: list[bytes], lost: list[str]) -> None:
        self.request = request
        self.latencies = latencies
        self.refused = refused
        self.lost = lost
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

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(repr(exc))

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
                self.refused.append(self.buffer[:200])
            self.buffer, self.wanted = b"", -1
            self.send()


async def run(port: int, request: bytes, clients: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    refused: list[bytes] = []
    lost: list[str] = []
    started = time.perf_counter()
    transports = [
        (await loop.create_connection(lambda: Client(request, latencies, refused, lost), "127.0.0.1", port))[
            0
        ]
        for _ in range(clients)
    ]
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    lost_count = len(lost)
    for transport in transports:
        transport.abort()
    latencies.sort()
    return {
        "requests": len(latencies),
        "seconds": elapsed,
        "not_ok": len(refused),
        "lost": lost_count,
        "p50_ms": latencies[len(latencies) // 2] * 1000 if latencies else 0.0,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000 if latencies else 0.0,
    }


def main() -> None:
    port, path, clients, seconds, file, *headers = sys.argv[1:]
    body = Path(file).read_bytes()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in zip(headers[::2], headers[1::2], strict=True)]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    print(json.dumps(asyncio.run(run(int(port), request, int(clients), float(seconds)))))


if __name__ == "__main__":
    main()
