"""How many threads TensorFlow's operators may use: one, if all models of the process are short.

Some kernels hand their work to the pool's threads however little it is, and wait: oneDNN's softmax over three
numbers does. A call of a 4-10-10-3 network with a softmax took 100 us (127 us of CPU) with two threads and 22
us with one; a stack of 2048x2048 layers with 256 rows 35 ms with two and 59 ms with one. The pool belongs to
the process, and the first session fixes its size. So it is decided before that, from the graphs: a
measurement would come too late.

Without this rule TensorFlow takes TF_NUM_INTRAOP_THREADS, which the server sets to a worker's share of the
cores, or else all cores.

Rules of the room: looks at sizes of files and at descriptions of graphs; imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

from tfserver.side_effects import operations
from tfserver.signature import Signature

ANY_NUMBER = 0
"""TensorFlow's own choice, in its words."""

_MOST_VARIABLES = 1024 * 1024
"""Bytes. 256 rows through so many weights take 0.9 ms on one thread, and no less on two (measured)."""
_MOST_GRAPH = 4 * 1024 * 1024
"""Bytes of ``saved_model.pb``: weights may be in it as constants."""
_MOST_ROW = 4096
"""Values in one row."""
_SHORT = frozenset(
    (
        "Abs", "Add", "AddN", "AddV2", "ArgMax", "ArgMin", "AsString", "BiasAdd", "Bucketize", "Cast",
        "ConcatV2", "Const", "Div", "DivNoNan", "Elu", "Equal", "Erf", "Erfc", "Exp", "ExpandDims", "Floor",
        "GatherV2", "Greater", "GreaterEqual", "HashTableV2", "Identity", "IdentityN", "LeakyRelu", "Less",
        "LessEqual", "Log", "Log1p", "LogSoftmax", "LogicalAnd", "LogicalNot", "LogicalOr",
        "LookupTableFindV2", "MatMul", "Max", "Maximum", "Mean", "Min", "Minimum", "Mul", "Neg", "NoOp",
        "NotEqual", "OneHot", "Pack", "PartitionedCall", "Placeholder", "Pow", "Prod", "Rank",
        "ReadVariableOp", "RealDiv", "Relu", "Relu6", "Reshape", "ResourceGather", "Round", "Rsqrt",
        "Select", "SelectV2", "Selu", "Shape", "Sigmoid", "Sign", "Softmax", "Softplus", "Softsign", "Sqrt",
        "Square", "SquaredDifference", "Squeeze", "StatefulPartitionedCall", "StopGradient", "StridedSlice",
        "StringToHashBucketFast", "Sub", "Sum", "Tanh", "Transpose", "Unpack", "VarHandleOp", "Variable",
        "VariableV2",
    )
)  # fmt: skip
"""Operations whose work is a small multiple of their input's and weights' sizes. One that is not here,
such as a convolution, may be long with few weights."""

Graphs = Iterable[tuple[Any, Sequence[Signature]]]
"""Each ``GraphDef`` of a SavedModel with the signatures in it."""


def is_short(folder: Path, graphs: Callable[[Path], Graphs]) -> bool:
    """Whether any call of the SavedModel in ``folder`` is short on one thread.

    Args:
        folder: holds ``saved_model.pb`` and ``variables/``.
        graphs: reads its graphs; called only if its files are small.
    """
    graph_bytes = sum(file.stat().st_size for file in folder.glob("saved_model.pb*"))
    variable_bytes = sum(file.stat().st_size for file in folder.glob("variables/*"))
    if graph_bytes > _MOST_GRAPH or variable_bytes > _MOST_VARIABLES:
        return False
    try:
        return all(_all_short(graph_def, signatures) for graph_def, signatures in graphs(folder))
    except Exception:  # a damaged file; loading it says what is wrong
        return False


def _all_short(graph_def: Any, signatures: Sequence[Signature]) -> bool:
    calls = {function.signature.name for function in graph_def.library.function}
    return all(
        _row_is_small(signature) and operations(graph_def, signature) <= _SHORT | calls
        for signature in signatures
    )


def _row_is_small(signature: Signature) -> bool:
    shapes = [spec.shape for spec in signature.inputs]
    return all(shape is not None and -1 not in shape[1:] and prod(shape[1:]) <= _MOST_ROW for shape in shapes)


class Pool:
    """The threads that all sessions of this process share: decided once, at the first."""

    def __init__(self) -> None:
        self._threads: int | None = None

    def threads(self, folders: Iterable[Path], graphs: Callable[[Path], Graphs]) -> int:
        """The number for the next session: 1 or ``ANY_NUMBER``.

        Args:
            folders: the SavedModels that this process is to serve, as far as is known.
            graphs: see ``is_short``.
        """
        if self._threads is None:
            self._threads = 1 if all(is_short(folder, graphs) for folder in folders) else ANY_NUMBER
        return self._threads

    def is_too_small(self, folder: Path, graphs: Callable[[Path], Graphs]) -> bool:
        """Whether a SavedModel has to do with one thread and should have more: it was not known in time."""
        return self._threads == 1 and not is_short(folder, graphs)
