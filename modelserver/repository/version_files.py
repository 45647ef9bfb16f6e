"""What lies in the folders of versions, as far as it can be seen without reading it.

Rules of the room: names, sizes and times of files, on whatever thread; nothing of a model is known here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from modelserver.repository.versions import ModelFolder

_MOST_FILES = 10_000

Files = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of every file in a folder."""


def look_at(folder: ModelFolder, known: Collection[int]) -> tuple[dict[int, Path], dict[int, Files]]:
    """The versions in a folder that hold a model, and the files of those that are not known.

    Raises:
        OSError: the folder cannot be read.
    """
    found = {number: path for number, path in folder.found().items() if folder.holds_model(path)}
    return found, {number: files_in(path) for number, path in found.items() if number not in known}


def files_in(folder: Path) -> Files:
    """What lies in a folder, as far as it can be seen: another answer means that somebody writes into it."""
    found: list[tuple[str, int, int]] = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)  # noqa: PTH118 - a Path for each of many files takes long
            with contextlib.suppress(OSError):  # it has just gone
                stat = os.stat(path)  # noqa: PTH116
                found.append((path, stat.st_size, stat.st_mtime_ns))
        if len(found) > _MOST_FILES:
            break
    return tuple(sorted(found))
