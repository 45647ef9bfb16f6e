"""A client of V2's gRPC service that leaves nothing out and adds nothing: our messages on gRPC's own channel.

The real clients are in ``tests/clients``. ``grpc`` runs in the process of the tests; servers are programs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from modelserver.protocols import v2_messages

SERVICE = "inference.GRPCInferenceService"
TIMEOUT_S = 60.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Refused(Exception):
    """A call that did not end with OK."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(error.code().name, error.details())
        self.code: str = error.code().name
        self.details: str = error.details()


class Client:
    """Calls over one channel.

    Attributes:
        trailing: the metadata behind the last answer.
    """

    def __init__(self, port: int, certificate: bytes | None = None, name: str = "") -> None:
        options = [*UNLIMITED, ("name", name)]  # channels with equal options share a connection
        if certificate is None:
            self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        else:
            self.channel = grpc.secure_channel(
                f"localhost:{port}", grpc.ssl_channel_credentials(certificate), options
            )
        self.trailing: dict[str, Any] = {}

    def start(self, method: str, request: Any = None, **how: Any) -> Any:
        """A call that goes on: a future of the answer. ``how`` is gRPC's: ``timeout``, ``metadata``."""
        kind, answer = (getattr(v2_messages, f"{method}{part}") for part in ("Request", "Response"))
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", kind.SerializeToString, answer.FromString)
        return call.future(kind() if request is None else request, **{"timeout": TIMEOUT_S, **how})

    def __call__(self, method: str, request: Any = None, **how: Any) -> Any:
        """The answer.

        Raises:
            Refused: it did not end with OK.
        """
        call = self.start(method, request, **how)
        try:
            return call.result()
        except grpc.RpcError as error:
            raise Refused(error) from None
        finally:
            self.trailing = dict(call.trailing_metadata())

    def infer(self, name: str, *arrays: Any, **how: Any) -> Any:
        """Ask a model about raw tensors, ``x0``, ``x1`` and so on."""
        return self("ModelInfer", request(name, {f"x{n}": array for n, array in enumerate(arrays)}), **how)

    def close(self) -> None:
        self.channel.close()


@contextmanager
def connected(port: int, certificate: bytes | None = None, name: str = "") -> Any:
    """A client until the block ends."""
    client = Client(port, certificate, name)
    try:
        yield client
    finally:
        client.close()


def request(name: str, arrays: Mapping[str, np.ndarray], outputs: Sequence[str] = (), **fields: Any) -> Any:
    """A ``ModelInferRequest`` of raw FP32 tensors."""
    message = v2_messages.ModelInferRequest(model_name=name, **fields)
    for key, array in arrays.items():
        message.inputs.add(name=key, datatype="FP32", shape=np.shape(array))
        message.raw_input_contents.append(np.asarray(array, "<f4").tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    return message


def parameters(message: Any) -> dict[str, Any]:
    """Of an answer, by name."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in message.parameters.items()
    }


def until_gone(port: int, model: str, array: Any, threads: int = 4) -> tuple[threading.Event, list[str], Any]:
    """Calls without a pause on some threads, each on a connection of its own, until one fails.

    Returns:
        An event: many have been answered; the codes, as they come; and what waits for the end.
    """
    codes: list[str] = []
    many = threading.Event()

    def ask(number: int) -> None:
        with connected(port, name=str(number)) as client:
            while True:
                try:
                    client.infer(model, array)
                except Refused as error:
                    codes.append(f"{error.code}: {error.details}")
                    return
                codes.append("OK")
                if len(codes) > 20 * threads:
                    many.set()

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()

    def join() -> None:
        for worker in workers:
            worker.join(TIMEOUT_S)
            assert not worker.is_alive()

    return many, codes, join
