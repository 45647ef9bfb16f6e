"""Pages that fail in the middle of their answer: it ends so that the client sees that it is not whole.

tornado's ``send_error`` finishes what has begun, and a finished answer looks whole: half a file is saved as a
file. The server's own connection can end it without the last chunk.

Rules of the room: handlers of whatever kind, none of the server's own pages.
"""

from __future__ import annotations

from functools import lru_cache
from http.client import responses
from typing import Any

from tornado import web


@lru_cache(maxsize=256)
def breaking(handler_class: type[web.RequestHandler]) -> type[web.RequestHandler]:
    """A handler like ``handler_class``, of its name, whose answers break off where it fails in the middle."""

    def send_error(self: web.RequestHandler, status_code: int = 500, **kwargs: Any) -> None:
        connection = self.request.connection
        break_off = getattr(connection, "break_off", None)  # only the server's own connection has it
        if break_off is not None and connection.has_begun:  # type: ignore[union-attr]  # and so has this
            self.set_status(status_code, responses.get(status_code, "Unknown"))  # for the access log
            break_off()
        handler_class.send_error(self, status_code, **kwargs)

    members = {
        "send_error": send_error,
        "__module__": handler_class.__module__,
        "__doc__": handler_class.__doc__,
    }
    return type(handler_class.__name__, (handler_class,), members)
