"""Whether requests may share a call: a row's answer must not depend on the rows beside it.

A signature says that the first size is open, and nothing more. A graph that ranks, normalises or filters over
its first dimension has such a signature too, and its answers would change with strangers' rows. So where
nobody has asked for batching, it is tried out: three made-up rows together must give what each gives alone.

Rules of the room: looks at signatures and calls them; knows no request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from modelserver import ModelServerError
from tfserver.signature import DType, Family, Signature, TensorSpec

_log = logging.getLogger("modelserver.model")

_ROWS = 3
_TOLERANCE = 1e-3
"""Of the largest value: kernels for one row and for several may add up in another order."""
_ULPS = 4
"""The same for dtypes that are less precise than that."""
_SEED = 20220101
_MOST_VALUES = 200_000
"""In one row; one 224x224x3 image has 150,528."""

Run = Callable[[Signature, Sequence[np.ndarray]], list[Any]]


def rows_are_independent(
    run: Run, signatures: Sequence[Signature], has_side_effects: Callable[[Signature], bool]
) -> bool:
    """Whether each row gets the answer that it gets alone, as far as can be told.

    Where a graph refuses what is made up, or rows are large, the signature's open sizes must do.

    Args:
        run: calls a signature.
        signatures: all that have inputs.
        has_side_effects: of a signature: each of its calls is somebody's.
    """
    if any(has_side_effects(signature) or not _has_open_rows(signature) for signature in signatures):
        return False
    for signature in signatures:
        try:
            matters_alone = _rows_matter_alone(run, signature)
        except ModelServerError as error:
            _log.debug("signature %s was not tried out: %s", signature.name, error)
            continue
        if not matters_alone:
            _log.info(
                "signature %s gives a row another answer beside other rows: requests do not share calls",
                signature.name,
            )
            return False
    return True


def _has_open_rows(signature: Signature) -> bool:
    return all(
        spec.shape is not None and spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs)
    )


def _rows_matter_alone(run: Run, signature: Signature) -> bool:
    values = sum(prod(_row_shape(spec)) for spec in signature.inputs)
    if values > _MOST_VALUES or not all(_can_be_made_up(spec.dtype) for spec in signature.inputs):
        return True
    random = np.random.default_rng(_SEED)
    feeds = [_made_up(spec, random) for spec in signature.inputs]
    together = run(signature, feeds)
    alone = [run(signature, [feed[row : row + 1] for feed in feeds]) for row in range(_ROWS)]
    return all(_agree(whole, [outputs[number] for outputs in alone]) for number, whole in enumerate(together))


def _can_be_made_up(dtype: DType) -> bool:
    """Not for quantized ones and resources, which no request can hold either."""
    return dtype.family is not Family.NONE or dtype.numpy.kind in "fcu" or dtype.name == "bfloat16"


def _row_shape(spec: TensorSpec) -> list[int]:
    return [1 if size == -1 else size for size in (spec.shape or ())[1:]]


def _made_up(spec: TensorSpec, random: np.random.Generator) -> np.ndarray:
    """Three rows that differ, of values that most graphs take: small numbers, words of one letter."""
    shape = (_ROWS, *_row_shape(spec))
    family = spec.dtype.family
    if family is Family.STRING:
        words = np.empty(shape, dtype=object)
        words.reshape(_ROWS, -1)[:] = np.array([[b"a"], [b"b"], [b"c"]], dtype=object)
        return words
    if family is Family.BOOL or family is Family.INTEGER or spec.dtype.numpy.kind == "u":
        return random.integers(0, 2, shape).astype(spec.dtype.numpy)
    return random.standard_normal(shape).astype(spec.dtype.numpy)


def _agree(together: Any, alone: Sequence[Any]) -> bool:
    whole = _comparable(together)
    rows = [_comparable(each) for each in alone]
    if whole.shape[:1] != (_ROWS,) or any(row.shape != (1, *whole.shape[1:]) for row in rows):
        return False
    apart = np.concatenate(rows)
    if whole.dtype.kind not in "fc":
        return bool((whole == apart).all())
    tolerance = max(_TOLERANCE, _ULPS * _precision(together))
    largest = float(np.nanmax(np.abs(apart), initial=0.0, where=np.isfinite(apart)))
    return np.allclose(whole, apart, rtol=tolerance, atol=tolerance * max(largest, 1e-6), equal_nan=True)


def _comparable(value: Any) -> np.ndarray:
    """float16 and bfloat16 as float32: numpy itself knows no bfloat16."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def _precision(value: Any) -> float:
    """The distance from 1 to the next number, where that is more than for float32."""
    return {"float16": 2**-10, "bfloat16": 2**-7}.get(np.asarray(value).dtype.name, 0.0)
