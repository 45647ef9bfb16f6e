"""Which versions of a model could not be loaded, and when it is worth trying them again.

Rules of the room: notes of one process, by number and files. What a worker died of is in ``fatal_loads``.
"""

from __future__ import annotations

import time
from collections.abc import Set
from typing import NamedTuple

from modelserver.repository.version_files import Files


class _Failure(NamedTuple):
    files: Files
    again_at: float
    tries: int


class Failures:
    """The versions of one model that could not be loaded."""

    def __init__(self) -> None:
        self._failures: dict[int, _Failure] = {}

    @property
    def numbers(self) -> Set[int]:
        """Of these versions."""
        return self._failures.keys()

    def add(self, number: int, files: Files, retry_s: float, tries: int = 0) -> None:
        """A version could not be loaded.

        Args:
            number: of the version.
            files: of its folder when that began: what has changed since is worth a try at once.
            retry_s: seconds after which to try again.
            tries: how often it was tried; default: once more than is known here.
        """
        before = self._failures.get(number)
        known = before.tries if before is not None and before.files == files else 0
        self._failures[number] = _Failure(files, time.monotonic() + retry_s, tries or known + 1)

    def has_given_up(self, number: int, files: Files, retries: int) -> bool:
        """Whether a version is not to be tried now.

        Args:
            number: of the version.
            files: of its folder now.
            retries: how often it is to be tried again.
        """
        failure = self._failures.get(number)
        if failure is None or failure.files != files:
            return False
        return failure.tries > retries or time.monotonic() < failure.again_at

    def forget(self, number: int) -> None:
        """A version is loaded."""
        self._failures.pop(number, None)

    def clear(self) -> None:
        """Try all of them again."""
        self._failures.clear()
