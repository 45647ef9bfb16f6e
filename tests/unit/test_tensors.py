"""JSON numbers to arrays: dtypes, and errors that say row, expected and got."""

import numpy as np
import pytest

from modelserver import InvalidInput, array_from_json


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([[1, 2], [3, 4]], None, np.array([[1, 2], [3, 4]], np.int64)),
        ([[1, 2.5]], None, np.array([[1, 2.5]], np.float32)),
        ([True, False], None, np.array([True, False])),
        ([[1, 2]], np.float32, np.array([[1, 2]], np.float32)),
        ([[1.0, 2.0]], np.int32, np.array([[1, 2]], np.int32)),
        ([], np.float32, np.zeros((0,), np.float32)),
        (5, None, np.array(5, np.int64)),
        ([1e39], np.float32, np.array([np.inf], np.float32)),
        ([0.1], np.float64, np.array([0.1])),
        ([[2**64 - 1, 1]], np.uint64, np.array([[2**64 - 1, 1]], np.uint64)),  # floats for numpy by itself
        ([2.0, 3.0], np.uint64, np.array([2, 3], np.uint64)),
    ],
)
def test_values_become_arrays(value, dtype, expected):
    array = array_from_json(value, dtype)
    np.testing.assert_array_equal(array, expected, strict=True)
    assert array.dtype == expected.dtype
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ([[1, 2], [3]], None, '"instances"[1] has shape [1], expected [2] as in "instances"[0]'),
        ([[[1], [2, 3]]], None, '"instances"[0][1] has shape [2], expected [1] as in "instances"[0][0]'),
        ([1, [2]], None, '"instances"[1] is a list, expected an integer as in "instances"[0]'),
        ([[1], 2], None, '"instances"[1] is an integer, expected a list as in "instances"[0]'),
        ([[1, "2"]], None, "\"instances\"[0][1] is a string '2', expected a number"),
        ([["1", "2"]], np.float32, "\"instances\"[0][0] is a string '1', expected a number"),
        ([[1, None]], None, '"instances"[0][1] is null, expected a number'),
        ([{"a": 1}], None, '"instances"[0] is an object, expected a number'),
        ([[1.5]], np.int64, '"instances" holds fractions, expected int64 integers'),
        (
            [2.0**63],  # as a double the largest int64 is this very number
            np.int64,
            '"instances" holds a number outside the range of int64 '
            "[-9223372036854775808, 9223372036854775807]",
        ),
        (
            np.array([1, np.inf]),
            np.int32,
            '"instances" holds a number outside the range of int32 [-2147483648, 2147483647]',
        ),
        (
            [[300]],
            np.uint8,
            '"instances" holds a number outside the range of uint8 [0, 255]',
        ),
        ([[True]], np.float32, '"instances" holds booleans, expected float32 numbers'),
        ([[1]], np.bool_, '"instances" holds numbers, expected booleans'),
        ([2**70], None, '"instances" holds a number that does not fit into 64 bits'),
    ],
)
def test_what_is_refused_says_where_got_and_wanted(value, dtype, text):
    with pytest.raises(InvalidInput) as caught:
        array_from_json(value, dtype)
    assert str(caught.value) == text


def test_the_input_is_named():
    with pytest.raises(InvalidInput, match=r"^tokens is a string"):
        array_from_json("x", name="tokens")


def test_an_array_is_not_copied():
    array = np.ones((2, 3), np.float32)
    assert array_from_json(array) is array


def test_the_largest_integers_have_the_dtype_that_frameworks_know():
    assert array_from_json([2**64 - 1], "uint64").dtype.char == np.dtype("uint64").char
