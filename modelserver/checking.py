"""``modelserver check``: load a model, let it answer, and report, as a server would but without one.

Rules of the room: calls a model and says what it saw; prints through the function it is given.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from modelserver import streams
from modelserver.errors import InferenceError, InvalidInput, ModelLoadError, NoModelReady
from modelserver.model import Model
from modelserver.protocols import stream_items
from modelserver.protocols.v1_rules import CODECS
from modelserver.signatures import inputs_and_outputs

_MOST_CALLS, _MOST_SECONDS = 200, 2.0
_SHOWN = 500


def check(model: Model, request: Path | None, say: Callable[[str], Any]) -> None:
    """Load ``model`` and let it answer ``request``, or an example of its own.

    Raises:
        ModelLoadError: it cannot be loaded.
        InvalidInput: the request is wrong, or none was given and the model has no example.
        InferenceError: the model fails on the request; the text names the exception.
    """
    asyncio.run(_check(model, request, say))


async def _check(model: Model, request: Path | None, say: Callable[[str], Any]) -> None:
    before = _resident_bytes()
    started = time.perf_counter()
    if not await model.run_load():
        raise NoModelReady([model.name])
    say(f"loaded in {time.perf_counter() - started:.2f} s, {_mib(_resident_bytes() - before)} more resident")
    for label, types in zip(("input", "output"), await inputs_and_outputs(model), strict=True):
        for item in types:
            say(f"{label} {item['name']}: {item['datatype']} {list(item['shape'])}")
    body = _body(model, request)
    payload = CODECS[model.json_rules].decode_request(body, "application/json")
    try:
        encoded, first_ms, calls_ms = await _timed(model, payload)
    except (InvalidInput, InferenceError, ModelLoadError):
        raise
    except Exception as error:
        raise InferenceError(f"predict failed: {type(error).__name__} : {error}") from error
    say(f"request {_cut(body)}")
    say(f"answer  {_cut(encoded)}")
    say(
        f"first call {first_ms:.2f} ms, then {statistics.median(calls_ms):.2f} ms median, "
        f"{max(calls_ms):.2f} ms slowest of {len(calls_ms)}"
    )
    await model.run_hook(model.stop)


def _body(model: Model, request: Path | None) -> bytes:
    if request is not None:
        try:
            return request.read_bytes()
        except OSError as error:
            raise InvalidInput(f"--input {request}: {error.strerror}") from None
    example = model.example_request()
    if example is None:
        raise InvalidInput(
            "The model is loaded, but what it takes cannot be told from it: give a request with --input."
        )
    return orjson.dumps(example, option=orjson.OPT_SERIALIZE_NUMPY)


async def _timed(model: Model, payload: Any) -> tuple[bytes, float, list[float]]:
    times: list[float] = []
    encoded = b""
    deadline = time.perf_counter() + _MOST_SECONDS
    while len(times) <= 1 or (len(times) <= _MOST_CALLS and time.perf_counter() < deadline):
        started = time.perf_counter()
        encoded = await _answered(model, payload)
        times.append((time.perf_counter() - started) * 1000)
    return encoded, times[0], times[1:]


async def _answered(model: Model, payload: Any) -> bytes:
    """The answer; of one that comes piece by piece, what comes in some time."""
    encode = CODECS[model.json_rules].encode_response
    answer = await model(payload)
    if not streams.is_stream(answer):
        body: bytes = encode(answer)[0]
        return body
    pieces = []
    deadline = time.perf_counter() + _MOST_SECONDS
    items = aiter(model.stream_items(answer))
    async for item in items:
        pieces.append(stream_items.as_piece(*encode(item)))
        if time.perf_counter() > deadline:
            break
    await streams.close(items)
    return b"".join(pieces)


def _resident_bytes() -> int:
    """Peak resident memory of this process (``ru_maxrss`` is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"


def _cut(text: bytes) -> str:
    shown = text[:_SHOWN].decode("utf-8", "replace")
    return shown + (f"... ({len(text)} bytes)" if len(text) > _SHOWN else "")
