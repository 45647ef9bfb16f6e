"""TensorProto to arrays and back, against TensorFlow itself and by the rules that TensorFlow documents."""

import json

import numpy as np
import pytest
from harness import run
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.errors import InvalidInput
from modelserver.protocols.tensor_proto import from_array, to_array
from modelserver.protocols.tf_messages import DATA_TYPES, TensorProto

AGAINST_TENSORFLOW = r'''
import json
import numpy as np
import tensorflow as tf
from modelserver.protocols import tensor_proto
from modelserver.protocols.tf_messages import TensorProto

wrong, count = [], 0
FIELDS = [name for name in TensorProto.DESCRIPTOR.fields_by_name if name.endswith("_val")]
DTYPES = [tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int8, tf.int16, tf.int32, tf.int64,
          tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.bool, tf.complex64, tf.complex128, tf.string]

def values(dtype):
    if dtype == tf.string:
        return [b"", b"a\xff", "\u00e9".encode(), b"x" * 300]
    if dtype == tf.bool:
        return [True, False, False, True]
    return [0, 1 + 2j, -3j, 4] if dtype.is_complex else [0, 1, 2, 100]

def messages(array, dtype, shape):
    """As Python clients send it, as lists of values, and with values left out."""
    yield tf.make_tensor_proto(array, dtype, shape)
    listed = tf.make_tensor_proto(array.ravel().tolist(), dtype, shape)
    yield listed
    for field in FIELDS if array.size > 1 else ():
        if field not in ("resource_handle_val", "variant_val", "float8_val"):
            del getattr(listed, field)[4 if dtype.is_complex else 2:]
    yield listed

def check(good, *what):
    global count
    count += 1
    if not good:
        wrong.append([str(each) for each in what])

for dtype in DTYPES:
    for shape in ((4,), (2, 2), (1, 4, 1), (), (0, 3)):
        kept = values(dtype)[:int(np.prod(shape))] if shape else values(dtype)[1]
        array = np.array(kept, dtype.as_numpy_dtype).reshape(shape)
        for proto in messages(array, dtype, shape):
            ours = tensor_proto.to_array(TensorProto.FromString(proto.SerializeToString()))
            theirs = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
            theirs = np.asarray(theirs, dtype.as_numpy_dtype)
            check(ours.dtype == theirs.dtype and ours.shape == theirs.shape, proto, ours, theirs)
            check(ours.tolist() == theirs.tolist(), proto, ours, theirs)
        back = tensor_proto.from_array(array).SerializeToString()
        read = np.asarray(tf.io.parse_tensor(back, dtype).numpy(), dtype.as_numpy_dtype)
        made = tf.make_ndarray(type(proto).FromString(back))
        check(read.tolist() == array.tolist() and read.shape == shape, dtype, shape, "read", read)
        check(made.tolist() == array.tolist() and made.shape == shape, dtype, shape, "made", made)
print(json.dumps({"wrong": wrong, "count": count}))
'''


def tensor(dtype, shape=(), **fields):
    proto = TensorProto(dtype=DATA_TYPES[f"DT_{dtype}"], **fields)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


def test_all_dtypes_are_read_and_written_as_tensorflow_does():
    done = run(["-c", AGAINST_TENSORFLOW])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert result["count"] == 16 * 5 * 8


def test_the_last_value_counts_for_those_that_are_not_there():
    assert to_array(tensor("FLOAT", (2, 2), float_val=[1, 2])).tolist() == [[1, 2], [2, 2]]
    assert to_array(tensor("STRING", (3,), string_val=[b"a"])).tolist() == [b"a", b"a", b"a"]
    assert to_array(tensor("COMPLEX64", (3,), scomplex_val=[1, 2])).tolist() == [1 + 2j] * 3


@pytest.mark.parametrize("dtype", ["FLOAT", "BOOL", "INT8", "COMPLEX128", "HALF"])
def test_without_values_a_tensor_is_zero(dtype):
    assert not to_array(tensor(dtype, (2, 3))).any()


def test_integers_wrap_as_they_do_there():
    assert to_array(tensor("INT8", (2,), int_val=[300, -1])).tolist() == [44, -1]


def test_strings_in_tensor_content_begin_with_their_lengths():
    content = b"\x01\x00\xac\x02" + b"a" + b"x" * 300
    assert to_array(tensor("STRING", (3,), tensor_content=content)).tolist() == [b"a", b"", b"x" * 300]


def test_a_byte_that_is_no_boolean_counts_as_true():
    assert to_array(tensor("BOOL", (3,), tensor_content=b"\x00\x02\x01")).tolist() == [False, True, True]


def test_numbers_are_not_copied():
    array = to_array(tensor("FLOAT", (2,), tensor_content=b"\0" * 8))
    assert not array.flags.writeable
    assert not array.flags.owndata


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (
            tensor("FLOAT", (3,), tensor_content=b"\0" * 8),
            "x: tensor_content has 8 bytes, and 3 elements of float32",
        ),
        (tensor("FLOAT", (1,), float_val=[1, 2]), "float_val has 2 values, and the shape has 1 elements"),
        (tensor("FLOAT", (2, -1), float_val=[1, 2]), r"shape \[2, -1\] has a negative size"),
        (tensor("FLOAT", tensor_shape={"unknown_rank": True}), "must be known"),
        (tensor("FLOAT", (1 << 40,), float_val=[1]), "must be sent in full"),
        (tensor("FLOAT", (1 << 62, 1 << 62), float_val=[1]), "must be sent in full"),
        (tensor("FLOAT", (1,) * 70, float_val=[1]), "x: .*dimension"),
        (tensor("FLOAT", (0, 1 << 62, 1 << 62)), "x: "),
        (tensor("FLOAT", (1 << 31, 0)), "too many rows without a value"),
        (tensor("STRING", (1 << 11, 1 << 10, 0)), "too many rows without a value"),
        (tensor("COMPLEX64", (1,), scomplex_val=[1]), "imaginary"),
        (tensor("INVALID"), "dtype DT_INVALID cannot be sent"),
        (tensor("RESOURCE"), "DT_RESOURCE"),
        (tensor("QINT8"), "DT_QINT8"),
        (tensor("FLOAT_REF"), "DT_FLOAT_REF"),
        (TensorProto(dtype=999), "dtype 999"),
        (tensor("STRING", (2,), tensor_content=b"\x01"), "lengths of 2 strings"),
        (tensor("STRING", (1,), tensor_content=b"\x05a"), "does not hold 1 strings"),
        (tensor("STRING", (1,), tensor_content=b"\x01ab"), "does not hold 1 strings"),
        (tensor("STRING", (1,), tensor_content=b"\xff" * 5), "lengths of 1 strings"),
        (tensor("STRING", (1 << 50,), tensor_content=b"\x00\x00"), "lengths of"),
    ],
)
def test_what_is_no_tensor_is_refused_in_words(proto, words):
    with pytest.raises(InvalidInput, match=words):
        to_array(proto, "x")


def test_bfloat16_takes_a_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(InvalidInput, match="DT_BFLOAT16 takes the package ml_dtypes"):
        to_array(tensor("BFLOAT16", (1,), half_val=[0]))


@pytest.mark.parametrize("array", [np.array(["é", "b"]), np.array([b"\xc3\xa9", b"b"], object), ["é", "b"]])
def test_text_is_written_as_strings(array):
    proto = from_array(array)
    assert list(proto.string_val) == ["é".encode(), b"b"]
    assert not proto.tensor_content


def test_other_byte_orders_and_strides_are_written_alike():
    plain = np.arange(6, dtype="<f4").reshape(2, 3)
    assert from_array(plain.astype(">f4")) == from_array(plain)
    assert from_array(plain.T) == from_array(np.ascontiguousarray(plain.T))


@pytest.mark.parametrize("array", [np.array([1], "M8[s]"), np.array([{}]), np.zeros(1, [("a", "f4")])])
def test_what_tensorflow_does_not_have_is_an_error(array):
    with pytest.raises(TypeError, match="TensorFlow has no tensors of"):
        from_array(array)


SIZES = st.integers(-2, 6) | st.sampled_from([1 << 20, 1 << 31, (1 << 63) - 1])
MESSAGES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*range(35), 101, 1 << 30]),
        "tensor_shape": st.fixed_dictionaries(
            {
                "dim": st.lists(st.fixed_dictionaries({"size": SIZES}), max_size=5),
                "unknown_rank": st.booleans(),
            }
        ),
    },
    optional={
        "tensor_content": st.binary(max_size=64),
        **{
            f"{name}_val": st.lists(st.floats(width=32), max_size=9)
            for name in ("float", "double", "scomplex")
        },
        "dcomplex_val": st.lists(st.floats(), max_size=9),
        "string_val": st.lists(st.binary(max_size=9), max_size=9),
        "bool_val": st.lists(st.booleans(), max_size=9),
        **{
            f"{name}_val": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=9)
            for name in ("int", "half")
        },
        "int64_val": st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=9),
        "uint32_val": st.lists(st.integers(0, (1 << 32) - 1), max_size=9),
        "uint64_val": st.lists(st.integers(0, (1 << 64) - 1), max_size=9),
    },
)


@given(MESSAGES)
@settings(max_examples=400, deadline=None)
def test_any_message_is_an_array_of_its_shape_or_refused(fields):
    """And what an array is written as is read as the same array."""
    message = TensorProto(**fields)
    try:
        array = to_array(message, "x", most_bytes=1 << 16)
    except InvalidInput:
        return
    assert array.shape == tuple(size["size"] for size in fields["tensor_shape"]["dim"])
    again = to_array(from_array(array))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tolist() == array.tolist() if array.dtype == object else again.tobytes() == array.tobytes()
