"""Which models and versions a worker was loading when it died.

A load that raises is one thing; one that takes the process along (a crash in C++, too little memory) leaves
nobody behind to tell. So each worker notes on the model board what it begins to load, and takes the note back
when that has ended in any way. What the next worker of that number finds there, the last one died of, or
with. It serves something else first, and tries that version again as it does with one that raised.

Rules of the room: notes; what follows from them is the business of ``version_loading`` and
``administering``. Without a board there is nobody to come after, and nothing is noted.
"""

from __future__ import annotations

import hashlib

import orjson

from modelserver.model_board import ModelBoard


class FatalLoads:
    """The notes of one worker.

    Args:
        board: where they are; none where there is one process.
        number: of this worker.

    Attributes:
        has_predecessor: a worker of this number was there before: this is no server's start.
    """

    def __init__(self, board: ModelBoard | None, number: int) -> None:
        self._board = board
        self._number = number
        self._notes: dict[str, dict[str, tuple[str, int]]] = {}
        noted = b"" if board is None else board.noted(number)
        self.has_predecessor = bool(noted)
        if noted:
            self._notes = orjson.loads(noted)
        self._write()

    def deaths(self, name: str, version: int, files: tuple[object, ...]) -> int:
        """How many workers in a row died while they loaded a version whose files were these."""
        digest, deaths = self._notes.get(name, {}).get(str(version), ("", 0))
        return deaths if digest == _digest(files) else 0

    def begins(self, name: str, version: int, files: tuple[object, ...]) -> None:
        """A load begins: it may be the last thing that this worker does."""
        deaths = self.deaths(name, version, files) + 1
        self._notes.setdefault(name, {})[str(version)] = (_digest(files), deaths)
        self._write()

    def ended(self, name: str, version: int) -> None:
        """It has ended, well or with an error: the worker lives."""
        self._notes.get(name, {}).pop(str(version), None)
        self._write()

    def _write(self) -> None:
        if self._board is not None:
            self._board.note(self._number, orjson.dumps(self._notes))


def _digest(files: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
