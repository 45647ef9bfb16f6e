"""Clients that ask without a break, while something happens to the server."""

from __future__ import annotations

import threading
from typing import Any

from harness import Server


class Clients:
    """So many threads that ask, until the block ends. A subclass says how, and looks at ``stop``.

    Attributes:
        wrong: answers that were not right, in whatever form helps.
        right: how many were.
    """

    def __init__(self, server: Server, count: int) -> None:
        self.server = server
        self.wrong: list[Any] = []
        self.right = 0
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def ask(self, number: int) -> None:
        """Ask until ``stop`` is set."""
        raise NotImplementedError
