"""The three log streams, and the one place that may set logging up.

- ``modelserver.access``: one line for each request.
- ``modelserver.server``: the life of the server: listening, loading, workers, draining.
- ``modelserver.model``: failures of models, with their tracebacks.

Rules of the room: the library only writes to these loggers. ``configure`` is called when a server *starts*,
never at import, and leaves a program that has set up logging of its own alone.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_access = logging.getLogger("modelserver.access")
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def configure() -> None:
    """Send ``modelserver`` logs of INFO and up to standard error, unless somebody already handles them."""
    logger = logging.getLogger("modelserver")
    if logging.getLogger().handlers or logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def access(connection: Any, method: str, uri: str, status: int, elapsed_s: float) -> None:
    """Write the line of one request. ``uri`` is the client's text and is escaped."""
    if _access.isEnabledFor(logging.INFO):
        remote = getattr(getattr(connection, "context", None), "remote_ip", "-")
        _access.info("%s %s %s %d %.2fms", remote, method, ascii(uri)[1:-1], status, elapsed_s * 1000)
