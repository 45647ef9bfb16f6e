"""Requests share a call only where a row's answer does not depend on its neighbours."""

import logging
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tfserver.model import TensorFlowModel
from tfserver.row_independence import rows_are_independent
from tfserver.signature import Signature, TensorSpec, dtype_named

ROWS = tf.TensorSpec([None, 4], tf.float32)
WORDS = tf.TensorSpec([None], tf.string)
NUMBERS = tf.TensorSpec([None], tf.int64)
HALF, SMALL, COMPLEX = (tf.TensorSpec([None, 4], dtype) for dtype in (tf.half, tf.bfloat16, tf.complex64))
SHORT = tf.TensorSpec([None], tf.uint16)


def twice(rows: Any) -> Any:
    return {"y": 2 * rows}


def ranked(rows: Any) -> Any:
    return {"y": tf.nn.softmax(rows, axis=0)}


def centred(rows: Any) -> Any:
    return {"y": rows - tf.reduce_mean(rows, axis=0)}


def positive(rows: Any) -> Any:
    return {"y": tf.boolean_mask(rows, rows[:, 0] > 0)}


def position(rows: Any) -> Any:
    return {"y": tf.range(tf.shape(rows)[0])}


def refuses(rows: Any) -> Any:
    with tf.control_dependencies([tf.debugging.assert_equal(rows, 7.0)]):
        return {"y": tf.identity(rows)}


def squared(rows: Any) -> Any:
    return {"y": rows @ tf.ones([4, 4], rows.dtype)}


def upper(words: Any) -> Any:
    return {"y": tf.strings.upper(words)}


def sentence(words: Any) -> Any:
    joined = tf.strings.reduce_join(words, keepdims=True)
    return {"y": tf.repeat(joined, tf.shape(words)[0])}


def unique(numbers: Any) -> Any:
    return {"y": tf.unique(numbers).y}


@pytest.mark.parametrize(
    ("function", "spec", "joins"),
    [
        (twice, ROWS, True),
        (upper, WORDS, True),
        (refuses, ROWS, True),  # nothing could be tried out: the signature must do
        (ranked, ROWS, False),
        (centred, ROWS, False),
        (positive, ROWS, False),
        (position, ROWS, False),
        (sentence, WORDS, False),
        (unique, NUMBERS, False),
        # What JSON has no form for: V2 and gRPC have.
        *((squared, spec, True) for spec in (HALF, SMALL, COMPLEX)),
        *((centred, spec, False) for spec in (HALF, SMALL, COMPLEX)),
        (twice, SHORT, True),
        (unique, SHORT, False),
    ],
)
def test_rows_are_joined_where_they_do_not_depend_on_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, function: Any, spec: Any, joins: bool
) -> None:
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    model = TensorFlowModel("m", tmp_path)
    with caplog.at_level(logging.INFO):
        model.load()
    assert (model.max_batch_size > 1) is joins
    assert ("another answer beside other rows" in caplog.text) is not joins
    model.stop()


def test_a_network_with_weights_is_joined_whatever_its_kernels_round(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weights = [
        tf.Variable(random.standard_normal((n, m)).astype(np.float32)) for n, m in ((4, 300), (300, 3))
    ]
    module = tf.Module()
    module.weights = weights

    def serve(rows: Any) -> Any:
        return {"y": tf.nn.softmax(tf.nn.relu(rows @ weights[0]) @ weights[1])}

    module.serve = tf.function(serve, input_signature=[ROWS])
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    model = TensorFlowModel("m", tmp_path)
    model.load()
    assert model.max_batch_size > 1
    model.stop()


@pytest.mark.parametrize(
    ("dtype", "difference", "joins"),
    [
        (np.float32, 1e-4, True),
        (np.float32, 1e-2, False),
        (np.float16, 2e-3, True),
        (np.float16, 1e-2, False),
        (ml_dtypes.bfloat16, 2e-2, True),
        (ml_dtypes.bfloat16, 0.1, False),
    ],
)
def test_answers_may_differ_as_far_as_the_dtype_is_imprecise(
    dtype: Any, difference: float, joins: bool
) -> None:
    spec = TensorSpec("x", "x:0", dtype_named("float"), (-1,))

    def run(signature: Signature, feeds: Any) -> list[np.ndarray]:
        return [np.full(len(feeds[0]), 1 + difference * (len(feeds[0]) > 1), dtype)]

    assert rows_are_independent(run, [Signature("f", (spec,), (spec,))], lambda signature: False) is joins
