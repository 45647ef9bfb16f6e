"""Files that may be replaced while the server runs: certificates, keys.

Rules of the room: it only tells whether files are others than they were; who asks decides what to do.
"""

from __future__ import annotations

import os


class FileWatch:
    """Tells whether any of some files has changed since the last look.

    A link that points elsewhere is a change, which is how Kubernetes replaces a mounted Secret.

    Args:
        paths: of the files; they need not exist.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file is another than at the last call; a file that has gone is another, too."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> list[tuple[int, ...] | None]:
        return [_identity(path) for path in self._paths]


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - 2 us a second
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
