"""Raw results on disk: one JSON file, a part for each group with the date it was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from contenders import Group
from measure import Row


@dataclass(frozen=True)
class Part:
    """A measured group."""

    name: str
    title: str
    date: str
    seconds: float
    rounds: int
    load: str
    rows: list[Row]
    busy: float | None = None
    """The machine's load average before: what other programs used. `None`: it was not noted."""

    def find(self, contender: str, clients: int) -> Row | None:
        """A row that has figures."""
        for row in self.rows:
            if row.contender == contender and row.clients == clients and row.figures:
                return row
        return None


class Results:
    """The file. A group that is measured again replaces its part and leaves the others."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._content: dict[str, Any] = {"machine": {}, "versions": {}, "parts": {}}
        if file.exists():
            self._content = json.loads(file.read_text())

    @property
    def machine(self) -> dict[str, str]:
        """What the latest part was measured on."""
        machine: dict[str, str] = self._content["machine"]
        return machine

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """Package versions by peer."""
        versions: dict[str, dict[str, str]] = self._content["versions"]
        return versions

    def parts(self, order: list[str]) -> list[Part]:
        """The measured groups, in this order."""
        known = self._content["parts"]
        return [
            Part(**{**known[name], "name": name, "rows": [Row(**row) for row in known[name]["rows"]]})
            for name in order
            if name in known
        ]

    def add(
        self,
        name: str,
        group: Group,
        rows: list[Row],
        *,
        seconds: float,
        rounds: int,
        load: str,
        versions: dict[str, dict[str, str]],
        busy: float,
    ) -> None:
        """Put a measured group in, and save."""
        self._content["machine"] = machine()
        self._content["versions"].update(versions)
        self._content["parts"][name] = {
            "title": group.title,
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "seconds": seconds,
            "rounds": rounds,
            "load": load,
            "busy": busy,
            "rows": [asdict(row) for row in rows],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self._content, indent=1) + "\n")


def our_version() -> str:
    """The version of this project, and the commit where there is one."""
    version = metadata.version("modelserver")
    try:
        commit, status = _git("rev-parse", "--short", "HEAD"), _git("status", "--short", "-uno")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return version
    return f"{version}, commit {commit}{' with changes' if status else ''}"


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, str]:
    """This machine, in words."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "modelserver": our_version(),
        "CPU": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
    }
