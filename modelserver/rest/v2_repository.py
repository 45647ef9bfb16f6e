"""The repository's routes in V2: what is there, and an administrator's orders to load and to unload.

Rules of the room: as in ``handlers``. Who may give orders is ``access``'s business, carrying them out that of
the dataplane. The extension is Triton's, the answers to orders are KServe's.
"""

from __future__ import annotations

from typing import Any

from tornado import web

from modelserver.dataplane import DataPlane
from modelserver.errors import InvalidInput
from modelserver.protocols.v1_json import JSON_TYPE, decode_request
from modelserver.rest.access import AdminHandler
from modelserver.rest.handlers import PageHandler

MOST_BYTES = 64 * 1024
"""Of a body. What may be in it is a few words."""


class _SmallBodyHandler(PageHandler):
    """Keeps the pieces of a small body. tornado would read forms in it otherwise."""

    def initialize(self, dataplane: DataPlane) -> None:
        """Take what the route gives."""
        super().initialize(dataplane)
        self._body = bytearray()
        self._size = 0

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece, or only count it."""
        self._size += len(chunk)
        if self._size <= MOST_BYTES:
            self._body += chunk

    def told(self) -> dict[str, Any]:
        """The JSON object in the body; empty: there is none.

        tritonclient sends one without a Content-Type.

        Raises:
            HTTPError: 413 for more than ``MOST_BYTES``.
            InvalidInput: it is no JSON object.
        """
        if self._size > MOST_BYTES:
            raise web.HTTPError(413, reason=f"The body has {self._size} bytes and the limit is {MOST_BYTES}.")
        if not self._body:
            return {}
        told = decode_request(bytes(self._body), JSON_TYPE)
        assert isinstance(told, dict)
        return told


class IndexHandler(_SmallBodyHandler):
    """``POST /v2/repository/index``: the models, their versions and states. Anybody may ask."""

    def post(self) -> None:
        """All of them, or with ``{"ready": true}`` those that are ready."""
        only_ready = self.told().get("ready")
        if not (only_ready is None or isinstance(only_ready, bool)):
            raise InvalidInput('Expected "ready" to be true or false')
        self.reply([entry._asdict() for entry in self.dataplane.index(bool(only_ready))])


class LoadHandler(AdminHandler, _SmallBodyHandler):
    """``POST /v2/repository/models/NAME/load``."""

    async def post(self, name: str) -> None:
        """Load a model in all workers, or load it again; answer when they have."""
        parameters = self.told().get("parameters")
        if parameters:
            raise InvalidInput("A model is loaded as it lies there: this call takes no parameters")
        await self.dataplane.load_model(name)
        self.reply({"name": name, "load": True})


class UnloadHandler(AdminHandler, _SmallBodyHandler):
    """``POST /v2/repository/models/NAME/unload``."""

    async def post(self, name: str) -> None:
        """Unload a model in all workers; answer when they have.

        ``unload_dependents``, which Triton's clients send, means nothing: no model depends on another.
        """
        self.told()
        await self.dataplane.unload_model(name)
        self.reply({"name": name, "unload": True})
