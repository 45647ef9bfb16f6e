"""The V1 protocol's bytes: a request body to what ``preprocess`` gets, an answer to JSON.

Rules of the room: bytes and values only; no tornado, no model, no I/O. Source of the rules: KServe's V1
protocol and the decisions in docs/protocol-v1.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike

from modelserver.errors import InvalidInput
from modelserver.protocols import npy, v1_numbers
from modelserver.tensors import json_name

JSON_TYPE = "application/json"
# curl -d says form-urlencoded whatever it sends, and other small clients say text/plain.
_ALSO_JSON = frozenset(("", "application/x-www-form-urlencoded", "text/plain", "application/json"))
_AS_JSON = (dict, list, tuple, np.ndarray)
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@lru_cache(maxsize=256)
def is_json(content_type: str) -> bool:
    """Whether a body of this Content-Type is read as JSON."""
    media_type = _media_type(content_type)
    return media_type in _ALSO_JSON or media_type.endswith(("/json", "+json"))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def decode_request(
    body: bytes, content_type: str, instances_dtype: DTypeLike | None = None
) -> dict[str, Any] | bytes:
    """Read a request body.

    Args:
        body: the body as it came.
        content_type: the request's header, ``""`` if there is none.
        instances_dtype: the model's ``Model.instances_dtype``. With it, ``instances`` of a large JSON body
            are one array of this dtype where they are a regular nested list of numbers that fit.

    Returns:
        The JSON object (of duplicate keys the last wins); ``{"instances": array}`` for an ``.npy`` body; the
        body itself if it is neither by its type.

    Raises:
        InvalidInput: not JSON, not UTF-8, nested too deeply (1024), or no object at the top; not ``.npy``,
            or not numbers.
    """
    if not is_json(content_type):
        if _media_type(content_type) in npy.MEDIA_TYPES:
            return {"instances": npy.read_array(body)}
        return body
    if instances_dtype is not None and len(body) >= v1_numbers.LARGE:
        numbers = v1_numbers.read_instances(body, instances_dtype)
        if numbers is not None:
            return numbers
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"Unrecognized request format: {error}") from None
    if not isinstance(payload, dict):
        raise InvalidInput(f'Expected a JSON object such as {{"instances": [...]}}, got {json_name(payload)}')
    return payload


def encode_response(value: Any) -> tuple[bytes, str]:
    """Turn what the model returned into a body and its Content-Type.

    ``dict``, ``list``, ``tuple`` and ``ndarray`` become JSON: numpy arrays and scalars, datetimes (ISO 8601)
    and anything with ``tolist()`` may be inside; NaN and infinities become ``null``, as JSON has no word for
    them. ``str`` is sent as text and ``bytes`` as they are; a hook can name another type in
    ``response_headers``.

    Raises:
        TypeError: the value, or something in it, has no JSON form. The text names its type.
        Exception: what the ``tolist()`` of something in it raised.
    """
    if isinstance(value, _AS_JSON):
        # Arrays are left to orjson at every size: us of CPU, against tolist() first, for float32 2x3 0.4 and
        # 0.4, 100x100 151 and 282, 1000x1000 14,400 and 51,200; float64 165 and 288 at 100x100, int64 29 and
        # 82. It also writes float32 shortest, 0.1, where tolist() makes 0.10000000149011612 of it.
        try:
            return orjson.dumps(value, _plain, _OPTIONS), JSON_TYPE
        except orjson.JSONEncodeError as error:
            raise _cause(value, error) from None
    if isinstance(value, bytes | memoryview):
        return bytes(value), "application/octet-stream"
    if isinstance(value, str):
        try:
            return value.encode(), "text/plain; charset=utf-8"
        except UnicodeEncodeError as error:
            raise TypeError(f"the model returned {_type_name(value)} that is no Unicode: {error}") from None
    raise TypeError(f"the model returned {_type_name(value)}, expected dict, list, str or bytes")


def encode_error(reason: str) -> bytes:
    """The body of every error: ``{"error": reason}``. Text that is not valid Unicode is replaced."""
    return orjson.dumps({"error": reason.encode("utf-8", "replace").decode()})


def _plain(value: Any) -> Any:
    """Give orjson something it knows for a value that it does not: called once for each such value."""
    if isinstance(value, np.ndarray):
        # orjson writes contiguous arrays of numbers itself; the others come here.
        if value.dtype.kind in "fiub":
            return np.ascontiguousarray(value) if value.ndim else value[()]  # tolist() would widen float32
        return value.tolist()
    if hasattr(value, "tolist"):  # numpy scalars, torch tensors, pandas series
        return value.tolist()
    raise TypeError(f"{_type_name(value)} has no JSON form")


def _cause(value: object, error: Exception) -> Exception:
    """What ``_plain`` raised beneath orjson's error, or that error in words that name the type."""
    cause = error.__cause__
    if isinstance(cause, Exception):
        return cause
    text = str(cause or error)
    if "ecursion limit" in text:
        text = "it holds itself, or is nested more than 253 levels deep"
    return TypeError(f"the model returned {_type_name(value)} that has no JSON form: {text}")


def _type_name(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
