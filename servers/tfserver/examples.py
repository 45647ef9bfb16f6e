"""``:classify`` and ``:regress``: JSON examples to serialized ``tf.train.Example``, outputs to results.

    {"examples": [{"age": 46, "name": "x"}, ...], "context": {"country": "at"}}

A feature is a value or a flat list. Its kind comes from its first value: a string or ``{"b64": ...}`` is
bytes, a number with point or exponent a float, an integer or a boolean an int64. An integer for a feature
that the graph reads as float is refused by the graph, as in TensorFlow Serving.

Rules of the room: values in, arrays out and back; runs nothing. Error texts are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelserver import InvalidInput
from tfserver.answers import text_of
from tfserver.json_values import cut, decode_b64, is_b64, json_type, quote, show_shape
from tfserver.saved_model import Example
from tfserver.signature import Signature, tensorflow_name

_KINDS: dict[type, str] = {str: "bytes", bytes: "bytes", float: "float", int: "int64", bool: "int64"}
_METHOD_NAMES = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
_WORDS = {"classify": "classification", "regress": "regression"}


def examples_from_request(payload: Mapping[str, Any], verb: str) -> np.ndarray:
    """Read the examples.

    Args:
        payload: the request. Beside JSON's values, ``bytes`` may stand for a string, and in the place of an
            example or the context for a serialized one.
        verb: ``classify`` or ``regress``.

    Returns:
        Serialized examples, shape ``(examples,)``, objects. The context's features come first in each.

    Raises:
        InvalidInput: it does not fit; the text names the feature.
    """
    context = b""
    if "context" in payload:
        context = _serialized(payload["context"])
    if "examples" not in payload:
        raise InvalidInput(f"When method is {verb}, key 'examples' is expected and was not found")
    items = payload["examples"]
    if not isinstance(items, list):
        raise InvalidInput(f"Expecting 'examples' value to be an list/array, got {json_type(items)}")
    if not items:
        raise InvalidInput("'examples' value is an empty array")
    array = np.empty(len(items), dtype=object)
    array[:] = [context + _serialized(item) for item in items]
    return array


def check_classifies(signature: Signature, checks_method_name: bool = False) -> tuple[str, ...]:
    """The outputs that make a classification: ``classes``, ``scores`` or both.

    Raises:
        InvalidInput: the signature does not classify examples.
    """
    _check_input(signature, "classify", checks_method_name)
    names = [spec.name for spec in signature.outputs]
    if len(names) > 2:
        raise InvalidInput(f"Expected one or two output Tensors, found {len(names)}: {', '.join(names)}")
    wanted = tuple(name for name in ("classes", "scores") if name in names)
    if not wanted:
        raise InvalidInput(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Its outputs are: {', '.join(names)}"
        )
    return wanted


def check_regresses(signature: Signature, checks_method_name: bool = False) -> tuple[str, ...]:
    """The output that makes a regression: ``outputs``.

    Raises:
        InvalidInput: the signature has no regression for examples.
    """
    _check_input(signature, "regress", checks_method_name)
    names = tuple(spec.name for spec in signature.outputs)
    if len(names) != 1:
        raise InvalidInput(f"Expected one output Tensor, found {len(names)}: {', '.join(names)}")
    if names != ("outputs",):
        raise InvalidInput(f'No regression outputs found in SignatureDef: "outputs" is called {names[0]}')
    return names


def classifications(names: Sequence[str], values: Sequence[Any], count: int) -> list[list[list[Any]]]:
    """Classes and scores as ``[label, score]`` pairs, for each example.

    Args:
        names: what ``check_classifies`` gave.
        values: the outputs of these names.
        count: how many examples there were.

    Raises:
        InvalidInput: an output has another dtype or shape than ``(examples, classes)``.
    """
    found = dict(zip(names, values, strict=True))
    for name, value in found.items():
        shape = np.shape(value)
        if len(shape) != 2:
            raise InvalidInput(
                f"Expected Tensor shape: [batch_size num_classes] but got {show_shape(shape)} ({name})"
            )
        _check_dtype(f"{name} Tensor", value, "string" if name == "classes" else "float")
        if shape[0] != count:
            raise InvalidInput(f"Expected {name} output batch size of {count}. Got: {shape[0]}")
    classes, scores = found.get("classes"), found.get("scores")
    if classes is None:
        assert scores is not None
        return [[["", score] for score in row] for row in scores]
    if scores is None:
        return [[[text_of(label), 0.0] for label in row] for row in classes]
    if classes.shape != scores.shape:
        raise InvalidInput(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return [
        [[text_of(label), score] for label, score in zip(*rows, strict=True)]
        for rows in zip(classes, scores, strict=True)
    ]


def regressions(value: Any, count: int) -> np.ndarray:
    """One number for each example.

    Raises:
        InvalidInput: the output has another dtype or shape than ``(examples,)`` or ``(examples, 1)``.
    """
    shape = np.shape(value)
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise InvalidInput(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{show_shape(shape)}"
        )
    if shape[0] != count:
        raise InvalidInput(f"Input batch size did not match output batch size: {count} vs. {shape[0]}")
    _check_dtype("output Tensor", value, "float")
    return np.reshape(value, -1)


def _check_input(signature: Signature, verb: str, checks_method_name: bool) -> None:
    word = _WORDS[verb]
    if checks_method_name and signature.method_name != _METHOD_NAMES[verb]:
        raise InvalidInput(
            f"Expected {word} signature method_name to be {_METHOD_NAMES[verb]}. Was: {signature.method_name}"
        )
    names = [spec.name for spec in signature.inputs]
    if len(names) != 1:
        raise InvalidInput(f"Expected one input Tensor, found {len(names)}: {', '.join(names)}")
    if names != ["inputs"]:
        raise InvalidInput(f'No {word} inputs found in SignatureDef: "inputs" is called {names[0]}')


def _check_dtype(what: str, value: Any, wanted: str) -> None:
    got = tensorflow_name(value.dtype)
    if got != wanted:
        raise InvalidInput(f"Expected {what} of DT_{wanted.upper()}. Got: DT_{got.upper()}")


# -- features


def _serialized(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, dict):
        raise InvalidInput(f"Example must be JSON object but got JSON {json_type(item)}")
    example = Example()
    features = example.features.feature
    for name, value in item.items():
        try:
            feature = features[name]
        except (UnicodeEncodeError, ValueError):
            raise InvalidInput(f"Feature: {quote(name)} is not named in UTF-8") from None
        _fill(feature, name, value if isinstance(value, list) else [value])
    serialized: bytes = example.SerializeToString()
    return serialized


def _fill(feature: Any, name: str, values: list[Any]) -> None:
    if not values:
        return
    kind, taken = "", []
    for value in values:
        own = "bytes" if is_b64(value) else _KINDS.get(type(value))
        if own is None:
            raise InvalidInput(
                f"Feature: {cut(name)} has element with unexpected JSON type: {json_type(value)}"
            )
        if own != (kind or own):
            raise InvalidInput(
                f"Unexpected element type in feature: {cut(name)} expecting type: {kind}"
                f" (its first value is one; {quote(value)} is not)"
            )
        kind = own
        if kind == "bytes":
            value = _as_bytes(value)
        elif kind == "int64":
            value = int(value)  # protobuf takes no booleans
            if not -(2**63) <= value < 2**63:
                raise InvalidInput(f"Feature: {cut(name)} has uint64 element. Only int64 is supported.")
        taken.append(value)
    getattr(feature, f"{kind}_list").value.extend(taken)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return decode_b64(value)
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
