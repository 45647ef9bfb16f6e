"""Requests of named arrays as rows: which of them may share one call, and whose outputs are whose.

What ``protocols.v1_rows`` is for V1 bodies. An array says less than ``instances`` do: its first size may be
anything, such as steps in time. So a model has to say that such requests may be joined (``Model.may_join``).

Rules of the room: requests in, requests out; numpy is imported when they are joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from modelserver.messages import TensorRequest, TensorResponse


def batch_key(request: TensorRequest) -> Hashable | None:
    """What two requests must have in common to be joined; ``None`` for one that must stay alone.

    The signature, the outputs that are wanted, and of each input its name, its dtype and the shape of a row.
    """
    counts = {len(array) if array.ndim else 0 for array in request.inputs.values()}
    if len(counts) != 1 or 0 in counts:
        return None
    inputs = sorted((name, array.shape[1:], array.dtype.str) for name, array in request.inputs.items())
    return TensorRequest, request.signature_name, tuple(request.outputs), tuple(inputs)


def row_count(request: TensorRequest) -> int:
    """The rows of a request that has a ``batch_key``."""
    return len(next(iter(request.inputs.values())))


def join(requests: Sequence[TensorRequest]) -> TensorRequest:
    """One request with the rows of all. They share a ``batch_key``."""
    import numpy as np

    names = requests[0].inputs
    inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in names}
    return replace(requests[0], inputs=inputs)


def split(response: TensorResponse, requests: Sequence[TensorRequest]) -> list[TensorResponse]:
    """Give each request its own rows, in order.

    Raises:
        ValueError: an output has not one row for each. Alone, each request may be answered all the same, and
            the batcher then tries that.
    """
    counts = [row_count(request) for request in requests]
    for name, array in response.outputs.items():
        if not array.ndim or len(array) != sum(counts):
            raise ValueError(
                f"output {name} has the shape {array.shape} for {sum(counts)} rows of {len(counts)} joined "
                "requests"
            )
    answers, start = [], 0
    for count in counts:
        own = {name: array[start : start + count] for name, array in response.outputs.items()}
        answers.append(replace(response, outputs=own))
        start += count
    return answers
