"""JSON numbers to ``numpy.ndarray``, strictly, with errors that say row, expected and got.

Rules of the room: values in, arrays out; no I/O, no framework, no wire format. Called by predictors
(through ``modelserver.array_from_json``) and by the codecs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from modelserver.errors import InvalidInput

Shape = tuple[int, ...]

_JSON_NAMES = {
    dict: "an object",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    type(None): "null",
}
_NUMBER_KINDS = "fiub"
ANY_NUMBER = "number"
"""In the place of a dtype: what the values are, as ``array_from_json`` decides."""
_DEFAULT_DTYPES = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}


def json_name(value: object) -> str:
    """The JSON word for a Python value, with its article: ``a string``, ``null``."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def array_from_json(value: Any, dtype: DTypeLike | None = None, *, name: str = '"instances"') -> np.ndarray:
    """Convert nested lists of JSON numbers or booleans to an array.

    Args:
        value: a number, boolean, or a nested list of them, as a JSON parser gives it. An
            ``ndarray`` is taken as it is and only cast.
        dtype: the wanted dtype. Default: what the values are, as ``torch.tensor`` decides: float32 if
            any has a point or exponent, int64 if all are integers, bool if all are booleans. ``"number"``
            (a value of ``Model.instances_dtype``) means the same.
        name: what the value is called in error messages.

    Returns:
        A C-contiguous array with the shape of the nesting: ``(rows, ...)`` for a list of rows.

    Raises:
        InvalidInput: ragged rows, strings, nulls or objects where numbers belong, numbers that do not
            fit into ``dtype`` (an integer dtype takes no fraction). The text names the first offender.

    >>> array_from_json([[1, 2.5], [3, 4]]).dtype.name
    'float32'
    >>> array_from_json([[1, 2], [3]])
    Traceback (most recent call last):
    ...
    modelserver.errors.InvalidInput: "instances"[1] has shape [1], expected [2] as in "instances"[0]
    """
    # Without a dtype first: numpy would read "1.5" as a number if it were told to make floats.
    try:
        array = np.asarray(value)
    except ValueError:  # numpy's "inhomogeneous shape"
        raise InvalidInput(_first_offender(value, name)) from None
    if array.dtype.kind not in _NUMBER_KINDS:
        raise InvalidInput(_first_offender(value, name))
    is_open = dtype is None or (isinstance(dtype, str) and dtype == ANY_NUMBER)
    wanted: np.dtype[Any] = np.dtype(_DEFAULT_DTYPES[array.dtype.kind] if is_open else dtype)
    if wanted == np.uint64 and array.dtype.kind == "f" and not isinstance(value, np.ndarray):
        array = _wide_integers(value, array)
    return _cast(array, wanted, name)


def _wide_integers(value: Any, array: np.ndarray) -> np.ndarray:
    """Integers that numpy has made floats of, as it does with 2 ** 63 beside 1; else the array as it is."""
    values = np.asarray(value, object)
    if all(type(each) is int and 0 <= each < 2**64 for each in values.flat):
        return values.astype(np.uint64)
    return array


def _cast(array: np.ndarray, wanted: np.dtype[Any], name: str) -> np.ndarray:
    if array.dtype == wanted:
        # numpy has two names for 64 bits, and frameworks know one: [2**64 - 1] is read as the other.
        return np.asarray(array if array.dtype.char == wanted.char else array.view(wanted), order="C")
    got, want = array.dtype.kind, wanted.kind
    if got == "b" or want == "b":
        expected = "booleans" if want == "b" else f"{wanted.name} numbers"
        found = "booleans" if got == "b" else "numbers"
        if array.size:
            raise InvalidInput(f"{name} holds {found}, expected {expected}")
    if want in "iu" and array.size:
        if got == "f" and not bool((array == np.floor(array)).all()):
            raise InvalidInput(f"{name} holds fractions, expected {wanted.name} integers")
        limits = np.iinfo(wanted)
        low, high = array.min().item(), array.max().item()  # Python compares integers and floats exactly
        if low < limits.min or high > limits.max:
            raise InvalidInput(
                f"{name} holds a number outside the range of {wanted.name} [{limits.min}, {limits.max}]"
            )
    with np.errstate(over="ignore"):  # too large for float32 is Infinity, as TensorFlow Serving has it
        return np.asarray(array, wanted, order="C")  # not ascontiguousarray: it adds a dimension to a scalar


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _shape(value: object) -> list[int]:
    """Shape by walking first elements, as TensorFlow Serving reads a row."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _first_offender(value: object, name: str) -> str:
    """Name the first leaf that is no number, else the first item whose shape differs. Slow path only."""
    for path, leaf in _leaves(value, name):
        if isinstance(leaf, bool) or not isinstance(leaf, int | float):
            if isinstance(leaf, bool):
                continue
            shown = f" {leaf[:40]!r}" if isinstance(leaf, str) else ""
            return f"{path} is {json_name(leaf)}{shown}, expected a number"
    ragged = _first_ragged(value, name)
    return ragged or f"{name} holds a number that does not fit into 64 bits"


def _first_ragged(value: object, name: str) -> str | None:
    if not isinstance(value, list) or not value:
        return None
    expected = _shape(value[0])
    for index, item in enumerate(value):
        got = _shape(item)
        if got != expected:
            return (
                f"{name}[{index}] has shape {got}, expected {expected} as in {name}[0]"
                if expected and got
                else f"{name}[{index}] is {json_name(item)}, expected {json_name(value[0])} as in {name}[0]"
            )
    for index, item in enumerate(value):
        inner = _first_ragged(item, f"{name}[{index}]")
        if inner:
            return inner
    return None
