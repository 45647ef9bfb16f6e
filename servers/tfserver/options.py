"""What the command line says of TensorFlow models: TensorFlow Serving's flags, by their names there.

Rules of the room: arguments in, values out; imports no TensorFlow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelserver import BatchingParameters

_WORDS = {"true": True, "t": True, "yes": True, "y": True, "on": True, "1": True}
_WORDS |= {"false": False, "f": False, "no": False, "n": False, "off": False, "0": False}
_BOTH = "--tensorflow_session_parallelism"
_PAIR = ("--tensorflow_intra_op_parallelism", "--tensorflow_inter_op_parallelism")


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the sessions of this process share. The first one fixes it for all."""

    intra_op_threads: int = 0
    """Threads among which an operator divides its work. 0: decided by ``cpu_threads``."""

    inter_op_threads: int = 0
    """Threads for operators that do not wait for each other. Up to 1: a call runs on its caller's thread."""

    gpu_memory_fraction: float = 0.0
    """Of each GPU's memory, at most so much. 0: what is needed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a TensorFlow model is to be served."""

    session: SessionOptions = SessionOptions()

    batching: BatchingParameters | None = None
    """``None``: requests are joined where their rows are independent, and no size is refused."""

    per_model_batching: bool = False
    """Whether each model brings its own parameters; one that brings none is served as without batching."""

    warm_up_iterations: int = 1
    """How often each warm-up record is replayed. 0: the file is not looked at."""

    checks_method_names: bool = False
    """Whether a signature is classified or regressed with only if it says so, as TensorFlow Serving 1.14 had
    it."""

    @classmethod
    def of(cls, namespace: argparse.Namespace) -> Options:
        """What a command line says. One that knows none of the flags says nothing."""

        def told(name: str, default: Any) -> Any:
            return getattr(namespace, name, default)

        both = told("tensorflow_session_parallelism", 0)
        return cls(
            SessionOptions(
                both or told("tensorflow_intra_op_parallelism", 0),
                both or told("tensorflow_inter_op_parallelism", 0),
                told("per_process_gpu_memory_fraction", 0.0),
            ),
            told("batching", None),
            told("enable_per_model_batching_parameters", False),
            # 0 is TensorFlow Serving's "not told".
            (told("num_request_iterations_for_warmup", 0) or 1) if told("enable_model_warmup", True) else 0,
            told("enable_signature_method_name_check", False),
        )


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the flags."""
    parser.add_argument(
        "--saved_model_tags",
        default="serve",
        metavar="TAG[,TAG]",
        help="the graph of the SavedModel to serve, by its tags (default: serve)",
    )
    for flag, meaning in (
        (_BOTH, "both of the following"),
        (_PAIR[0], "threads among which an operator divides its work, in each worker"),
        (_PAIR[1], "threads for operators that do not wait for each other, in each worker"),
    ):
        parser.add_argument(
            flag, type=_count, default=0, metavar="N", action=_Threads, help=f"{meaning} (default: 0, chosen)"
        )
    parser.add_argument(
        "--per_process_gpu_memory_fraction",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="share of each GPU's memory that a worker may take (default: 0, what it needs)",
    )
    _add_switch(
        parser,
        "--enable_per_model_batching_parameters",
        False,
        "with --enable_batching: what counts is batching_params.pbtxt in each version's folder; a model "
        "without one is served as without --enable_batching",
    )
    _add_switch(
        parser,
        "--enable_model_warmup",
        True,
        "replay assets.extra/tf_serving_warmup_requests before a model is ready",
    )
    parser.add_argument(
        "--num_request_iterations_for_warmup",
        type=_count,
        default=1,
        metavar="N",
        help="how often each of its records is replayed (default: 1)",
    )
    _add_switch(
        parser,
        "--enable_signature_method_name_check",
        False,
        "classify and regress only with signatures whose method name says so",
    )


def _add_switch(parser: argparse._ArgumentGroup, flag: str, default: bool, meaning: str) -> None:
    shown = str(default).lower()
    parser.add_argument(
        flag,
        type=_switch,
        nargs="?",
        const=True,
        default=default,
        metavar="BOOL",
        help=f"{meaning} (default: {shown})",
    )


class _Threads(argparse.Action):
    """Keeps a number of threads, and refuses the one flag beside the other two."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        both, *pair = (getattr(namespace, flag.removeprefix("--"), 0) for flag in (_BOTH, *_PAIR))
        if both and any(pair):
            raise argparse.ArgumentError(
                self, f"{_BOTH} sets what {' and '.join(_PAIR)} set; give one or the others"
            )


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _switch(text: str) -> bool:
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false") from None
