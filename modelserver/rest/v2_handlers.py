"""The cold routes of the Open Inference Protocol (V2): small ``RequestHandler`` classes.

Rules of the room: as in ``handlers``. ``/infer`` is in ``inference``; every URL is in ``routes``.
"""

from __future__ import annotations

from modelserver.protocols.v1_json import encode_response
from modelserver.rest.answers import Answer
from modelserver.rest.handlers import PageHandler, asked_version
from modelserver.v2_metadata import model_metadata, server_metadata


class ServerMetadataHandler(PageHandler):
    """``GET /v2``: who answers, and which extensions of the protocol there are."""

    def get(self) -> None:
        """Name, version, extensions."""
        is_managed = getattr(self.application, "admin_guard", None) is not None
        self.reply(server_metadata(is_managed=is_managed)._asdict())


class ServerLiveHandler(PageHandler):
    """``GET /v2/health/live``: the process answers."""

    def get(self) -> None:
        """200 as long as the event loop turns."""
        self.reply({"live": True})


class ServerReadyHandler(PageHandler):
    """``GET /v2/health/ready``: 200 when every model is ready in every worker, else 503."""

    async def get(self) -> None:
        """Readiness of the whole server."""
        await self.dataplane.check_ready()
        self.reply({"ready": True})


class ModelReadyHandler(PageHandler):
    """``GET /v2/models/NAME[/VERSION]/ready``: 200 when the model can take requests, else 503 or 404."""

    async def get(self, name: str, kind: str | None = None, wanted: str | None = None) -> None:
        """Readiness of one model, or of one version of it."""
        await self.dataplane.check_model_ready(name, asked_version(kind, wanted))
        self.reply({"name": name, "ready": True})


class ModelMetadataHandler(PageHandler):
    """``GET /v2/models/NAME[/VERSION]``: what a model takes and gives."""

    async def get(self, name: str, kind: str | None = None, wanted: str | None = None) -> None:
        """Versions, platform, inputs and outputs."""
        metadata = await model_metadata(self.dataplane, name, asked_version(kind, wanted))
        self.send(Answer(200, *encode_response(metadata._asdict())))  # numpy's numbers may be in a shape
