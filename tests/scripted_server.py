"""A server that does to each connection what a test says: answers of any bytes, silence, an early end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Generator
from typing import NamedTuple

Step = bytes | Callable[[socket.socket], None]


class Request(NamedTuple):
    """What a client sent."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An answer with a length. ``Retry_After`` becomes ``Retry-After``."""
    fields = {"Content-Length": str(len(body))} | headers
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode() + body


class Scripted:
    """Takes connections one after the other, until the block ends.

    Args:
        connections: for each what is done when a request has come: bytes are sent, and a function gets the
            socket. At the end of its steps a connection is closed; the last one is read from until the client
            closes it.
        reads_bodies: else a request has come when its head has.

    Attributes:
        url: of the server.
        requests: that came.
        gone: the client has closed the last connection.
    """

    def __init__(self, *connections: list[Step], reads_bodies: bool = True) -> None:
        self._connections = connections
        self._reads_bodies = reads_bodies
        self.requests: list[Request] = []
        self.gone = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()

    def _serve(self) -> None:
        for number, steps in enumerate(self._connections):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # the block has ended
            connection.settimeout(60)
            requests = _requests(connection, number, self._reads_bodies)
            with connection, contextlib.suppress(ConnectionError), contextlib.closing(requests):
                for step, request in zip(steps, requests, strict=False):  # the client may end it before
                    self.requests.append(request)
                    if callable(step):
                        step(connection)
                    else:
                        connection.sendall(step)
                if number == len(self._connections) - 1:
                    while connection.recv(65536):
                        pass
        self.gone.set()


def _requests(connection: socket.socket, number: int, reads_bodies: bool) -> Generator[Request, None, None]:
    with connection.makefile("rb") as file:
        while line := file.readline():
            headers = {}
            while (field := file.readline()) != b"\r\n":
                name, _, value = field.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = file.read(int(headers.get("content-length", 0))) if reads_bodies else b""
            yield Request(number, line.decode().strip(), headers, body)
