"""V1 bodies that are no JSON: a picture, or rows of numbers as they lie in memory.

What a body of bytes is depends on what the model says of its input. With a datatype of BYTES it is one row:
a model that decodes JPEGs gets the file. With numbers it is rows of that datatype, little-endian and in row
order, as many as its length holds. A body that reads as a JSON request is one, as TensorFlow Serving has it,
whatever its Content-Type says.

Rules of the room: bytes in, what ``preprocess`` gets out; no model, no I/O. ``.npy`` says itself what it
holds and is read by the JSON codecs (``npy``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from modelserver.datatypes import element_size, unpack
from modelserver.errors import InvalidInput, UnsupportedMediaType
from modelserver.protocols import v1_json

ROWS_TYPE = "application/octet-stream"
_FILES = ("image/", "audio/", "video/")
_REQUEST_KEYS = {"instances", "inputs"}
# Numbers may begin so, too; then what follows is no JSON.
_BEGINS_LIKE_A_REQUEST = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\r\n]*+\{[ \t\r\n]*+"')


@lru_cache(maxsize=256)
def is_raw(content_type: str) -> bool:
    """Whether a body of this Content-Type is a file or rows, for a model that says what it takes."""
    media_type = _media_type(content_type)
    if media_type == ROWS_TYPE:
        return True
    return media_type.startswith(_FILES) and not v1_json.is_json(content_type)


def decode_request(
    body: bytes, content_type: str, tensor: Mapping[str, Any], read_json: Callable[[bytes], Any]
) -> dict[str, Any]:
    """Read a request body.

    Args:
        body: the body as it came.
        content_type: one that ``is_raw``.
        tensor: the model's only input, ``{"name": str, "datatype": str, "shape": list[int]}``; -1: any size.
        read_json: the model's codec; it raises ``InvalidInput`` for what is no request.

    Returns:
        ``{"instances": [body]}`` for BYTES, ``{"inputs": body}`` where the input is one value and no rows;
        ``{"instances": array}`` for numbers, a read-only view of the body (BF16 as float32). Or the request
        in JSON that the body is.

    Raises:
        InvalidInput: the length is not that of some rows.
        UnsupportedMediaType: the input takes numbers and this is a file, or the size of a row is not known.
    """
    if _BEGINS_LIKE_A_REQUEST.match(body):
        try:
            payload = read_json(body)
        except InvalidInput:
            pass
        else:
            if not _REQUEST_KEYS.isdisjoint(payload):
                return dict(payload)
    name, datatype, shape = (
        str(tensor.get("name")),
        str(tensor.get("datatype")),
        list(tensor.get("shape", ())),
    )
    if datatype == "BYTES":
        return _one_row(body, shape)
    size = _row_size(datatype, shape)
    if not size or _media_type(content_type) != ROWS_TYPE:
        raw = f", or as {ROWS_TYPE}: rows of {size} bytes, little-endian" if size else ""
        raise UnsupportedMediaType(
            f'Content-Type {_media_type(content_type)[:60]!r} is not for input "{name}", {datatype} of shape '
            f"{shape}. Send its rows as JSON or application/x-npy{raw}."
        )
    rows, rest = divmod(len(body), size)
    if rest or not rows:
        raise InvalidInput(
            f'The body has {len(body)} bytes, expected a multiple of {size}: input "{name}" takes rows of '
            f"{datatype} of shape {shape[1:]}, little-endian"
        )
    return {"instances": unpack(body, datatype, [rows, *shape[1:]], f'input "{name}"')}


def _one_row(body: bytes, shape: Sequence[int]) -> dict[str, Any]:
    if not shape:
        return {"inputs": body}
    row: Any = body
    for _ in shape[1:]:  # more than one string for a row is the model's to refuse
        row = [row]
    return {"instances": [row]}


def _row_size(datatype: str, shape: Sequence[int]) -> int:
    """Bytes of a row; 0 if that is not known."""
    if not shape or min(shape[1:], default=1) < 1:
        return 0
    try:
        return math.prod(shape[1:]) * element_size(datatype)
    except InvalidInput:  # a datatype of the model's own
        return 0


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
