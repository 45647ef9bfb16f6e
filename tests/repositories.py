"""A server whose models are loaded and unloaded while it runs, and an administrator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Response, Server, serving, wait_until
from versioned import QUICK, own

PROGRAM = Path(__file__).parent / "e2e" / "programs" / "repository.py"
TOKEN = "token-of-the-tests"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
READY, UNLOADED = ("READY", ""), ("UNAVAILABLE", "unloaded")


def order(server: Server, verb: str, name: str, body: Any = None, **headers: str) -> Response:
    """What an administrator is answered."""
    sent = {**ADMIN, **{key.replace("_", "-"): value for key, value in headers.items()}}
    path = f"/v2/repository/models/{name}/{verb}"
    return server.request("POST", path, body, headers=sent, timeout_s=120)


def ordered(server: Server, verb: str, name: str) -> None:
    """Give an order that is carried out."""
    response = order(server, verb, name)
    assert (response.status, response.json()) == (200, {"name": name, verb: True})


def index(server: Server, body: Any = None) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason of each version of each model."""
    response = server.request("POST", "/v2/repository/index", body)
    assert response.status == 200, response
    found = response.json()
    assert all(list(each) == ["name", "version", "state", "reason"] for each in found)
    return {(each["name"], each["version"]): (each["state"], each["reason"]) for each in found}


def ask(server: Server, name: str, path: str = "") -> tuple[int, Any, int]:
    """Status of a prediction, the factor or the error, and who has answered: 0 where nobody says so."""
    response = server.request("POST", f"/v1/models/{name}{path}:predict", {"instances": [[1.0]]})
    answer = response.json()
    if response.status == 200:
        return 200, answer["predictions"][0][0], answer["pid"]
    return response.status, answer["error"], 0


def everywhere(ask_once: Callable[[], Any], times: int = 20) -> set[Any]:
    """What new connections are answered, which go to all workers."""
    return {ask_once() for _ in range(times)}


def factors(server: Server, name: str) -> set[Any]:
    """What a model answers in all workers."""
    return everywhere(lambda: ask(server, name)[:2])


@dataclass
class Shelves:
    """Where the models of programs/repository.py lie."""

    base: Path

    def plain(self, name: str, factor: float, **told: Any) -> Path:
        """Write a model without versions."""
        return own(self.base / "plain" / name, factor, **told)

    def version(self, name: str, number: int, **told: Any) -> Path:
        """Write a version, whose factor is its number."""
        return own(self.base / "folders" / name / str(number), number, **told)

    def shelf(self, name: str, factor: float, **told: Any) -> Path:
        """Write a model that is loaded when it is asked for."""
        return own(self.base / "shelf" / name, factor, **told)

    @property
    def calls(self) -> list[str]:
        """What loads that do something have done, with the worker's process id."""
        calls = self.base / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    @contextlib.contextmanager
    def served(self, *flags: str, workers: int = 2, admin: bool = True) -> Iterator[Server]:
        """Run programs/repository.py until the block ends."""
        for folder in ("plain", "folders", "shelf"):
            (self.base / folder).mkdir(exist_ok=True)
        names = {"FOLDERS": "folders", "PLAIN": "plain", "SHELF": "shelf", "CALLS": "calls"}
        env = {variable: str(self.base / name) for variable, name in names.items()}
        if admin:
            env["MODELSERVER_ADMIN_TOKEN"] = TOKEN
            flags = ("--enable_admin", "true", *flags)
        command = [PROGRAM, *QUICK, "--workers", str(workers), *flags]
        with serving(command, self.base / "log", env=env) as server:
            wait_until(lambda: server.get("/v2/health/ready").status == 200, 120, "all workers ready")
            yield server
