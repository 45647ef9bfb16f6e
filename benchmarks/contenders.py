"""What a group is made of: servers with their flags, each peer at its best, and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from materials import Request
from processes import Server

SERVERS = Path(__file__).resolve().parent / "servers"
KSERVE_LOG = SERVERS / "kserve_log.json"
MOSEC_PATH = "/inference"
LITSERVE_PATH = "/predict"


@dataclass(frozen=True)
class Contender:
    """A column: a server, and the request it is asked. `workers` is how many processes must answer."""

    name: str
    server: Server
    request: Request
    workers: int = 1


@dataclass(frozen=True)
class Group:
    """Rows that are measured together, alternating between the contenders.

    `kind` is what is measured: `load` under load, `start` until the first right answer, `memory` after load,
    `growth` of memory by one request.
    The contenders' answers must be equal if `same_answer`.
    """

    title: str
    contenders: tuple[Contender, ...]
    clients: tuple[int, ...] = (1,)
    kind: Literal["load", "start", "memory", "growth"] = "load"
    same_answer: bool = True


def ours(*arguments: object, **environment: object) -> Server:
    """Our server: `python -m modelserver` with a packaged model, or a script."""
    flags = ("--http_port", "{port}", "--host", "127.0.0.1")
    return Server("modelserver", (*map(str, arguments), *flags), environment_of(environment))


def tensors_v2(peer: str, *flags: object) -> Server:
    """The program with the V2 models, for `modelserver` or `kserve` (without its logs), and with gRPC."""
    arguments = [SERVERS / "tensors_v2.py", "--http_port", "{port}", "--grpc_port", "{grpc_port}", *flags]
    if peer == "modelserver":
        arguments += ["--host", "127.0.0.1", "--enable_grpc", "true"]
    else:
        arguments += ["--enable_latency_logging", "false", "--log_config_file", KSERVE_LOG]
    return Server(peer, tuple(map(str, arguments)), environment_of({"library": peer}))


def packaged(path: Path, *flags: object, **environment: object) -> Server:
    """Our server with a packaged model."""
    return ours("-m", "modelserver", f"model={path}", *flags, **environment)


def kserve(script: str, *flags: object, **environment: object) -> Server:
    """KServe at its best: uvloop (its default), no gRPC server, no access log, no latency log."""
    arguments = (SERVERS / script, "--http_port", "{port}", "--enable_grpc", "false",
                 "--enable_latency_logging", "false", "--log_config_file", KSERVE_LOG, *flags)  # fmt: skip
    return Server("kserve", tuple(map(str, arguments)), environment_of(environment))


def kserve_logging(script: str, *flags: object, **environment: object) -> Server:
    """KServe as it is without settings: it writes four lines for each request (ours writes one)."""
    arguments = (SERVERS / script, "--http_port", "{port}", "--enable_grpc", "false", *flags)
    return Server("kserve", tuple(map(str, arguments)), environment_of(environment))


def mosec(script: str, **environment: object) -> Server:
    """mosec, which logs no requests."""
    arguments = (str(SERVERS / script), "--address", "127.0.0.1", "--port", "{port}",
                 "--log-level", "warning")  # fmt: skip
    return Server("mosec", arguments, environment_of(environment))


def litserve(script: str, **environment: object) -> Server:
    """LitServe with its fast queue, without an access log."""
    return Server("litserve", (str(SERVERS / script), "{port}"), environment_of(environment))


def environment_of(values: dict[str, object]) -> tuple[tuple[str, str], ...]:
    """What the scripts in `servers/` read: BENCH_FOLDER, BENCH_BATCH, BENCH_WORKERS."""
    return tuple((f"BENCH_{name.upper()}", str(value)) for name, value in values.items())
