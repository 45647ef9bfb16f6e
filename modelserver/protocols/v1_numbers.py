"""``instances`` of a large V1 body as one array, without a Python object for each number.

The short cut past ``orjson`` and ``numpy.asarray``, for bodies that hold nothing but a regular nested list of
numbers, such as pictures. It gives exactly what the ordinary way gives, or ``None``: at the slightest doubt
the body is read the ordinary way, which also has all the error texts.

    form     the body without its numbers is brackets and commas; the first rows say what these must be for a
             regular list, and one comparison says whether they are
    numbers  read by a JSON parser: simdjson (the extra ``fast``) or orjson
    dtype    cast by ``tensors.array_from_json``, as lists are

ms of CPU for a picture of float32 (1.6 MB of JSON), the ordinary way, with orjson and with simdjson:
224x224x3 20.3, 10.6, 5.3; 3x224x224 7.2, not taken, 4.9.

Rules of the room: bytes in, values out; raises nothing. The only module that imports simdjson.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike

from modelserver.errors import InvalidInput
from modelserver.tensors import ANY_NUMBER, array_from_json

try:
    import simdjson
except (ImportError, RuntimeError):  # RuntimeError: its binary part is missing
    simdjson = None  # type: ignore[assignment]  # an optional dependency

LARGE = 8192
"""Bytes of a body from which on the short cut is taken. Below, it saves less than 30 us with simdjson and
nothing with orjson: rows of four float32, 8.9 KB, take 60 us the ordinary way, 59 and 28 this way."""
_SHORT_ROW = 8
"""With orjson, only the many short lists of the innermost dimension are what costs: 48,000 float32 in rows of
3 take 4.7 ms the ordinary way and 3.3 this way, in rows of 8 3.3 and 3.2, in rows of 64 2.2 and 3.0."""

_MOST_DIMENSIONS = 32
_STARTS_WITH_NUMBER = re.compile(rb"[\[ \t\r\n]*-?[0-9]")
_NUMBERS_AND_BLANKS = b"0123456789.eE+- \t\r\n"
_BRACKETS_TO_BLANKS = bytes(32 if byte in b"[]" else byte for byte in range(256))
_PIECE = 32768
"""Bytes of text whose numbers are Python objects at the same time: they stay in the processor's cache."""


def read_instances(body: bytes, dtype: DTypeLike) -> dict[str, Any] | None:
    """Read a body whose ``instances`` are a regular nested list of numbers.

    Args:
        body: a whole request. Other keys may stand before and behind ``instances``.
        dtype: of the array; ``"number"`` for int64 if all numbers are written as integers, else float32.

    Returns:
        The JSON object with one C-contiguous, writable array of ``dtype`` as ``instances``. ``None`` for any
        other body: ragged, empty, not only numbers, fractions for an integer dtype, numbers out of range, or
        no JSON at all.
    """
    start, end = body.find(b"["), body.rfind(b"]") + 1
    if start < 0 or _STARTS_WITH_NUMBER.match(body, start) is None:
        return None
    payload = _read_around(body[:start], body[end:])
    if payload is None:
        return None
    text = body[start:end]
    if simdjson is None and text.count(b",", 0, text.find(b"]")) >= _SHORT_ROW:
        return None
    integers = not (b"." in text or b"e" in text or b"E" in text)
    if not integers and not _takes_fractions(dtype):
        return None
    shape = _regular_shape(text)
    if shape is None:
        return None
    numbers = _by_orjson(text, integers) if simdjson is None else _by_simdjson(text, integers)
    if numbers is None or numbers.size != prod(shape):
        return None
    try:
        payload["instances"] = array_from_json(numbers.reshape(shape), dtype)
    except InvalidInput:
        return None
    return payload


def _takes_fractions(dtype: DTypeLike) -> bool:
    return (isinstance(dtype, str) and dtype == ANY_NUMBER) or np.dtype(dtype).kind == "f"


def _read_around(head: bytes, tail: bytes) -> dict[str, Any] | None:
    """The object without its ``instances``, whose value stands between ``head`` and ``tail``.

    A key can be spelled with escapes, and one that comes twice counts the last time: neither is looked into.
    """
    colon = head.rstrip()
    if not colon.endswith(b":") or not colon[:-1].rstrip().endswith(b'"instances"'):
        return None
    around = head + b"null" + tail
    if b"\\" in around or around.count(b'"instances"') != 1:
        return None
    try:
        payload = orjson.loads(around)
    except orjson.JSONDecodeError:
        return None
    # In an object inside the object the key is not found here.
    return payload if isinstance(payload, dict) and "instances" in payload else None


def _regular_shape(text: bytes) -> tuple[int, ...] | None:
    """The shape by walking first elements, if every other element has it too.

    An empty list looks like a list of one: the count of the numbers tells them apart.

    >>> _regular_shape(b"[[1, 2, 3], [4, 5, 6]]")
    (2, 3)
    >>> _regular_shape(b"[[1, 2, 3], [4, 5]]")
    """
    found = text.translate(None, _NUMBERS_AND_BLANKS)
    depth = len(found) - len(found.lstrip(b"["))
    if depth > _MOST_DIMENSIONS:
        return None
    sizes: list[int] = []
    expected = b""
    for level in range(1, depth + 1):
        # What stands behind each element of the first list of this level: commas, and then its bracket.
        first_end = depth - level + 1 + len(expected)
        size = found[first_end :: len(expected) + 1].find(b"]") + 1
        if not size:
            return None
        sizes.append(size)
        expected = b"[%b%b]" % ((expected + b",") * (size - 1), expected)
    return tuple(reversed(sizes)) if expected == found else None


def _by_simdjson(text: bytes, integers: bool) -> np.ndarray | None:
    """The numbers in order, as int64 or float64; ``None`` if there is one that is neither, or no JSON.

    A parser for each call costs nothing measurable, and keeps no memory: a parser holds 14 times its text.
    """
    try:
        array: Any = simdjson.Parser().parse(text)
        buffer = array.as_buffer(of_type="i" if integers else "d")
    except (ValueError, TypeError, RuntimeError):  # no JSON, no number, more than 64 bits
        return None
    return np.frombuffer(buffer, np.int64 if integers else np.float64)


def _by_orjson(text: bytes, integers: bool) -> np.ndarray | None:
    """The same, from the text without its brackets, of which ``_regular_shape`` has judged the order only."""
    if not _stands_inside(text):
        return None
    flat = text.translate(_BRACKETS_TO_BLANKS)
    parts, start = [], 0
    try:
        while start < len(flat):
            end = flat.find(b",", start + _PIECE)
            if end < 0:
                end = len(flat)
            values = orjson.loads(b"[%b]" % flat[start:end])
            # Integers of more than 64 bits are floats here, and fromiter would cut them.
            parts.append(np.array(values) if integers else np.fromiter(values, np.float64, len(values)))
            start = end + 1
    except orjson.JSONDecodeError:
        return None
    return np.concatenate(parts)


def _stands_inside(text: bytes) -> bool:
    """Whether no number stands before an opening or behind a closing bracket, as in ``[[1, 2] 3, [4, 5]]``.

    A blank is taken behind a comma only, as ``json.dumps`` writes it, and no other white space at a bracket.
    """
    codes = np.frombuffer(text, np.uint8)
    opens, closes, between = codes == ord("["), codes == ord("]"), codes == ord(",")
    may_close = closes | between
    if b" " in text:
        blanks = codes == ord(" ")
        if (blanks[1:] & ~between[:-1]).any():
            return False
        between |= blanks
    may_open = opens | between
    return not ((opens[1:] & ~may_open[:-1]).any() or (closes[:-1] & ~may_close[1:]).any())
