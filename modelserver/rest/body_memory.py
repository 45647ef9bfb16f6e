"""How many bytes the bodies of all requests may hold in one worker, until they are answered.

``--max_buffer_size`` bounds one body; a thousand clients that send one each would still fill any memory. What
is counted is what has come, not what was announced: a client that announces much and sends nothing takes no
room from others. A request that is there in whole with its head is not counted. It is no larger than one read
(256 KiB), and there are no more of them than connections, or than ``--max_queue_size`` lets wait.

Rules of the room: sizes and requests; no reading and no answers.
"""

from __future__ import annotations

from modelserver.errors import ServerOverloaded


class BodyMemory:
    """The count of one worker.

    Args:
        most: bytes that may be held.

    Attributes:
        held: bytes that are.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most
        self._by_request: dict[object, int] = {}

    def check(self, size: int) -> None:
        """Return if there is room for ``size`` more bytes.

        Raises:
            ServerOverloaded: there is none.
        """
        if self.held + size > self._most:
            raise ServerOverloaded(self.held, self._most)

    def hold(self, request: object, size: int) -> None:
        """Count ``size`` more bytes of a request.

        Raises:
            ServerOverloaded: there is no room for them; they are not counted.
        """
        self.check(size)
        self.held += size
        self._by_request[request] = self._by_request.get(request, 0) + size

    def give_back(self, request: object) -> None:
        """A request is over, in whatever way; to say so again does nothing."""
        self.held -= self._by_request.pop(request, 0)
