"""One JSON value to one element, and items to one array: TensorFlow Serving's coercion rules.

Rules of the room: value by value, strictly; no TensorFlow. This is the contract (TensorFlow Serving's
json_tensor.cc); ``feeds`` has a short cut past it for lists that numpy alone can judge. Error texts are
TensorFlow Serving's, with an ending of our own where that helps.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from modelserver import InvalidInput, ModelServerError
from tfserver.signature import DType, Family

MAX_RANK = 32
"""numpy 1's limit; numpy 2 takes 64 and TensorFlow 254."""
_QUOTED = 256
"""Characters of a value quoted in a message, as TensorFlow Serving 2.18 cuts them."""


class NoJsonForm(ModelServerError):
    """The signature wants a dtype that JSON requests cannot carry: float16, complex, quantized."""

    status = 501


class Column:
    """The values of one input, gathered item by item."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._items = 0
        self._shape: list[int] = []
        self._size = 0
        self._flat: list[Any] = []

    def add(self, item: Any) -> None:
        """Take one item.

        Raises:
            InvalidInput: a value is not of the dtype, lists are ragged, or the item has not the first one's
                element count or, after that, not its shape.
        """
        shape, before = _shape(item), len(self._flat)
        if len(shape) >= MAX_RANK:
            raise InvalidInput(f"Encountered list at unexpected level: {len(shape)} expected < {MAX_RANK}")
        self._fill(item, shape, 0)
        size = len(self._flat) - before
        if not self._items:
            self._shape, self._size = shape, size
        elif size != self._size:
            raise InvalidInput(
                f"Expecting tensor size: {self._size} but got: {size} "
                f"(shape {show_shape(shape)}, the first has {show_shape(self._shape)})"
            )
        elif shape != self._shape:
            raise InvalidInput(f"Expecting shape {show_shape(self._shape)} but got: {show_shape(shape)}")
        self._items += 1

    def stacked(self) -> np.ndarray:
        """All items, under a new first dimension."""
        return self._array((self._items, *self._shape))

    def only(self) -> np.ndarray:
        """The one item that was added."""
        return self._array(tuple(self._shape))

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        if self._dtype.family is Family.STRING:  # numpy must not look into the bytes
            array = np.empty(len(self._flat), dtype=object)
            array[:] = self._flat
        elif self._dtype.family is Family.INTEGER:  # at full width first, so that int8 and its kin wrap
            wide = np.uint64 if self._dtype.name == "uint64" else np.int64
            array = np.array(self._flat, dtype=wide).astype(self._dtype.numpy)
        else:
            with np.errstate(over="ignore"):  # too large for float32 is Infinity
                array = np.array(self._flat, dtype=self._dtype.numpy)
        return array.reshape(shape)

    def _fill(self, value: Any, shape: list[int], level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise InvalidInput(
                    f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            self._flat.append(_element(value, self._dtype))
            return
        if level >= len(shape):
            raise InvalidInput(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise InvalidInput(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        for item in value:
            self._fill(item, shape, level + 1)


def _element(value: Any, dtype: DType) -> Any:
    """One JSON value as one element, or the error that says why not."""
    kind, family = type(value), dtype.family
    if family is Family.STRING:
        if kind is str:
            return value.encode("utf-8", "surrogateescape")
        if kind is dict:
            return decode_b64(value)
        if kind is bytes:  # from a Python caller; JSON has none
            return value
    elif family is Family.FLOAT:
        if kind is float or kind is int:
            return value
    elif family is Family.INTEGER:
        if kind is int and dtype.lowest <= value <= dtype.highest:
            return value
    elif family is Family.BOOL:
        if kind is bool:
            return value
    elif kind is not dict:
        raise NoJsonForm(f"Conversion of JSON Value: {quote(value)} to type: {dtype.name}")
    raise InvalidInput(
        f"JSON Value: {quote(value)} Type: {json_type(value)} is not of expected type: {dtype.name}"
        f"{_hint(value, dtype)}"
    )


def _hint(value: Any, dtype: DType) -> str:
    if is_b64(value):
        return "; base64 is for string inputs only"
    if dtype.family is Family.INTEGER and type(value) is float:
        # It may be an integer of more than 64 bits: what reads JSON makes a float of it.
        return f"; integers are written without point and exponent, {dtype.lowest} to {dtype.highest}"
    if dtype.family is Family.INTEGER and type(value) is int:
        return f" (range {dtype.lowest} to {dtype.highest})"
    return ""


def is_b64(value: Any) -> bool:
    """Whether a value is bytes in JSON's clothes: exactly ``{"b64": "..."}``."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_b64(value: dict[str, Any]) -> bytes:
    """The bytes of ``{"b64": ...}``.

    Standard alphabet, padding optional, whitespace ignored: what absl's Base64Unescape takes.

    Raises:
        InvalidInput: it is something else.
    """
    if not is_b64(value):
        raise InvalidInput(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    if len(text) % 4 == 0:  # padded and without blanks, as nearly all are: 1 MB takes 2.6 ms, below 3.5
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            pass
    try:
        data = text.encode("ascii").translate(None, b" \t\n\v\f\r")
        if data.endswith(b"=") and len(data) % 4:
            raise ValueError("neither padded in full nor unpadded")
        data += b"=" * (-len(data) % 4)
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:  # also binascii.Error and UnicodeEncodeError
        url_safe = " (the url-safe alphabet is not taken)" if "-" in text or "_" in text else ""
        raise InvalidInput(f"Unable to base64 decode{url_safe}: {quote(text)}") from None


def _shape(value: Any) -> list[int]:
    """The shape by walking first elements."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


# -- words for messages


def show_shape(shape: Sequence[int] | None) -> str:
    """A shape as TensorFlow writes it: ``[2,3]``; ``[?]`` when unknown."""
    return "[?]" if shape is None else f"[{','.join(map(str, shape))}]"


def json_type(value: Any) -> str:
    """The JSON kind of a value, in RapidJSON's words: ``Object``, ``True``, ``Number``."""
    if isinstance(value, bool):
        return str(value)
    if value is None:
        return "Null"
    names = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return names.get(type(value), type(value).__name__)


def cut(text: str) -> str:
    """A text short enough for a message."""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def quote(value: Any) -> str:
    """A value as JSON, cut; a long or deep one is not written out in full first."""
    if isinstance(value, str):
        return json.dumps(cut(value), ensure_ascii=False)
    pieces = json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value)
    return cut("".join(islice(pieces, _QUOTED)))
