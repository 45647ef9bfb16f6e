"""The load: many kinds of requests over raw sockets, each answer compared with what it must be.

In Python, so that nothing else is needed; requests go out several at once where that is allowed (RFC 9112,
9.3.2), so that the server and not the load is what takes the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

ANSWER_S = 60.0
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)\r\n")


class WrongAnswer(Exception):
    """An answer that is not what it must be, or none."""


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes:
        kind: for the report.
        data: head and body.
        status: of the answer.
        body: of the answer; ``None``: not compared. An error's text may hold a request id.
        leaves: the client is gone at once, without reading.
        alone: on a connection of its own, which the server closes.
    """

    kind: str
    data: bytes
    status: int
    body: bytes | None = None
    leaves: bool = False
    alone: bool = False


def post(path: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    """A POST with a body."""
    size = len(body) if length is None else length
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: soak",
        "Content-Type: application/json",
        *fields,
        f"Content-Length: {size}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    """A GET."""
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()


@dataclass(frozen=True)
class Mix:
    """What is asked: kinds with their shares in ten thousand choices.

    The rest of the choices is several small predictions at once.
    """

    small: Request
    others: Sequence[tuple[int, Request]]

    def rough(self) -> Mix:
        """The same kinds with ten times their shares: what they need once is soon there."""
        return replace(self, others=[(10 * share, request) for share, request in self.others])

    def choose(self, rng: random.Random) -> Request:
        """One of them, by its share."""
        draw = rng.randrange(10_000)
        for share, request in self.others:
            draw -= share
            if draw < 0:
                return request
        return self.small


def user_mix() -> Mix:
    """For the models of ``server.py``."""
    rows = [[round(row * 0.37 + column, 2) for column in range(64)] for row in range(300)]
    large = json.dumps({"instances": rows}, separators=(",", ":")).encode()
    answer = large.replace(b"instances", b"predictions")
    path = "/v1/models/model:predict"
    small = Request("small", post(path, b'{"instances":[1,2]}'), 200, b'{"predictions":[1,2]}')
    return Mix(
        small,
        [
            (20, Request("large body", post(path, large), 200, answer)),
            (
                20,
                Request("gzip body", post(path, gzip.compress(large), "Content-Encoding: gzip"), 200, answer),
            ),
            (20, Request("gzip answer", post(path, large, "Accept-Encoding: gzip"), 200)),
            (100, Request("500", post("/v1/models/boom:predict", b'{"instances":[1]}'), 500)),
            *_common(small),
        ],
    )


async def packaged_mix(port: int, instances: list[Any]) -> Mix:
    """For a packaged model called ``model`` that takes these rows; what is right is its first answer."""
    path = "/v1/models/model:predict"
    connection = Connection(port)

    async def learned(kind: str, rows: list[Any]) -> Request:
        unknown = Request(kind, post(path, json.dumps({"instances": rows}).encode()), 200)
        return replace(unknown, body=await connection.ask(unknown))

    small, large = await learned("small", instances[:1]), await learned("large body", instances * 200)
    connection.leave()
    wrong_shape = json.dumps({"instances": [[1.0] * 97]}).encode()
    return Mix(
        small,
        [
            (20, large),
            (50, Request("wrong shape", post(path, wrong_shape), 400)),
            *_common(small),
        ],
    )


def _common(small: Request) -> list[tuple[int, Request]]:
    path = "/v1/models/model:predict"
    return [
        (200, Request("new connection", small.data, 200, small.body, alone=True)),
        (100, Request("404 model", post("/v1/models/nobody:predict", b'{"instances":[1]}'), 404)),
        (50, Request("404 path", get("/nowhere"), 404)),
        (100, Request("400", post(path, b'{"instances":[1,2'), 400)),
        (20, Request("413", post(path, b"", length=2**40), 413, alone=True)),
        (20, Request("not HTTP", b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n", 400, alone=True)),
        (100, Request("client leaves", small.data, 0, leaves=True)),
        (50, Request("live", get("/"), 200)),
        (50, Request("ready", get("/v1/models/model"), 200)),
    ]


class Connection:
    """A client's connection, which it opens again when it has to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._unread = b""
        self._is_last = False  # the server closes the connection behind this answer

    async def open(self) -> socket.socket:
        """The open socket."""
        if self._sock is None:
            self._unread, self._is_last = b"", False
            self._sock = socket.socket()
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(self._sock, ("127.0.0.1", self._port))
        return self._sock

    def leave(self) -> None:
        """Close by a reset, which keeps no port for a minute."""
        if self._sock is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
            self._sock = None

    async def ask(self, request: Request, times: int = 1) -> bytes:
        """Send a request so many times at once, and see that each answer is right.

        Returns:
            The last one's body.

        Raises:
            WrongAnswer: it is not.
        """
        sock = await self.open()
        try:
            async with asyncio.timeout(ANSWER_S):
                with contextlib.suppress(BrokenPipeError):  # it may have been refused before it was read
                    await self._loop.sock_sendall(sock, request.data * times)
                for _ in range(times):
                    status, body = await self.answer(sock)
                    if status != request.status or not _alike(body, request.body):
                        raise WrongAnswer(f"{request.kind}: {status} {body[:200]!r}")
            if self._is_last:
                self.leave()
            return body
        except (OSError, TimeoutError) as error:
            raise WrongAnswer(f"{request.kind}: {error!r}") from None

    async def answer(self, sock: socket.socket) -> tuple[int, bytes]:
        """The next answer's status and body."""
        unread = self._unread
        while (end := unread.find(b"\r\n\r\n") + 4) == 3:
            unread += await self._more(sock)
        found = _LENGTH.search(unread, 0, end)
        if found is None:
            raise WrongAnswer(f"no length: {unread[:end]!r}")
        size = end + int(found[1])
        if len(unread) < size:
            pieces, have = [unread], len(unread)
            while have < size:
                pieces.append(await self._more(sock))
                have += len(pieces[-1])
            unread = b"".join(pieces)
        self._unread = unread[size:]
        self._is_last = unread.find(b"\r\nConnection: close\r\n", 0, end) >= 0
        return int(unread[9:12]), unread[end:size]

    async def _more(self, sock: socket.socket) -> bytes:
        piece = await self._loop.sock_recv(sock, 262_144)
        if not piece:
            raise WrongAnswer("the connection was closed before the answer")
        return piece


def _alike(body: bytes, right: bytes | None) -> bool:
    """Whether a body is right; the last digits of a number depend on which rows are computed together."""
    return right is None or body == right or _near(json.loads(body), json.loads(right))


def _near(value: Any, right: Any) -> bool:
    if isinstance(right, float) and isinstance(value, float):
        return math.isclose(value, right, rel_tol=1e-4, abs_tol=1e-6)
    if isinstance(right, dict) and isinstance(value, dict):
        return value.keys() == right.keys() and all(_near(value[key], right[key]) for key in right)
    if isinstance(right, list) and isinstance(value, list):
        return len(value) == len(right) and all(map(_near, value, right))
    return bool(value == right)


class Load:
    """Clients that ask a mix of requests.

    Args:
        port: of the server.
        mix: what they ask.
        clients: how many, each with one connection.
        pipeline: small predictions that a client sends at once, at most.
        seed: of their choices.

    Attributes:
        asked: how often, by kind.
    """

    def __init__(self, port: int, mix: Mix, clients: int = 16, pipeline: int = 16, seed: int = 1) -> None:
        self.asked: Counter[str] = Counter()
        self._usual = self._mix = mix
        self._pipeline = pipeline
        self._rng = random.Random(seed)
        self._connections = [Connection(port) for _ in range(clients)]
        self._port = port

    @property
    def count(self) -> int:
        """How many requests were asked."""
        return self.asked.total()

    async def run(self, requests: int, mix: Mix | None = None) -> None:
        """Ask about so many requests, of another mix if one is given; when it returns, all are answered.

        Raises:
            WrongAnswer: an answer is not what it must be.
        """
        self._left = requests
        self._mix = mix or self._usual
        try:
            async with asyncio.TaskGroup() as group:
                for connection in self._connections:
                    group.create_task(self._client(connection))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.leave()

    async def _client(self, connection: Connection) -> None:
        small = self._mix.small
        while self._left > 0:
            request = self._mix.choose(self._rng)
            times = 1
            if request is small:  # as many as come before another kind would
                times = 1 + self._rng.randrange(self._pipeline)
            self._left -= times
            self.asked[request.kind] += times
            if request.leaves:
                sock = await connection.open()
                await asyncio.get_running_loop().sock_sendall(sock, request.data)
                connection.leave()
            elif request.alone:
                own = Connection(self._port)
                await own.ask(request)
                own.leave()
            else:
                await connection.ask(request, times)
