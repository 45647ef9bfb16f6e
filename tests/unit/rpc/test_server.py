"""The port that is reserved, and what is missing. A running server: `tests/e2e/test_tfs_grpc.py`."""

import asyncio
import importlib.util
import socket
import time

import pytest
from harness import run

from modelserver.errors import StartError
from modelserver.rpc import server


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost"])
def test_a_reserved_port_can_be_shared_but_not_taken(host):
    with server.reserve(host, 0) as reserved:
        family, address, port = reserved.family, reserved.getsockname()[0], reserved.getsockname()[1]
        with pytest.raises(StartError, match=r"Cannot listen on port \d+.* for gRPC: Address already in use"):
            server.reserve(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind((address, port))
            worker.listen()
            with socket.create_connection((host or "localhost", port), 10):
                accepted, _ = worker.accept()
                accepted.close()
            with pytest.raises(StartError, match="Address already in use"):
                server.reserve(host, port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(StartError, match=r"Cannot listen on port 0 on 192.0.2.1 for gRPC"):
        server.reserve("192.0.2.1", 0)


def test_without_grpc_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r'pip install "modelserver\[grpc\]"'):
        server.reserve("", 0)


def test_without_protocol_buffers_the_extra_is_named():
    program = "import sys; sys.modules['google'] = None; import modelserver.protocols.protobuf"
    done = run(["-c", program])
    assert 'pip install "modelserver[grpc]"' in done.stderr


def test_reserving_does_not_load_grpc():
    """A process that forks must not have it."""
    program = (
        "import sys; from modelserver.rpc.server import GrpcServer, reserve; reserve('', 0).close(); "
        "print('grpc' in sys.modules)"
    )
    assert run(["-c", program]).stdout == "False\n"


class Stopped:
    """In the place of gRPC's server, and of its calls."""

    def __init__(self):
        self.grace = []
        self.at = None
        self.happened = []

    async def stop(self, grace):
        self.at = time.monotonic()
        self.grace.append(grace)
        self.happened.append("stop")

    def hold_answers(self):
        self.happened.append("hold")

    def release_answers(self):
        self.happened.append("release")


def test_a_draining_server_lingers_before_it_refuses():
    async def drain():
        drained = server.GrpcServer(None, 1)
        drained._server = drained._calls = stopped
        await drained.drain(10.0, linger_s=0.05)
        await drained.close()  # which has nothing to do then

    stopped, began = Stopped(), time.monotonic()
    asyncio.run(drain())
    assert stopped.at - began >= 0.05
    assert stopped.grace == [9.95]
    assert stopped.happened == ["hold", "stop", "release"]


def test_a_server_that_never_started_ends_at_once():
    async def end():
        unused = server.GrpcServer(None, 1)
        await unused.drain(10.0, linger_s=10.0)
        await unused.close()

    began = time.monotonic()
    asyncio.run(end())
    assert time.monotonic() - began < 5
