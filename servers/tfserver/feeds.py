"""A JSON request to the arrays to feed, by TensorFlow Serving's rules.

Rules of the room: parsed JSON in, arrays out; no TensorFlow. Two ways lead to an array. ``_fast`` hands the
whole nested list to numpy and gives up at the slightest doubt; then ``json_values.Column`` reads value by
value, and either builds the array or names the value at fault. What is an array already, as from an ``.npy``
body or a V2 request, and has the dtype, is fed as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from modelserver import InvalidInput, ModelServerError
from tfserver.json_values import MAX_RANK, Column, cut, is_b64, json_type, quote
from tfserver.signature import DType, Family, Signature, TensorSpec

_SCAN_BELOW = 64
"""Up to so many values, looking at every type costs less than asking numpy whether to."""


def feeds_from_request(payload: Mapping[str, Any], signature: Signature) -> list[np.ndarray]:
    """Read the arrays to feed, in the order of ``signature.inputs``.

    Args:
        payload: the request: ``instances`` (row form) or ``inputs`` (column form).
        signature: what is called.

    Raises:
        InvalidInput: the request does not fit; the text names the element, its key and its value.
        NoJsonForm: column form for a dtype that JSON cannot carry (in row form it is ``InvalidInput``, as
            in TensorFlow Serving).
    """
    if not signature.inputs:
        raise InvalidInput(f"Failed to get input map for signature: {signature.name} (it has no inputs)")
    if "instances" in payload:
        if "inputs" in payload:
            raise InvalidInput(
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
            )
        return _from_instances(payload["instances"], signature.inputs)
    if "inputs" in payload:
        return _from_inputs(payload["inputs"], signature.inputs)
    raise InvalidInput("Missing 'inputs' or 'instances' key")


# -- row form: one item per row


def _from_instances(items: Any, specs: tuple[TensorSpec, ...]) -> list[np.ndarray]:
    if not isinstance(items, list | np.ndarray):
        raise InvalidInput(f"Expecting 'instances' to be an list/array, got {json_type(items)}")
    if len(items) == 0:
        raise InvalidInput("No values in 'instances' array")
    if _is_keyed(items[0]):
        return _keyed_rows(items, specs)
    if len(specs) > 1:
        raise InvalidInput(
            "instances is a plain list, but expecting list of objects as multiple input tensors required: "
            f"give each item the keys {_names(specs)}"
        )
    array = _fast(items, specs[0].dtype)
    return [_plain_rows(items, specs[0]) if array is None else array]


def _plain_rows(items: Iterable[Any], spec: TensorSpec) -> np.ndarray:
    column = Column(spec.dtype)
    for index, item in enumerate(_as_list(items)):
        if _is_keyed(item):
            raise InvalidInput(f"Expecting value/list but got object at item {index} of input list")
        try:
            column.add(item)
        except ModelServerError as error:
            raise InvalidInput(
                f"Failed to process element: {index} of 'instances' list. Error: {error}"
            ) from None
    return column.stacked()


def _keyed_rows(items: Any, specs: tuple[TensorSpec, ...]) -> list[np.ndarray]:
    names = {spec.name for spec in specs}
    if all(type(item) is dict and item.keys() == names for item in items):
        try:
            return [_stack([item[spec.name] for item in items], spec) for spec in specs]
        except ModelServerError:
            pass  # found again below, with its element and key, in TensorFlow Serving's order
    columns = {spec.name: Column(spec.dtype) for spec in specs}
    for index, item in enumerate(items):
        if not _is_keyed(item):
            got = "list" if isinstance(item, list) else json_type(item)
            raise InvalidInput(f"Expecting object but got {got} at item {index} of input list")
        for name, value in item.items():
            try:
                _column_named(name, columns).add(value)
            except ModelServerError as error:
                raise InvalidInput(
                    f"Failed to process element: {index} key: {cut(name)} of 'instances' list. Error: {error}"
                ) from None
        if item.keys() != names:
            raise InvalidInput(
                f"Failed to process element: {index} of 'instances' list. JSON object: {quote(item)} "
                f"keys must be equal to: {_names(specs)}"
            )
    return [column.stacked() for column in columns.values()]


def _stack(values: list[Any], spec: TensorSpec) -> np.ndarray:
    array = _fast(values, spec.dtype)
    return _plain_rows(values, spec) if array is None else array


def _column_named(name: str, columns: Mapping[str, Column]) -> Column:
    column = columns.get(name)
    if column is None:
        raise InvalidInput(
            f"JSON object: does not have named input: {cut(name)} (the inputs are: {','.join(columns)})"
        )
    return column


# -- column form: one value per input


def _from_inputs(value: Any, specs: tuple[TensorSpec, ...]) -> list[np.ndarray]:
    if not _is_keyed(value):
        if len(specs) > 1:
            raise InvalidInput(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required: "
                f"give it the keys {_names(specs)}"
            )
        return [_whole(value, specs[0])]
    for spec in specs:
        if spec.name not in value:
            raise InvalidInput(f"Missing named input: {spec.name} in 'inputs' object.")
    return [_whole(value[spec.name], spec) for spec in specs]


def _whole(value: Any, spec: TensorSpec) -> np.ndarray:
    array = _fast(value, spec.dtype)
    if array is not None:
        return array
    column = Column(spec.dtype)
    column.add(_as_list(value))
    return column.only()


# -- the short cut


def _fast(value: Any, dtype: DType) -> np.ndarray | None:
    """The array of a nested list when numpy alone can tell that the rules allow it; else ``None``."""
    if isinstance(value, np.ndarray) and value.dtype == dtype.numpy and value.dtype != np.object_:
        return value
    if dtype.family is Family.NONE:
        return _small_floats(value, dtype)
    if dtype.family is Family.STRING:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # ragged, nested too deep
        return None
    if not _takes(array, dtype) or array.ndim > MAX_RANK:
        return None
    if dtype.family is not Family.BOOL and _hides_booleans(value, array):
        return None
    if array.dtype.kind == "f" and dtype.numpy.itemsize < array.itemsize:
        with np.errstate(over="ignore"):  # too large for float32 is Infinity
            return array.astype(dtype.numpy)
    return np.ascontiguousarray(array, dtype=dtype.numpy).reshape(array.shape)


def _small_floats(value: Any, dtype: DType) -> np.ndarray | None:
    """An array for float16 or bfloat16. JSON has no form for them, and other bodies have."""
    if dtype.name not in ("half", "bfloat16") or not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return None
    with np.errstate(over="ignore"):
        return value.astype(dtype.numpy)


def _takes(array: np.ndarray, dtype: DType) -> bool:
    kind = array.dtype.kind
    if not array.size:
        return kind in "fiub"
    if dtype.family is Family.FLOAT:
        return kind in "fiu"
    if dtype.family is Family.BOOL:
        return kind == "b"
    return kind in "iu" and int(array.min()) >= dtype.lowest and int(array.max()) <= dtype.highest


def _hides_booleans(value: Any, array: np.ndarray) -> bool:
    """Whether numpy turned a ``true`` or ``false`` among numbers into 1 or 0.

    A list without a 0 or 1 hides none, which numpy sees at a small part of the cost of looking at every
    value (150,528 values: 0.2 ms against 4.3 ms, beside 7.4 ms for ``np.asarray`` itself).
    """
    if isinstance(value, np.ndarray):
        return False
    if array.size > _SCAN_BELOW and not ((array == 0) | (array == 1)).any():
        return False
    leaves: Iterable[Any] = value if array.ndim else (value,)
    for _ in range(array.ndim - 1):
        leaves = chain.from_iterable(leaves)
    return bool in set(map(type, leaves))


# -- words


def _is_keyed(value: Any) -> bool:
    """An object that names inputs, as against ``{"b64": ...}``, which is a value."""
    return type(value) is dict and not is_b64(value)


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _names(specs: Sequence[TensorSpec]) -> str:
    return ",".join(spec.name for spec in specs)
