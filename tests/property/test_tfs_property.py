"""TensorFlow Serving's bodies: any bytes give an object or InvalidInput; numbers come back as they were."""

import json
import math

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver import InvalidInput
from modelserver.protocols import tfs_json
from modelserver.protocols.tfs_json import decode_request, encode_response

PIECES = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b" ",
            b"\n",
            b"NaN",
            b"Inf",
            b"-",
            b"inity",
            b"Nan",
        ),
        *(
            b"1",
            b"0",
            b".",
            b"e",
            b"9" * 19,
            b"e999",
            b'"a"',
            b'"instances"',
            b"null",
            b"true",
            b"\xff",
            b"\0",
        ),
        *(b"\\u0069", b"\\ud800", b"\\udc00", b"\xef\xbb\xbf", b'{"instances":', b'"x":', b"\xc3\xa9"),
    ]
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def plain(value):
    """A value whose NaN can be compared."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return "NaN!" if isinstance(value, float) and math.isnan(value) else (type(value), value)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(b"".join)))
def test_any_bytes_give_an_object_or_invalid_input(body):
    try:
        payload = decode_request(body, "")
    except InvalidInput as error:
        assert str(error).startswith(("JSON Parse error: ", "JSON Value: "))
        str(error).encode(errors="replace")
    else:
        assert type(payload) is dict
        encode_response(payload)


@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_the_long_way_reads_json_as_the_short_way_does(body):
    """But for the first of two keys."""
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    if not isinstance(expected, dict) or tfs_json._may_come_twice(body, expected):
        return
    assert plain(tfs_json._read_leniently(body)) == plain(expected)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_what_python_writes_is_read(value):
    assert plain(decode_request(json.dumps(value).encode(), "")) == plain(value)
    body = json.dumps(value, ensure_ascii=False).encode()
    assert plain(decode_request(b"\xef\xbb\xbf" + body + b"]", "")) == plain(value)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_what_is_written_is_read_by_python(value):
    body, _ = encode_response(value)
    assert plain(json.loads(body)) == plain(value)


@given(
    hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_]),
               hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
    st.booleans(),
)  # fmt: skip
def test_arrays_come_back(array, is_turned):
    array = array.T if is_turned else array
    body, _ = encode_response({"a": array})
    returned = np.array(json.loads(body)["a"], dtype=object).astype(array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(returned, array)


@given(st.binary(max_size=30), st.sampled_from([b'"', b"", b'", "b": NaN']))
def test_the_bytes_of_a_string_come_back(data, more):
    """Bytes that are no UTF-8 pass as they are, in and out."""
    data = bytes(byte for byte in data if byte >= 0x20 and byte not in b'"\\')
    payload = decode_request(b'{"a": "' + data + (more or b'"') + b"}", "")
    assert payload["a"].encode("utf-8", "surrogateescape") == data
    assert data in encode_response(payload)[0]
