"""What ``--enable_batching`` asks of each run of a signature: how many rows it may have.

TensorFlow Serving wraps its session in these rules. Here they stand around the callables of ``saved_model``,
so that they hold for every request, whatever it came as and whether it was joined with others or not. Joining
itself is the server's (``Model.max_batch_size``): it never joins requests of different inner shapes.

Rules of the room: arrays in, arrays out; no TensorFlow, no JSON, no queue.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from modelserver import BatchingParameters, InvalidInput, ModelLoadError, StartError, batching_parameters
from tfserver.json_values import show_shape
from tfserver.signature import Signature

PARAMETERS_FILE = "batching_params.pbtxt"
Run = Callable[..., Sequence[Any]]
"""Takes the arrays to feed, in the order of the signature's inputs; gives its outputs."""


class BatchRules:
    """Sizes of runs, by TensorFlow Serving's batching parameters.

    Args:
        parameters: as they were written.

    Attributes:
        most_rows: rows in one run.
        sizes: the numbers of rows that runs have; empty: any.

    Raises:
        ModelLoadError: the parameters do not fit together.
    """

    def __init__(self, parameters: BatchingParameters) -> None:
        check(parameters)
        self.parameters = parameters
        self.sizes = parameters.allowed_batch_sizes
        self._splits = parameters.enable_large_batch_splitting
        most_executed = parameters.max_execution_batch_size if self._splits else 0
        self.most_rows = most_executed or parameters.max_batch_size

    @property
    def max_latency_ms(self) -> float:
        """How long a request may wait for others while the model is idle."""
        return self.parameters.batch_timeout_micros / 1000

    def run(self, run: Run, signature: Signature, *feeds: np.ndarray) -> Sequence[Any]:
        """Run a signature by these rules.

        Rows that were added to reach an allowed size are copies of the first row, and are cut from the
        outputs. (Where requests were joined, TensorFlow Serving copies the first row of the last one.)

        Raises:
            InvalidInput: the inputs have not one number of rows, or too many; an output has another.
        """
        rows = _rows(signature, feeds)
        if rows <= self.most_rows:
            return self._run_padded(run, signature, feeds, rows)
        if not self._splits:
            raise InvalidInput(
                f"Task size {rows} is larger than maximum input batch size {self.most_rows} "
                "(send fewer rows in one request, or raise max_batch_size)"
            )
        starts = range(0, rows, self.most_rows)
        pieces = [[feed[start : start + self.most_rows] for feed in feeds] for start in starts]
        parts = [self._run_padded(run, signature, piece, len(piece[0])) for piece in pieces]
        return [np.concatenate(of_one_output) for of_one_output in zip(*parts, strict=True)]

    def _run_padded(
        self, run: Run, signature: Signature, feeds: Sequence[np.ndarray], rows: int
    ) -> Sequence[Any]:
        size = self._allowed(rows)
        if size > rows:
            feeds = [np.concatenate((feed, np.repeat(feed[:1], size - rows, axis=0))) for feed in feeds]
        outputs = run(*feeds)
        _check_outputs(signature, outputs, size)
        return outputs if size == rows else [value[:rows] for value in outputs]

    def _allowed(self, rows: int) -> int:
        """The number of rows to run ``rows`` with. No rows stay none: there is nothing to copy."""
        return self.sizes[bisect_left(self.sizes, rows)] if self.sizes and rows else rows


def rules_for(
    folder: Path, parameters: BatchingParameters | None, *, is_per_model: bool
) -> BatchRules | None:
    """The rules for one version of a model; ``None``: it is not batched by any.

    Args:
        folder: of the version; holds ``batching_params.pbtxt``, perhaps.
        parameters: those of the command line.
        is_per_model: that file counts instead of them.

    Raises:
        ModelLoadError: the file cannot be read, or its parameters do not fit together.
    """
    if parameters is None:
        return None
    if not is_per_model:
        return BatchRules(parameters)
    path = folder / PARAMETERS_FILE
    if not path.is_file():
        return None
    try:
        return BatchRules(batching_parameters(str(path)))
    except (StartError, ModelLoadError) as error:
        raise ModelLoadError(f"{PARAMETERS_FILE} of the version is wrong: {error}") from error


def can_be_batched(signature: Signature) -> bool:
    """Whether the first size of all inputs and outputs is open or unknown, so that rows may come and go.

    One that fixes a first size, or gives or takes a single value, would fail with other rows beside its own,
    or answer something else.
    """
    shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs)]
    return bool(signature.inputs) and all(shape is None or shape[:1] == (-1,) for shape in shapes)


def _rows(signature: Signature, feeds: Sequence[np.ndarray]) -> int:
    if len(feeds) == 1 and feeds[0].ndim:
        return len(feeds[0])
    sizes: set[int | None] = {feed.shape[0] if feed.ndim else None for feed in feeds}
    size = sizes.pop()
    if not sizes and size is not None:
        return size
    shapes = ", ".join(
        f'"{spec.name}": {show_shape(feed.shape)}' for spec, feed in zip(signature.inputs, feeds, strict=True)
    )
    if None in (size, *sizes):
        raise InvalidInput(f"Batching Run() input tensors must have at least one dimension ({shapes})")
    raise InvalidInput(f"Batching Run() input tensors must have equal 0th-dimension size ({shapes})")


def _check_outputs(signature: Signature, outputs: Sequence[Any], rows: int) -> None:
    for spec, value in zip(signature.outputs, outputs, strict=True):
        shape = getattr(value, "shape", ())  # a string of rank 0 comes as bytes
        if not shape:
            raise InvalidInput(
                f'Batched output tensor has 0 dimensions (output "{spec.name}" is one value, not one per '
                "row; such a signature cannot be served with --enable_batching)"
            )
        if shape[0] != rows:
            raise InvalidInput(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                f'of the input tensors (output "{spec.name}" has {shape[0]} rows, the inputs have {rows}; '
                "such a signature cannot be served with --enable_batching)"
            )


def check(parameters: BatchingParameters) -> None:
    """See that parameters fit together.

    Raises:
        ModelLoadError: they do not; the text names them.
    """
    p = parameters
    lowest = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1}
    lowest |= {"num_batch_threads": 0, "max_execution_batch_size": 0}
    for name, least in lowest.items():
        if (value := getattr(p, name)) < least:
            raise ModelLoadError(f"Batching parameters: {name} is {value}, expected at least {least}.")
    last = "max_batch_size"
    if p.enable_large_batch_splitting and p.max_execution_batch_size:
        last = "max_execution_batch_size"
        if p.max_execution_batch_size > p.max_batch_size:
            raise ModelLoadError(
                f"Batching parameters: max_execution_batch_size is {p.max_execution_batch_size}, expected at "
                f"most max_batch_size, {p.max_batch_size}."
            )
    sizes = p.allowed_batch_sizes
    if not sizes:
        return
    if sizes[0] < 1 or any(size <= before for before, size in pairwise(sizes)):
        raise ModelLoadError(
            f"Batching parameters: allowed_batch_sizes are {list(sizes)}, expected numbers from 1 on, each "
            "larger than the one before it."
        )
    if sizes[-1] != getattr(p, last):
        raise ModelLoadError(
            f"Batching parameters: the last of allowed_batch_sizes is {sizes[-1]}, expected {last}, "
            f"{getattr(p, last)}."
        )
