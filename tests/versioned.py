"""Models in folders of versions, and clients that ask them without a break.

Every model multiplies one number by a factor, so an answer tells which version it comes from.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from clients import Clients
from harness import Server, wait_until

QUICK = ("--file_system_poll_wait_seconds", "0.1")
"""Flags of a server that looks ten times a second."""

MODEL_PY = """
import torch


class Scale(torch.nn.Module):
    batchable = True

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1, bias=False)

    def forward(self, rows):
        return self.linear(rows)
"""

HEAVY_PY = """
import torch


class Heavy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1, bias=False)
        self.register_buffer("ballast", torch.zeros(15_000_000))

    def forward(self, rows):
        return self.linear(rows) + self.ballast[0]
"""

_unique = itertools.count()


def pytorch(folder: Path, factor: float) -> Path:
    """Write model.py and its weights."""
    import torch

    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL_PY)
    torch.save({"linear.weight": torch.tensor([[float(factor)]])}, folder / "model.pt")
    return folder


def tensorflow(folder: Path, factor: float, megabytes: int = 0) -> Path:
    """Write a SavedModel; with so much ballast that it needs."""
    import tensorflow as tf

    module = tf.Module()
    module.factor = tf.Variable(float(factor))
    module.ballast = tf.Variable(tf.fill([megabytes * 250_000 + 1], float(factor)))

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])
    def scale(x: Any) -> Any:
        return {"y": x * module.factor + (module.ballast[0] - module.factor)}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": scale})
    return folder


def own(folder: Path, factor: float, **told: Any) -> Path:
    """Write a version for programs/versions.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"factor": factor, **told}))
    return folder


def heavy(kind: str, folder: Path, factor: float) -> Path:
    """Write a model of 60 MB."""
    if kind == "tensorflow":
        return tensorflow(folder, factor, megabytes=60)
    import torch

    folder.mkdir()
    (folder / "model.py").write_text(HEAVY_PY)
    torch.save(
        {"linear.weight": torch.tensor([[float(factor)]]), "ballast": torch.zeros(15_000_000)},
        folder / "model.pt",
    )
    return folder


MAKE = {"pytorch": pytorch, "tensorflow": tensorflow}


@functools.cache
def made(kind: str, factor: float, where: Path) -> Path:
    """A model of that kind, made once."""
    return MAKE[kind](where / f"{kind}-{factor:g}", factor)


def put(model: Path, base: Path, version: int | str) -> Path:
    """Let a copy of a model appear as a version, by one rename, as it should be done."""
    hidden = base.parent / f"incoming-{next(_unique)}"
    shutil.copytree(model, hidden)
    base.mkdir(parents=True, exist_ok=True)
    return hidden.rename(base / str(version))


def put_own(base: Path, version: int, **told: Any) -> Path:
    """Let a version for programs/versions.py appear whose factor is its number."""
    return put(own(base.parents[1] / f"own-{next(_unique)}", version, **told), base, version)


def put_slowly(
    model: Path, base: Path, version: int | str, pause_s: float, condition: Callable[[], bool]
) -> Path:
    """Copy a model into place file by file, each in two halves; between any two, a condition must hold."""
    target = base / str(version)
    for source in sorted(model.rglob("*")):
        destination = target / source.relative_to(model)
        if source.is_dir():
            destination.mkdir(parents=True)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        data = source.read_bytes()
        with destination.open("wb", buffering=0) as file:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                assert condition()
                time.sleep(pause_s)  # the slowness is what is tested
                assert condition()
                file.write(half)
    return target


def take_away(base: Path, version: int | str) -> Path:
    """Remove a version by one rename."""
    return (base / str(version)).rename(base.parent / f"gone-{next(_unique)}")


def states(server: Server, name: str) -> dict[int, str]:
    """The states of the versions of a model."""
    response = server.get(f"/v1/models/{name}")
    found = response.json().get("model_version_status", [])
    return {int(each["version"]): each["state"] for each in found}


def wait_for(server: Server, name: str, timeout_s: float = 60.0, **wanted: str) -> None:
    """Wait until versions are in these states: ``wait_for(server, "iris", v2="AVAILABLE")``."""
    by_number = {int(version[1:]): state for version, state in wanted.items()}
    seen: list[dict[int, str]] = []

    def reached() -> bool:
        seen[:] = [states(server, name)]
        return by_number.items() <= seen[0].items()

    try:
        wait_until(reached, timeout_s, f"{name}: {by_number}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {seen}\n{server.text()[-4000:]}") from None


def answer(server: Server, name: str, path: str = "", **kwargs: Any) -> float:
    """What a model answers on a connection of its own: its factor."""
    response = server.request("POST", f"/v1/models/{name}{path}:predict", {"instances": [[1.0]]}, **kwargs)
    assert response.status == 200, (response.status, response.body)
    return float(response.json()["predictions"][0][0])


def use(pid: int) -> tuple[int, int, int]:
    """Resident megabytes, threads and descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) // 1024, int(fields["Threads"]), descriptors


def ready(server: Server, workers: int = 2) -> None:
    """Wait until so many workers have said that they are ready, those that are gone among them."""
    wait_until(lambda: server.text().count("is ready") >= workers, 60, f"{workers} workers ready")


def killed(server: Server, pid: int) -> None:
    """Kill a worker; return when another one is ready in its place."""
    so_far = server.text().count("is ready")
    os.kill(pid, signal.SIGKILL)
    ready(server, so_far + 1)


class Steady(Clients):
    """Clients with a connection each, that ask one model again and again; no request may be lost.

    Attributes:
        heard: of each client, the answers, each with how often it came in a row: ``[[1.0, 310], [2.0, 47]]``.
        seconds: of each answer, with when it came.
    """

    def __init__(self, server: Server, name: str, allowed: Collection[float], count: int = 4) -> None:
        super().__init__(server, count)
        self.heard: list[list[list[float]]] = [[] for _ in range(count)]
        self.seconds: list[tuple[float, float]] = []
        self._allowed = allowed
        self._target = f"/v1/models/{name}:predict"
        self._lock = threading.Lock()

    def ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        heard = self.heard[number]
        while not self.stop.is_set():
            begun = time.perf_counter()
            try:
                connection.request("POST", self._target, b'{"instances": [[1.0]]}')
                response = connection.getresponse()
                body = response.read()
                value = json.loads(body)["predictions"][0][0] if response.status == 200 else None
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.wrong.append(repr(error))
                connection.close()
                continue
            ended = time.perf_counter()
            if value not in self._allowed:
                self.wrong.append((response.status, body))
                continue
            if not heard or heard[-1][0] != value:
                heard.append([value, 0])
            heard[-1][1] += 1
            with self._lock:
                self.right += 1
                self.seconds.append((ended, ended - begun))
        connection.close()

    def wait_for(self, value: float, more: int = 20, timeout_s: float = 60.0) -> None:
        """Wait until every client gets this answer, and so many of them."""
        wait_until(
            lambda: all(heard and heard[-1][0] == value and heard[-1][1] >= more for heard in self.heard),
            timeout_s,
            f"answer {value:g} for every client",
        )

    def wait_for_more(self, more: int = 100, timeout_s: float = 60.0) -> None:
        """Wait for so many further answers."""
        enough = self.right + more
        wait_until(lambda: self.right >= enough, timeout_s, f"{more} more answers")

    def check(self, *values: float) -> None:
        """No request was lost, and each client got the answers in this order, never an earlier one again."""
        assert self.wrong == []
        order: Sequence[Sequence[float]] = [[value for value, _ in heard] for heard in self.heard]
        assert all(each == list(values) for each in order), order
