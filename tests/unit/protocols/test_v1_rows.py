"""Joining V1 requests and giving each its own predictions."""

import numpy as np
import pytest

from modelserver.errors import InvalidInput, PredictionCountError
from modelserver.protocols.v1_rows import batch_key, join, split


def request(*rows, **others):
    return {"instances": list(rows), **others}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (request([1.0, 2.0]), request([3.0, 4.0], [5.0, 6.0]), True),
        (request([1.0, 2.0]), request([1.0]), False),
        (request([1.0]), request([1]), False),
        (request([1.0]), request(["a"]), False),
        (request(1.0), request([1.0]), False),
        (request({"a": 1}), request({"a": 2}), True),
        (request({"a": 1}), request({"b": 1}), False),
        (request([1.0], signature_name="a"), request([1.0], signature_name="a"), True),
        (request([1.0], signature_name="a"), request([1.0], signature_name="b"), False),
        (request([1.0], signature_name="a"), request([1.0]), False),
    ],
)
def test_which_requests_go_together(one, other, together):
    assert (batch_key(one) == batch_key(other)) is together


def rows(*shape, dtype="float32", **others):
    return {"instances": np.ones(shape, dtype), **others}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (rows(1, 4), rows(2, 4), True),
        (rows(1, 4), rows(1, 3), False),
        (rows(1, 4), rows(1, 4, 1), False),
        (rows(1, 4), rows(1, 4, dtype="int64"), False),
        (rows(3), rows(2), True),
        (rows(1, 4, signature_name="a"), rows(1, 4, signature_name="a"), True),
        (rows(1, 4, signature_name="a"), rows(1, 4), False),
        (rows(1, 4), request([1.0, 1.0, 1.0, 1.0]), False),
        (rows(1), request(1.0), False),
    ],
)
def test_which_arrays_go_together(one, other, together):
    assert (batch_key(one) == batch_key(other)) is together
    assert batch_key(one) is not None


def test_arrays_are_joined_to_one():
    payloads = [rows(1, 2, name="a"), {"instances": np.zeros((2, 2), "float32"), "name": "a"}]
    joined = join(payloads)
    assert (joined["instances"].tolist(), joined["name"]) == ([[1, 1], [0, 0], [0, 0]], "a")
    assert joined["instances"].dtype == np.float32
    first, second = split({"predictions": joined["instances"].sum(axis=1)}, payloads)
    assert (first["predictions"].tolist(), second["predictions"].tolist()) == ([2], [0, 0])


@pytest.mark.parametrize("array", [np.zeros((0, 4)), np.zeros((2, 0)), np.array(1.0)])
def test_an_array_without_rows_or_values_stays_alone(array):
    assert batch_key({"instances": array}) is None


@pytest.mark.parametrize(
    "alone",
    [b"bytes", None, {}, request(), {"instances": "x"}, {"inputs": [1]}, request(1, parameters={"a": 1})],
)
def test_what_stays_alone(alone):
    assert batch_key(alone) is None


@pytest.mark.parametrize("predictions", [[10, 20, 30], np.array([10, 20, 30])])
def test_each_gets_its_own(predictions):
    payloads = [request(1), request(2, 3)]
    assert join(payloads) == request(1, 2, 3)
    first, second = split({"predictions": predictions, "version": 7}, payloads)
    assert (list(first["predictions"]), first["version"]) == ([10], 7)
    assert (list(second["predictions"]), second["version"]) == ([20, 30], 7)


@pytest.mark.parametrize(
    "answer", [{"predictions": [1, 2]}, {"predictions": [1, 2, 3, 4]}, {}, [1, 2, 3], None]
)
def test_another_number_of_predictions_is_never_shared_out(answer):
    with pytest.raises(PredictionCountError, match=r"for 3 instances of 2 joined requests"):
        split(answer, [request(1), request(2, 3)])


@pytest.mark.parametrize(
    ("lists", "array", "dtype", "together"),
    [
        (request([1.5, 2.5]), rows(1, 2), "float32", True),
        (request([1.5, 2.5]), rows(1, 2), np.float32, True),
        (request(1.5), rows(2), np.dtype("float32"), True),
        (request([[1.5]]), rows(2, 1, 1), "float32", True),
        (request([1, 2]), rows(1, 2, dtype="int64"), "int64", True),
        (request([True]), rows(1, 1, dtype="bool"), "bool", True),
        (request([1.5, 2.5]), rows(1, 2), "number", True),
        (request([1, 2]), rows(1, 2, dtype="int64"), "number", True),
        (request([1.5, 2.5], signature_name="a"), rows(1, 2, signature_name="a"), "float32", True),
        (request([1.5, 2.5], signature_name="a"), rows(1, 2), "float32", False),
        (request([1, 2]), rows(1, 2), "float32", False),
        (request([1.5, 2.5]), rows(1, 3), "float32", False),
        (request([1.5, 2.5]), rows(1, 2, dtype="float64"), "float32", False),
        (request([1.5, 2.5]), rows(1, 2, dtype="float64"), "number", False),
        (request([1.5, 2.5]), rows(1, 2), None, False),
    ],
)
def test_lists_go_with_arrays_of_what_they_are_read_as(lists, array, dtype, together):
    assert (batch_key(lists, dtype) == batch_key(array, dtype)) is together


def test_lists_and_arrays_are_joined_to_one_array():
    joined = join([request([1.5, 2.5]), rows(2, 2), request([3, 4])], "float32")["instances"]
    assert joined.dtype == np.float32
    assert joined.tolist() == [[1.5, 2.5], [1, 1], [1, 1], [3, 4]]
    with pytest.raises(InvalidInput, match="is a string"):
        join([request([1.5, "2"]), rows(1, 2)], "float32")
