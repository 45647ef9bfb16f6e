"""V1 bodies by TensorFlow Serving's rules, where those are not JSON's.

    read     whatever the Content-Type says; NaN and Infinity; a byte order mark; bytes behind the object;
             bytes in strings that are no UTF-8; of a key that comes twice at the top the first one
    written  NaN, Infinity and -Infinity as such; float32 in its shortest form

orjson reads and writes what is JSON, at the cost of ``v1_json``. Only a body that it refuses, or in which a
key may come twice, goes the long way through the standard library's parser, and only an answer with a
``null`` in it is looked through for what orjson has written so.

Rules of the room: bytes and values only; no tornado, no model, no I/O, no TensorFlow. Source of the rules:
TensorFlow Serving's json_tensor.cc, and RapidJSON 1.1.0, which reads for it.
"""

from __future__ import annotations

import codecs
import json
import re
from functools import lru_cache, partial
from itertools import chain
from math import isfinite, isinf, isnan
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike

from modelserver.errors import InvalidInput
from modelserver.protocols import npy, v1_json, v1_numbers

_KEYS = tuple(
    (name, f'"{name}"'.encode()) for name in ("instances", "inputs", "signature_name", "examples", "context")
)
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|6|7)")
"""How a key may be spelled besides; no encoder writes ASCII letters so."""
_QUOTED = 256
"""Bytes of a body shown in a message."""

_BLANKS = re.compile(r"[ \t\r\n]*")
_SHORT_INFINITY = re.compile(rb"Inf(?!inity)")
_STRING_OR_WORD = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(-NaN)|-?Inf(inity)?', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR_OR_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F])|\\.", re.DOTALL
)
_LONG_INTEGER, _LARGE_EXPONENT = re.compile(rb"[^.\d]\d{19}"), re.compile(rb"[eE]\+?\d{3}")
"""Numbers that may not fit into 64 bits. As one pattern, they would be looked for ten times as long."""


def decode_request(
    body: bytes, content_type: str, instances_dtype: DTypeLike | None = None
) -> dict[str, Any] | bytes:
    """Read a request body.

    Args:
        body: the body as it came.
        content_type: the request's header, ``""`` if there is none. Only an ``.npy`` type counts.
        instances_dtype: as in ``v1_json.decode_request``.

    Returns:
        The object; ``{"instances": array}`` for an ``.npy`` body. Integers that do not fit into 64 bits are
        floats. Bytes in strings that are no UTF-8 are there as ``surrogateescape`` has them.

    Raises:
        InvalidInput: a parse error, with its offset in bytes; nested too deeply (about 1000); no object at
            the top; not ``.npy``, or not numbers.
    """
    if content_type != v1_json.JSON_TYPE and _is_npy(content_type):
        return {"instances": npy.read_array(body)}
    payload: Any
    if instances_dtype is not None and len(body) >= v1_numbers.LARGE:
        payload = v1_numbers.read_instances(body, instances_dtype)
        # It has looked for a second "instances" itself.
        if payload is not None and (len(payload) == 1 or not _may_come_twice(body, payload)):
            return payload  # type: ignore[no-any-return]
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        payload = _read_leniently(body)
    else:
        if type(payload) is dict and _may_come_twice(body, payload):
            payload = _read_leniently(body)
    if type(payload) is not dict:
        raise InvalidInput(
            f"JSON Value: {body[:_QUOTED].decode(errors='replace')} Is not object: "
            'send one such as {"instances": [...]}'
        )
    return payload


def encode_response(value: Any) -> tuple[bytes, str]:
    """Turn what the model returned into a body and its Content-Type, as ``v1_json.encode_response``.

    But NaN and infinities are written as ``NaN``, ``Infinity`` and ``-Infinity``, also in numpy arrays; and a
    string with bytes that are no UTF-8 (``surrogateescape``) gives those bytes, as TensorFlow Serving has it.

    Raises:
        TypeError: the value, or something in it, has no JSON form. The text names its type.
        Exception: what the ``tolist()`` of something in it raised.
    """
    try:
        body, content_type = v1_json.encode_response(value)
    except TypeError as error:
        if isinstance(value, str) or "surrogates not allowed" not in str(error):
            raise
        return _encode_respelled(value)
    if b"null" in body and content_type == v1_json.JSON_TYPE:
        return _encode_respelled(value)
    return body, content_type


# -- reading


@lru_cache(maxsize=256)
def _is_npy(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in npy.MEDIA_TYPES


def _may_come_twice(body: bytes, payload: dict[str, Any]) -> bool:
    """Whether a key that says something may be there twice; orjson has kept the last one."""
    if body.count(b'"') < 4:  # there is one string, as in nearly all bodies of numbers
        return False
    for name, quoted in _KEYS:
        if name in payload and body.count(quoted) > 1:
            return True
    return b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None


def _read_leniently(body: bytes) -> Any:
    """What TensorFlow Serving reads, JSON or not."""
    _check_surrogates(body)
    start = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    grown: list[int] = []
    usual = body
    if b"-NaN" in body or _SHORT_INFINITY.search(body):
        usual = _with_usual_words(body, grown)
    text = usual[start:].decode("utf-8", "surrogateescape")
    start_of_text = _BLANKS.match(text).end()  # type: ignore[union-attr]  # it matches anywhere
    if start_of_text == len(text):
        raise InvalidInput(f"JSON Parse error: The document is empty at offset: {len(body)}")
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # of the object that ends last
        return dict(pairs)

    hooks: dict[str, Any] = {}
    if _LONG_INTEGER.search(body) or _LARGE_EXPONENT.search(body):
        hooks = {"parse_int": partial(_integer, body), "parse_float": partial(_finite, body)}
    try:
        value, _ = json.JSONDecoder(object_pairs_hook=keep, **hooks).raw_decode(text, start_of_text)
    except json.JSONDecodeError as error:
        at = start + len(text[: error.pos].encode("utf-8", "surrogateescape"))
        at -= sum(5 for number, place in enumerate(grown) if place + 5 * number < at)
        raise InvalidInput(f"JSON Parse error: {error.msg.removesuffix(' at')} at offset: {at}") from None
    except RecursionError:
        raise InvalidInput("JSON Parse error: Nested too deeply, by about 1000 levels or more") from None
    return {**value, **dict(reversed(outermost))} if isinstance(value, dict) else value


def _check_surrogates(body: bytes) -> None:
    """Refuse half a character: the standard library takes ``"\\ud800"``, and there are no bytes for it."""
    if _SURROGATE.search(body):
        for found in _PAIR_OR_ESCAPE.finditer(body):
            if found[1]:
                raise InvalidInput(
                    f"JSON Parse error: The surrogate pair in string is invalid at offset: {found.start()}"
                )


def _with_usual_words(body: bytes, grown: list[int]) -> bytes:
    """``Inf`` and ``-NaN`` in the standard library's words.

    Args:
        body: the request.
        grown: where the result gets five bytes more, as offsets in ``body``, is put there.
    """

    def usual(found: re.Match[bytes]) -> bytes:
        word = found[0]
        if found[1]:
            return b" NaN"
        if word.endswith(b"Inf") and not word.startswith(b'"'):
            grown.append(found.start())
            return word + b"inity"
        return word

    return _STRING_OR_WORD.sub(usual, body)


def _integer(body: bytes, text: str) -> int | float:
    if len(text) <= 20:  # what fits into 64 bits has no more
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value
    return _finite(body, text)


def _finite(body: bytes, text: str) -> float:
    value = float(text)
    if isinf(value):
        at = body.find(text.encode())
        raise InvalidInput(f"JSON Parse error: Number too big to be stored in double at offset: {at}")
    return value


# -- writing


def _encode_respelled(value: Any) -> tuple[bytes, str]:
    respelled = _respelled(value)
    if isinstance(respelled, dict | list):
        return v1_json.encode_response(respelled)
    body, content_type = v1_json.encode_response([respelled])
    return body[1:-1], content_type


def _respelled(value: Any) -> Any:
    """The value with a piece of finished JSON in the place of all that orjson would write otherwise."""
    if isinstance(value, dict):
        return {key: _respelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_respelled(item) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and value.ndim:
            return _respelled_array(value)
        return value if value.dtype.kind in "iub" else _respelled(value.tolist() if value.ndim else value[()])
    if isinstance(value, float | np.floating):
        return value if isfinite(value) else orjson.Fragment(_word(float(value)))
    if isinstance(value, str):
        return value if value.isascii() else _respelled_text(value)
    if hasattr(value, "tolist") and not isinstance(value, np.generic):  # torch tensors, pandas series
        return _respelled(value.tolist())
    return value


def _respelled_array(array: np.ndarray) -> Any:
    """Floats hold no other ``null``: in order, each is one of those that are not finite."""
    strange = array[~np.isfinite(array)].tolist()
    if not strange:
        return array
    pieces = v1_json.encode_response(array)[0].split(b"null")
    words = [*map(_word, strange), b""]
    return orjson.Fragment(b"".join(chain.from_iterable(zip(pieces, words, strict=True))))


def _word(number: float) -> bytes:
    if isnan(number):
        return b"NaN"
    return b"Infinity" if number > 0 else b"-Infinity"


def _respelled_text(text: str) -> Any:
    try:
        return orjson.Fragment(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # no bytes of anybody; orjson says so
        return text
