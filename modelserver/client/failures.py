"""What a client's call raises, beside ``InvalidInput`` for what cannot be sent.

    ClientError                 500  root; also a ModelServerError
    +-- CallFailed                   the server answered with an error, whose status this is
    +-- CallTimeout             504  no answer in time; also a TimeoutError
    +-- ServerUnreachable       502  no connection, or it broke; also a ConnectionError
    +-- UnreadableAnswer        502  the answer is not what the protocol says

A model that asks another server may let them pass: its own client then gets ``status`` and ``reason``.
``str(error)`` also says which URL was asked, ``reason`` does not.
"""

from __future__ import annotations

from modelserver.errors import ModelServerError


class ClientError(ModelServerError):
    """Root of what a client's call raises.

    Args:
        url: what was asked.
        reason: what went wrong.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self._reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, vars(self))  # it may go from one process to another

    @property
    def reason(self) -> str:
        """What went wrong, without the URL. Of ``CallFailed``: the server's words."""
        return self._reason


class CallFailed(ClientError):
    """The server answered with an error.

    Args:
        url: what was asked.
        status: of the answer. For gRPC, the HTTP status that means the same.
        reason: the server's words.
        retry_after_s: after which it says that it is worth trying again; 0: it does not say.
    """

    def __init__(self, url: str, status: int, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(url, reason)
        self.args = (f"{url} answered {status}: {reason}",)
        self.status = status
        self.retry_after_s = round(retry_after_s)


class CallTimeout(ClientError, TimeoutError):
    """There was no answer within the timeout, tries after the first included."""

    status = 504

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, f"no answer within {timeout_s:g} s")


class ServerUnreachable(ClientError, ConnectionError):
    """No connection could be made, or it ended before the answer had come in whole."""

    status = 502


class UnreadableAnswer(ClientError):
    """The answer is not what the protocol says."""

    status = 502


def _again(kind: type[ClientError], args: tuple[object, ...], attributes: dict[str, object]) -> ClientError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error
