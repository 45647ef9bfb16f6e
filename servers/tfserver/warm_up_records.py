"""Replays the requests that TensorFlow Serving's users ship with a version, before it is ready.

    VERSION/assets.extra/tf_serving_warmup_requests    a TFRecord file of PredictionLog messages

Rules of the room: which file, how many records, and what a failure says; what a record holds is
``modelserver.logged_calls``, what a call does is the model's. No TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modelserver import LoggedCall, ModelLoadError, logged_calls

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000
"""TensorFlow Serving refuses a file with more."""


def replay(
    folder: Path,
    read: Callable[[Path], Iterable[bytes]],
    answer: Callable[[LoggedCall], Any],
    iterations: int = 1,
) -> int:
    """Let a version answer its warm-up records.

    Args:
        folder: of the version; without the file in it, nothing happens.
        read: gives the records of a TFRecord file.
        answer: makes the version answer a call.
        iterations: how often each record is replayed; 0: the file is not looked at.

    Returns:
        The number of records.

    Raises:
        ModelLoadError: the file is damaged or has too many records, or the version fails on one of them.
    """
    path = folder / FILE
    if not iterations or not path.is_file():
        return 0
    number = 0
    for number, record in enumerate(read(path), 1):
        if number > MOST_RECORDS:
            raise ModelLoadError(f"{FILE} holds more than {MOST_RECORDS} records. Take some out.")
        try:
            calls = logged_calls(record)
            for call in calls * iterations:
                answer(call)
        except (Exception, SystemExit) as error:
            raise ModelLoadError(
                f"Record {number} in {FILE} fails: {type(error).__name__}: {error}. Correct the record, take "
                "the file out, or give --enable_model_warmup=false."
            ) from error
    return number
