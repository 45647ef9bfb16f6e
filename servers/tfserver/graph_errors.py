"""What TensorFlow says when a graph fails, turned into what a client reads.

Rules of the room: TensorFlow's own words, without its stack and the names of its nodes, under the status that
TensorFlow Serving gives them (its code map). Imports no TensorFlow: an error comes as its code and message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from modelserver import InferenceError, InvalidInput, ModelServerError
from tfserver.json_values import show_shape
from tfserver.signature import Signature, TensorSpec, tensorflow_name

_INVALID_ARGUMENT, _FAILED_PRECONDITION, _OUT_OF_RANGE = 3, 9, 11
_BAD_REQUEST = (_INVALID_ARGUMENT, _FAILED_PRECONDITION, _OUT_OF_RANGE)
_STATUS = {
    1: 499,  # cancelled
    4: 504,  # deadline exceeded
    5: 404,  # not found
    6: 409,  # already exists
    7: 403,  # permission denied
    8: 429,  # resource exhausted
    10: 409,  # aborted
    12: 501,  # unimplemented
    14: 503,  # unavailable
    16: 401,  # unauthenticated
}
"""The codes that are neither 400 nor 500 (unknown, internal, data loss)."""

_NODE_NAMES = re.compile(r"\s*(\[\[)?(\{\{\w+ [^}]*\}\})+(\]\])?")
_ROOT_ERROR = re.compile(r"^\(\d+\)\s+[A-Z_]+:\s*")
_PREAMBLE = re.compile(r"Graph execution error|Detected at node|<stack traces|\d+ root error|File \"")


class GraphError(ModelServerError):
    """The graph failed with a status that is neither the client's 400 nor our 500."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def public_error(
    code: int, message: str, signature: Signature, feeds: Sequence[np.ndarray]
) -> ModelServerError:
    """The error to raise for a failed run.

    Args:
        code: TensorFlow's error code.
        message: its text, of one or many lines.
        signature: what was called.
        feeds: with which arrays; a 400 ends with the dtypes and shapes that differ from the signature, which
            is mostly why the graph complained.
    """
    text = first_line(message)
    if code in _BAD_REQUEST:
        return InvalidInput(text + _unlike_signature(signature, feeds))
    status = _STATUS.get(code)
    return InferenceError(text) if status is None else GraphError(text, status)


def first_line(message: str) -> str:
    """The line of a TensorFlow message that says what is wrong, without what stands around it."""
    _, found, after = message.rpartition("\nNode: '")  # `Session.run` puts a Python stack before it
    if found:
        message = after.partition("\n")[2]
    for line in message.splitlines():
        text = _ROOT_ERROR.sub("", _NODE_NAMES.sub("", line).strip())
        if text and not _PREAMBLE.match(text):
            return text
    return message.strip()[:200] or "no message"


def _unlike_signature(signature: Signature, feeds: Sequence[np.ndarray]) -> str:
    notes = [
        _unlike(spec, feed, signature.name)
        for spec, feed in zip(signature.inputs, feeds, strict=True)
        if tensorflow_name(feed.dtype) != spec.dtype.name or not _fits(feed.shape, spec.shape)
    ]
    return f" ({'; '.join(notes)})" if notes else ""


def _unlike(spec: TensorSpec, feed: np.ndarray, signature_name: str) -> str:
    got, wanted = show_shape(feed.shape), show_shape(spec.shape)
    dtype = tensorflow_name(feed.dtype)
    if dtype != spec.dtype.name:
        got, wanted = f"{dtype} {got}", f"{spec.dtype.name} {wanted}"
    return f'input "{spec.name}" came as {got}, signature "{signature_name}" says {wanted}'


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> bool:
    return wanted is None or (
        len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))
    )
