"""CPU time of the codecs: TensorFlow Serving's JSON rules beside KServe's, without network and model.

    python benchmarks/codec.py

For each request: what reads the body and makes the arrays to feed, and what makes the body of the answer. The
plain way is ``v1_json`` with ``array_from_json``; TensorFlow's way is ``tfs_json`` with the predictor's
``feeds`` and ``answers``. The two are measured in turn; the smallest of the rounds counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))

from modelserver import array_from_json
from modelserver.protocols import tfs_json, v1_json
from tfserver.answers import AnswerForm
from tfserver.feeds import feeds_from_request
from tfserver.signature import Signature, TensorSpec, dtype_named

ROUNDS, ROUND_S = 9, 0.1
FLOAT, STRING = dtype_named("float"), dtype_named("string")

Call = Callable[[], Any]


def signature(dtype: Any, *inputs: str) -> Signature:
    specs = tuple(TensorSpec(name, f"{name}:0", dtype, None) for name in inputs)
    return Signature("serving_default", specs, (TensorSpec("y", "y:0", dtype, None),))


def ways(
    body: bytes, outputs: np.ndarray, dtype: Any = FLOAT, *, inputs: tuple[str, ...] = ("x",)
) -> list[Call]:
    """The plain way (of numbers only) and TensorFlow's way of one request."""
    wanted = signature(dtype, *inputs)
    form = AnswerForm(wanted)
    kind = "float32" if dtype is FLOAT and len(inputs) == 1 else None

    def plain() -> Any:
        payload: Any = v1_json.decode_request(body, "application/json", kind)
        array_from_json(payload["instances"], "float32")
        return v1_json.encode_response({"predictions": outputs})

    def tensorflow() -> Any:
        payload: Any = tfs_json.decode_request(body, "application/json", kind)
        feeds_from_request(payload, wanted)
        return tfs_json.encode_response(form.rows([outputs]))

    return [plain, tensorflow] if kind and b"NaN" not in body else [tensorflow]


def body(instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def requests() -> dict[str, list[Call]]:
    random = np.random.default_rng(0)
    iris = random.random((2, 4), np.float32).round(1).tolist()
    scores = random.random((2, 3), np.float32)
    image = random.random((1, 224, 224, 3), np.float32)
    with_nan = image.copy()
    with_nan[0, 100, 100, 1] = np.nan
    rows = [{"a": row, "b": row} for row in iris]
    return {
        "2 rows of 4 float32": ways(body(iris), scores),
        "the same, one NaN in the answer": ways(body(iris), np.array([[0.1, np.nan, 0.2]] * 2, np.float32)),
        "the same, one NaN in the request": ways(body([*iris[:1], [float("nan"), 1.5, 1.5, 1.5]]), scores),
        "2 rows of two named inputs": ways(body(rows), scores, inputs=("a", "b")),
        "2 strings": ways(body(["a", "b"]), np.array([b"a", b"b"], object), STRING),
        "1 picture, 224x224x3 float32": ways(body(image.tolist()), random.random((1, 1000), np.float32)),
        "the picture, one NaN in it": ways(body(with_nan.tolist()), random.random((1, 1000), np.float32)),
    }


def measured(calls: list[Call]) -> list[float]:
    """Microseconds of CPU for each, the smallest of the rounds."""
    numbers, best = [], [float("inf")] * len(calls)
    for call in calls:
        started = time.process_time()
        call()
        numbers.append(max(1, int(ROUND_S / max(time.process_time() - started, 1e-6))))
    for _ in range(ROUNDS):
        for index, (call, number) in enumerate(zip(calls, numbers, strict=True)):
            started = time.process_time()
            for _ in range(number):
                call()
            best[index] = min(best[index], (time.process_time() - started) / number * 1e6)
    return best


def main() -> None:
    print("| request | plain V1, us | TensorFlow Serving's rules, us | ratio |\n|---|---|---|---|")
    for name, calls in requests().items():
        *plain, tensorflow = measured(calls)
        ratio = f"{tensorflow / plain[0]:.2f}" if plain else ""
        print(
            f"| {name} | {plain[0] if plain else 0:,.1f} | {tensorflow:,.1f} | {ratio} |".replace(
                "| 0.0 |", "| |"
            )
        )


if __name__ == "__main__":
    main()
