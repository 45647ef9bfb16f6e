"""What a predictor package gives the command line: a way to tell its models and to make them.

And what any predictor does before its model is ready: ``warm_up`` with the requests that lie beside it.

Rules of the room: no framework and no entry-point look-up (``cli`` does that).
A package registers one under the entry-point group ``modelserver.predictors``:

    [project.entry-points."modelserver.predictors"]
    sklearn = "sklearnserver:predictor"
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from modelserver.errors import ModelLoadError
from modelserver.model import Model

WARMUP_FILE = "warmup.json"
_MOST_WARMUP_BYTES = 10 * 1024 * 1024  # the largest request body, as --max_buffer_size has it by default
_REPEATS = 3  # the second call of a kind may still compile or allocate
_REPEAT_FOR_S = 1.0


def no_arguments(parser: argparse._ArgumentGroup) -> None:
    """The predictor has no flags of its own."""


@dataclass(frozen=True)
class Predictor:
    """Serves models of one framework from a folder, without user code.

    The object itself must be cheap to import: it is loaded for every ``python -m modelserver``, also to
    look at other frameworks' models. ``build`` may import the framework.
    """

    framework: str
    """Name for people: ``PyTorch``."""

    expects: str
    """One line for error messages: what a folder must hold to be served."""

    detect: Callable[[Path], bool]
    """Look at a folder: is it this predictor's to load? Imports no framework and reads no weights."""

    build: Callable[[str, Path, argparse.Namespace], Model]
    """``build(model_name, model_dir, options)``: a model that is not loaded yet; may import the framework.
    ``options`` holds the parsed values of ``add_arguments``.

    A model with an attribute ``loads_before_fork`` that is true is loaded once, in the supervisor of several
    workers, which inherit it and share its memory. Only for a framework on the CPU whose loaded models
    survive a fork, with no connection that each worker needs for itself."""

    add_arguments: Callable[[argparse._ArgumentGroup], None] = no_arguments
    """Add the predictor's own flags, such as ``--model_class_name``."""


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are to be joined, in TensorFlow Serving's words: what ``--enable_batching`` asks for.

    A predictor finds them as ``options.batching``, which is ``None`` or not there without that flag. The
    values are as they were written; whether they fit together is the predictor's to say.
    """

    max_batch_size: int = 1000
    """Most rows in one call, and in one request."""

    batch_timeout_micros: int = 0
    """How long, in microseconds, a request may wait for others while the model is idle."""

    max_enqueued_batches: int = 10
    """Batches that may wait."""

    num_batch_threads: int = 0
    """Batches that may be computed at the same time; 0: as many as there are cores."""

    allowed_batch_sizes: tuple[int, ...] = ()
    """The numbers of rows that a call may have; a batch is padded to the next. Empty: any number."""

    pad_variable_length_inputs: bool = False
    """Whether requests of different inner shapes may share a batch, padded to the largest."""

    enable_large_batch_splitting: bool = False
    """Whether a large request is cut into several calls."""

    max_execution_batch_size: int = 0
    """Most rows in one of them; 0: ``max_batch_size``."""


def warmup_requests(folder: Path) -> list[dict[str, Any]]:
    """The V1 request bodies in ``warmup.json`` of a model's folder; none if there is no such file.

    The file holds one body, ``{"instances": [...]}``, or a list of them; at most 10 MiB. A version's folder
    (``0001/``) may hold one; else the one beside it, in the model's folder, is for all versions.

    Raises:
        ModelLoadError: the file is too large, no JSON, or holds something else.
    """
    path = folder / WARMUP_FILE
    if not path.is_file() and folder.name.isascii() and folder.name.isdigit():
        path = folder.parent / WARMUP_FILE
    if not path.is_file():
        return []
    size = path.stat().st_size
    if size > _MOST_WARMUP_BYTES:
        raise ModelLoadError(f"{WARMUP_FILE} has {size} bytes, expected at most {_MOST_WARMUP_BYTES}.")
    try:
        found = orjson.loads(path.read_bytes())
    except (orjson.JSONDecodeError, OSError) as error:
        raise ModelLoadError(f"{WARMUP_FILE} cannot be read as JSON: {error}.") from error
    bodies = found if isinstance(found, list) else [found]
    if not all(isinstance(body, dict) for body in bodies):
        raise ModelLoadError(
            f'{WARMUP_FILE} holds something else than requests. Expected a body such as {{"instances": '
            f"[...]}}, or a list of bodies."
        )
    return bodies


def warm_up(folder: Path, answer: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """Let a loaded model answer the requests of ``warmup.json``, so that no user waits for first calls.

    To be called at the end of ``load``, before ``ready`` is set. Each request is answered three times, as
    long as all together take less than a second; after that once.

    Args:
        folder: where the file may lie; without it nothing happens.
        answer: takes a body, as ``predict`` does.

    Returns:
        The requests; all of them can be answered.

    Raises:
        ModelLoadError: the file is wrong, or the model fails on one of its requests.
    """
    requests = warmup_requests(folder)
    until = time.monotonic() + _REPEAT_FOR_S
    for number, body in enumerate(requests, 1):
        for repeat in range(_REPEATS):
            if repeat and time.monotonic() > until:
                break
            try:
                answer(body)
            except (Exception, SystemExit) as error:
                raise ModelLoadError(
                    f"Request {number} of {len(requests)} in {WARMUP_FILE} fails: "
                    f"{type(error).__name__}: {error}. Correct the request, or take the file out."
                ) from error
    return requests
