"""An answer that must be there in whole: the calls here have one message each way.

Rules of the room: knows streams, and no message.
"""

from __future__ import annotations

from typing import Any

from modelserver import streams
from modelserver.errors import HookNotImplemented
from modelserver.model import Model


async def whole(answer: Any, model: Model) -> Any:
    """The answer of a model's hooks, if it is no stream. A stream is closed.

    Raises:
        HookNotImplemented: it comes piece by piece.
    """
    if not streams.is_stream(answer):
        return answer
    await streams.close(model.stream_items(answer))
    raise HookNotImplemented("The model answers piece by piece, which this call cannot: ask it by REST")
