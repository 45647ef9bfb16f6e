"""Requests and answers as named arrays (``TensorRequest``), which gRPC's Predict is made of.

Rules of the room: arrays in, arrays out; no TensorFlow, no JSON. No dtype or shape is judged here: that is
the graph's to do. Error texts are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelserver import InvalidInput
from tfserver.signature import Signature


def feeds_from_arrays(inputs: Mapping[str, np.ndarray], signature: Signature) -> list[np.ndarray]:
    """The arrays to feed, in the order of ``signature.inputs``; the signature's default for one not given.

    Raises:
        InvalidInput: an input is missing, or there is one that the signature does not have.
    """
    names, defaults = {spec.name for spec in signature.inputs}, signature.defaults
    extra, missing = inputs.keys() - names, names - inputs.keys()
    if extra or missing - defaults.keys():
        raise InvalidInput(
            f"input size does not match signature: {len(inputs)}!={len(names)} len({_set(inputs)}) != "
            f"len({_set(names)}). Sent extra: {_set(extra)}. Missing but required: "
            f"{_set(missing - defaults.keys())}."
        )
    given = (inputs[spec.name] if spec.name in inputs else defaults[spec.name] for spec in signature.inputs)
    return [_native(np.asarray(array)) for array in given]


def wanted_outputs(names: Sequence[str], signature: Signature) -> tuple[str, ...]:
    """The outputs to fetch: those that are named, or all.

    Raises:
        InvalidInput: there is no such output, or one is named twice.
    """
    known = [spec.name for spec in signature.outputs]
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidInput(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_set(known)}."
            )
        if name in names[:index]:
            raise InvalidInput(f"duplicate output tensor alias: {name}")
    return tuple(names) or tuple(known)


def as_array(value: Any) -> np.ndarray:
    """A fetched value as an array: those of rank 0 come as numpy scalars, or ``bytes``."""
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order: TensorFlow takes the bytes as they lie."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _set(names: Any) -> str:
    return f"{{{','.join(sorted(names))}}}"
