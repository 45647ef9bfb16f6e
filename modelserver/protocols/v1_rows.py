"""V1 bodies as rows: which requests may share one call of a model, and whose predictions are whose.

Rules of the room: dictionaries in, dictionaries out. ``batching`` decides when requests are joined, this how.
numpy is imported when arrays are joined: whoever only looks at ``Model`` need not wait 90 ms for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from modelserver.errors import PredictionCountError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_ANY_NUMBER_IS = ("float32", "int64")
"""The dtypes that lists are read as where ``Model.instances_dtype`` is "number"."""
_LIST_ELEMENTS = {"f": "float", "i": "int", "u": "int", "b": "bool"}
"""By the kind of a dtype, the type of what a list of the same values holds."""


def batch_key(payload: Any, dtype: DTypeLike | None = None) -> Hashable | None:
    """What two requests must have in common to be joined; ``None`` for one that must stay alone.

    The other keys of the body (``signature_name``), and shape and kind of the first row, by first elements;
    for an array the shape of a row and the dtype. That a later row differs is found when the joined call
    fails, and then each request is tried alone.

    Args:
        payload: the request.
        dtype: that lists of numbers are read as (``Model.instances_dtype``). An array of it may be joined
            with lists, and no other one.

    >>> batch_key({"instances": [[1.5, 2.5]]}) == batch_key({"instances": [[3.5, 4.5], [5.5, 6.5]]})
    True
    >>> batch_key({"instances": [[1.5]]}) == batch_key({"instances": [["text"]]})
    False
    """
    if not isinstance(payload, dict):
        return None
    rows: Any = payload.get("instances")
    shape: list[Hashable] = []
    if isinstance(rows, list) and rows:
        first = rows[0]
        while isinstance(first, list):
            shape.append(len(first))
            first = first[0] if first else None
        shape.append(tuple(first) if isinstance(first, dict) else type(first).__name__)
    elif is_array(rows) and rows.ndim and rows.size:
        if is_read_as(rows, dtype):
            shape += [*rows.shape[1:], _LIST_ELEMENTS[rows.dtype.kind]]
        else:
            shape += ["array", rows.shape[1:], rows.dtype.str]
    else:
        return None
    if len(payload) > 1:
        others = sorted((name, value) for name, value in payload.items() if name != "instances")
        if not all(isinstance(value, str | int | float | bool) for _, value in others):
            return None
        shape.append(tuple(others))
    return tuple(shape)


def is_array(value: Any) -> bool:
    """Whether instances are one ``ndarray``: a list has no dtype."""
    return hasattr(value, "dtype")


def is_read_as(rows: Any, dtype: DTypeLike | None) -> bool:
    """Whether an array is what lists of its values would be read as, where that is ``dtype``."""
    if dtype is None or not rows.ndim or rows.dtype.kind not in _LIST_ELEMENTS:
        return False
    if isinstance(dtype, str) and dtype == "number":
        return rows.dtype.name in _ANY_NUMBER_IS
    return bool(rows.dtype == dtype)


def join(payloads: Sequence[dict[str, Any]], dtype: DTypeLike | None = None) -> dict[str, Any]:
    """One request with the rows of all. They share a ``batch_key``.

    Args:
        payloads: the requests.
        dtype: as for ``batch_key``.

    Raises:
        InvalidInput, ValueError: one of lists, among arrays, cannot be read as an array, or is no list of
            numbers alone. By itself each is read by its model's own rules, and the batcher then tries that.
    """
    rows: Any
    if any(is_array(payload["instances"]) for payload in payloads):
        import numpy as np

        rows = np.concatenate(
            [rows if is_array(rows := payload["instances"]) else _array(rows, dtype) for payload in payloads]
        )
    else:
        rows = [row for payload in payloads for row in payload["instances"]]
    return {**payloads[0], "instances": rows}


def _array(rows: list[Any], dtype: DTypeLike | None) -> Any:
    from modelserver.tensors import array_from_json

    array = array_from_json(rows, dtype)
    if array.dtype.kind != "b":
        leaves: Iterable[Any] = rows
        for _ in range(array.ndim - 1):
            leaves = chain.from_iterable(leaves)
        if bool in set(map(type, leaves)):  # numpy has made numbers of them; some models do not
            raise ValueError("there are booleans among the numbers")
    return array


def split(answer: Any, payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each request its own predictions, in order; other keys of the answer go to all.

    Raises:
        PredictionCountError: not one prediction for each row. Nothing is shifted to a neighbour.
    """
    counts = [len(payload["instances"]) for payload in payloads]
    predictions: Any = answer.get("predictions") if isinstance(answer, dict) else None
    got = len(predictions) if hasattr(predictions, "__len__") else 0
    if got != sum(counts):
        raise PredictionCountError(
            f"predict returned {got} predictions for {sum(counts)} instances of {len(counts)} joined "
            f"requests; a model with max_batch_size must return one for each instance"
        )
    answers, start = [], 0
    for count in counts:
        answers.append({**answer, "predictions": predictions[start : start + count]})
        start += count
    return answers
