"""The examples of a classify or regress request: TensorFlow Serving's ``Input`` -> what the hooks take.

Rules of the room: messages in, values out. The form is that of the JSON body,
``{"examples": [...], "context": ...}``, with each example as a serialized ``tf.train.Example`` for a model
that knows these, and as a dictionary of its features for any other.
"""

from __future__ import annotations

from typing import Any

from modelserver.errors import InvalidInput


def serialized(given: Any) -> dict[str, Any]:
    """Examples and context, if there is one, as bytes.

    Args:
        given: an ``Input``.

    Raises:
        InvalidInput: there is no example.
    """
    examples, context = _parts(given)
    payload: dict[str, Any] = {"examples": [example.SerializeToString() for example in examples]}
    if context is not None:
        payload["context"] = context.SerializeToString()
    return payload


def plain(given: Any) -> dict[str, Any]:
    """Examples as dictionaries, with the features of the context in each.

    A feature of one value is that value, any other a list. Values are numbers or ``bytes``.

    Args:
        given: an ``Input``.

    Raises:
        InvalidInput: there is no example.
    """
    examples, context = _parts(given)
    common = {} if context is None else _features(context)
    return {"examples": [common | _features(example) for example in examples]}


def _parts(given: Any) -> tuple[Any, Any]:
    kind = given.WhichOneof("kind")
    chosen = getattr(given, kind) if kind else None
    if chosen is None or not chosen.examples:
        raise InvalidInput("Input is empty.")
    return chosen.examples, chosen.context if kind == "example_list_with_context" else None


def _features(example: Any) -> dict[str, Any]:
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        found[name] = values[0] if len(values) == 1 else values
    return found
