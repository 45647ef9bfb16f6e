"""What a script of cases for a real client is made of: it runs in .venv-clients and prints JSON.

Only the standard library and numpy are imported here: this runs in both environments.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Case = Callable[..., Any]


class Cases:
    """The cases of a script, by name: functions or coroutine functions of what they are to talk to."""

    def __init__(self) -> None:
        self.named: dict[str, Case] = {}

    def __call__(self, function: Case) -> Case:
        self.named[function.__name__] = function
        return function

    def run(self, *arguments: Any) -> None:
        """Run them all, in order, and print a JSON object of what each returned or raised."""
        print(json.dumps(asyncio.run(self._results(arguments)), default=_plain))

    async def _results(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, function in self.named.items():
            try:
                value = function(*arguments)
                results[name] = {"gave": await value if inspect.isawaitable(value) else value}
            except Exception as error:  # what it is, is for the test to judge
                results[name] = {"raised": type(error).__name__, "text": str(error)}
        return results


def servers() -> dict[str, Any]:
    """What the test has said: the first argument."""
    said: dict[str, Any] = json.loads(sys.argv[1])
    return said


def told(array: Any) -> list[Any]:
    """An array as dtype, shape and values."""
    return [str(array.dtype), list(array.shape), array.ravel().tolist()]


def samples(*without: str) -> dict[str, np.ndarray]:
    """Two values of each datatype that numpy has, at the edges of what it holds."""
    made = {"BOOL": np.array([True, False])}
    for bits in (8, 16, 32, 64):
        for sign, kind in (("", np.int64), ("U", np.uint64)):
            dtype = np.dtype(f"{np.dtype(kind).kind}{bits // 8}")
            made[f"{sign}INT{bits}"] = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    for bits in (16, 32, 64):
        dtype = np.dtype(f"f{bits // 8}")
        made[f"FP{bits}"] = np.array([np.finfo(dtype).max, -0.1], dtype)
    return {name: array for name, array in made.items() if name not in without}


def came_back(arrays: dict[str, np.ndarray], got: Callable[[str], np.ndarray]) -> dict[str, bool]:
    """For each array whether what ``got`` has under its name is the same, dtype and shape included."""
    return {
        name: got(name).dtype == array.dtype and bool(np.array_equal(got(name), array))
        for name, array in arrays.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return told(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
