"""The Open Inference Protocol's datatypes as arrays, JSON values and raw bytes."""

import math

import ml_dtypes
import numpy as np
import pytest

from modelserver import InvalidInput, datatypes

VALUES = {
    "BOOL": [[True, False, True], [False, False, True]],
    "FP16": [[0.5, -2.0, 65504.0], [0.0, 1.0, 3.0]],
    "BF16": [[0.5, -2.0, 2.0**127], [0.0, 1.0, 3.0]],
    "BYTES": [["a", "", "é"], ["0", "x" * 300, "\n"]],
}


def values(datatype):
    return VALUES.get(datatype, [[0, 1, 2], [3, 100, 5]])


@pytest.mark.parametrize("datatype", datatypes.DATATYPES)
@pytest.mark.parametrize("is_flat", [True, False])
def test_json_values_and_raw_bytes_are_the_same_array(datatype, is_flat):
    given = [each for row in values(datatype) for each in row] if is_flat else values(datatype)
    array = datatypes.from_values(given, datatype, [2, 3], "x")
    assert array.dtype == datatypes.numpy_dtype(datatype)
    assert array.tolist() == values(datatype)
    raw = bytes(datatypes.pack(array, datatype))
    again = datatypes.unpack(raw, datatype, [2, 3], "x")
    assert again.dtype == array.dtype
    if datatype == "BYTES":
        assert (
            datatypes.texts(again)
            == datatypes.texts(array)
            == [b"a", b"", b"\xc3\xa9", b"0", b"x" * 300, b"\n"]
        )
        assert raw.startswith(b"\x01\0\0\0a\0\0\0\0\x02\0\0\0\xc3\xa9")
    else:
        assert len(raw) == 6 * datatypes.element_size(datatype)
        assert again.tolist() == values(datatype)


@pytest.mark.parametrize("datatype", [name for name in datatypes.DATATYPES if name != "BF16"])
def test_each_dtype_has_its_datatype(datatype):
    assert datatypes.datatype_of(datatypes.numpy_dtype(datatype)) == datatype


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [("U3", "BYTES"), ("S3", "BYTES"), (">f4", "FP32"), (">i8", "INT64"), (ml_dtypes.bfloat16, "BF16")],
)
def test_other_dtypes(dtype, datatype):
    assert datatypes.datatype_of(np.dtype(dtype)) == datatype


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "V3"])
def test_a_dtype_that_the_protocol_does_not_have(dtype):
    with pytest.raises(TypeError, match="there are no tensors of"):
        datatypes.datatype_of(np.dtype(dtype))


def test_bytes_are_little_endian_and_in_row_order():
    array = np.array([[1, 2], [3, 4]], ">i2").T
    assert bytes(datatypes.pack(array, "INT16")) == b"\x01\0\x03\0\x02\0\x04\0"
    assert bytes(datatypes.pack(np.array([1.5], np.float64), "FP32")) == np.float32(1.5).tobytes()


def test_bf16_is_rounded_to_even_as_ml_dtypes_does():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 100_000, np.uint32)
    floats = np.concatenate([bits.view(np.float32), np.float32([math.inf, -math.inf, math.nan, 0, -0.0])])
    with np.errstate(all="ignore"):
        expected = floats.astype(ml_dtypes.bfloat16)
    got = np.frombuffer(datatypes.pack(floats, "BF16"), "<u2")
    numbers = ~np.isnan(floats)
    assert (got[numbers] == expected.view(np.uint16)[numbers]).all()
    back = datatypes.unpack(got.tobytes(), "BF16", [len(floats)], "x")
    assert np.isnan(back[~numbers]).all()
    assert (back[numbers] == expected.astype(np.float32)[numbers]).all()
    assert bytes(datatypes.pack(expected, "BF16"))[:8] == got.tobytes()[:8]


def test_numbers_are_not_copied():
    body = bytearray(np.arange(6, dtype=np.float32).tobytes())
    array = datatypes.unpack(memoryview(body), "FP32", [2, 3], "x")
    array[0, 0] = 9
    assert np.frombuffer(body, np.float32)[0] == 9
    packed = datatypes.pack(array, "FP32")
    assert np.shares_memory(np.frombuffer(packed, np.float32), array)


def test_a_boolean_is_not_anything_else_than_true_or_false():
    array = datatypes.unpack(b"\x00\x01\x02\xff", "BOOL", [4], "x")
    assert array.tolist() == [False, True, True, True]
    assert bytes(datatypes.pack(array, "BOOL")) == b"\x00\x01\x01\x01"


@pytest.mark.parametrize("datatype", datatypes.DATATYPES)
@pytest.mark.parametrize("shape", [[0], [0, 3], [3, 0]])
def test_tensors_without_a_value(datatype, shape):
    for array in (
        datatypes.from_values([], datatype, shape, "x"),
        datatypes.unpack(b"", datatype, shape, "x"),
    ):
        assert array.shape == tuple(shape)
        assert array.dtype == datatypes.numpy_dtype(datatype)
        assert bytes(datatypes.pack(array, datatype)) == b""


def test_a_single_value():
    assert datatypes.from_values([2.5], "FP32", [], "x").shape == ()
    assert datatypes.unpack(b"\x05", "UINT8", [], "x") == 5


REFUSED_VALUES = [
    ([1, 2, 3], "FP32", [2], 'x: "data" has 3 values, and shape [2] has 2 values'),
    ([[1, 2], [3, 4]], "FP32", [4, 1], 'x: "data" has shape [2, 2], and shape [4, 1] has 4 values'),
    ([[1, 2], [3]], "FP32", [2, 2], 'x: "data"[1] has shape [1], expected [2] as in x: "data"[0]'),
    ([1, "2"], "FP32", [2], "x: \"data\"[1] is a string '2', expected a number"),
    ([1, None], "FP64", [2], 'x: "data"[1] is null, expected a number'),
    ([1, 2.5], "INT32", [2], 'x: "data" holds fractions, expected int32 integers'),
    ([1, 300], "UINT8", [2], 'x: "data" holds a number outside the range of uint8 [0, 255]'),
    ([1, 0], "BOOL", [2], 'x: "data" holds numbers, expected booleans'),
    ([True], "FP32", [1], 'x: "data" holds booleans, expected float32 numbers'),
    (["a", 1], "BYTES", [2], 'x: "data" holds an integer, expected strings as datatype is BYTES'),
    ([["a"], ["b", "c"]], "BYTES", [3], 'x: "data" has rows of different lengths'),
    ([["a"], "b"], "BYTES", [2], 'x: "data" holds a list, expected strings as datatype is BYTES'),
    (5, "FP32", [1], 'x: "data" is an integer, expected a list'),
    ([1], "FP32", [-1], "x: shape [-1] has a negative size"),
    ([1], "FP32", [1] * 33, "x: 33 dimensions, expected at most 32"),
    ([], "FP32", [1 << 40, 0], f"x: shape [{1 << 40}, 0] has too many rows without a value"),
]


@pytest.mark.parametrize(("given", "datatype", "shape", "text"), REFUSED_VALUES)
def test_values_that_do_not_fit_are_refused(given, datatype, shape, text):
    with pytest.raises(InvalidInput) as refusal:
        datatypes.from_values(given, datatype, shape, "x")
    assert str(refusal.value) == text


REFUSED_BYTES = [
    (b"1234", "FP32", [2], "x: 4 bytes of binary data, and shape [2] of FP32 has 8"),
    (b"1234", "BF16", [4], "x: 4 bytes of binary data, and shape [4] of BF16 has 8"),
    (b"12345", "FP32", [1], "x: 5 bytes of binary data, and shape [1] of FP32 has 4"),
    (b"", "FP32", [1 << 62], f"x: 0 bytes of binary data, and shape [{1 << 62}] of FP32 has {1 << 64}"),
    (b"\1\0\0\0", "BYTES", [1], "do not hold 1 elements of BYTES"),
    (b"\1\0\0\0ab", "BYTES", [1], "do not hold 1 elements of BYTES"),
    (b"\1\0\0\0a\0\0", "BYTES", [2], "do not hold 2 elements of BYTES"),
    (b"\xff\xff\xff\xffa", "BYTES", [1], "do not hold 1 elements of BYTES"),
    (b"\0\0\0\0", "BYTES", [1 << 40], f"do not hold {1 << 40} elements of BYTES"),
    (b"1", "INT4", [1], "Unknown datatype 'INT4'"),
]


@pytest.mark.parametrize(("raw", "datatype", "shape", "text"), REFUSED_BYTES)
def test_bytes_that_do_not_fit_are_refused(raw, datatype, shape, text):
    with pytest.raises(InvalidInput) as refusal:
        datatypes.unpack(raw, datatype, shape, "x")
    assert text in str(refusal.value)


def test_bytes_of_something_else_cannot_be_sent():
    with pytest.raises(TypeError, match="there are no tensors of dict"):
        datatypes.pack(np.array([{}], object), "BYTES")
