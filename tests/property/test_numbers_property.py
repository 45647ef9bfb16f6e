"""The short cut for large bodies against the ordinary way: the same array or the same error, for any body."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver import InvalidInput, array_from_json
from modelserver.protocols import v1_numbers
from modelserver.protocols.v1_json import decode_request, encode_response

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "uint64", "number"])
GOOD = st.one_of(
    st.integers(-300, 300).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["0", "-0", "-0.0", "1E5", "1e-400", "9007199254740993", "9223372036854775807", "1e308"]),
)
BAD = st.sampled_from(
    [
        *("9223372036854775808", "18446744073709551616", "-9223372036854775809", "1e400", "01", "+1", ".5"),
        *("1.", "--1", "1 2", "NaN", "Infinity", "null", "true", '"1"', "", "{}", "[]", "1e", "-", "[1]"),
        *("1,2", "0x1"),
    ]
)
BLANK = st.sampled_from(["", "", "", " ", "\n", "\t\r", "\v", "\ufeff"])
HEAD = [
    "{",
    '{"signature_name": "a", ',
    '{"instances": [1], ',
    '{"a": {"b": [',
    '{"a": {',
    "",
    "[",
    '{"\\u0069": 1,',
]
TAIL = [
    "}",
    ', "x": "y"}',
    ', "x": [1]}',
    ', "instances": null}',
    "}}",
    "",
    "} ",
    "5}",
    ".5}",
    ', "\\u0069nstances": 3}',
]


@st.composite
def lists(draw, shape, numbers, join):
    """The text of a nested list of this shape."""
    if not shape:
        return draw(numbers)
    items = [draw(lists(shape[1:], numbers, join)) for _ in range(shape[0])]
    return f"[{join.join(items)}]"


@st.composite
def ragged(draw, numbers, join):
    """Lists of any lengths, with as many numbers as the first one suggests, or not."""
    lengths = draw(st.permutations(draw(st.sampled_from([[2, 1, 3], [1, 0], [2, 2, 1], [1, 0, 2], [3, 3]]))))
    return f"[{join.join(draw(lists([length], numbers, join)) for length in lengths)}]"


@st.composite
def bodies(draw):
    """A regular list, mostly; then some bytes are put in, taken out or changed."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    numbers = draw(
        st.sampled_from([GOOD, GOOD, GOOD, st.integers(0, 255).map(str), st.one_of(*[GOOD] * 9, BAD)])
    )
    join = draw(st.sampled_from([",", ", "]))
    text = draw(st.one_of(*[lists(shape, numbers, join)] * 4, ragged(numbers, join)))
    usual = draw(st.booleans())
    head = "{" if usual else draw(st.sampled_from(HEAD))
    tail = "}" if usual else draw(st.sampled_from(TAIL))
    body = f'{head}"instances"{draw(BLANK)}:{draw(BLANK)}{text}{draw(BLANK)}{tail}'
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))):
        place = draw(st.integers(0, len(body)))
        piece = draw(st.sampled_from(["", *'[],0159.eE+- \n"{}:nt\\', "[1]", "],[", "],", ",["]))
        body = body[:place] + piece + body[place + draw(st.integers(0, 2)) :]
    return body.encode()


def outcome(body, dtype, hint):
    """What a model gets, to be compared: the values, or the error's text."""
    try:
        payload = decode_request(body, "", hint)
    except InvalidInput as error:
        return str(error)
    if "instances" not in payload:
        return payload
    rows = payload.pop("instances")
    if not isinstance(rows, list | np.ndarray):
        return payload, rows
    try:
        array = array_from_json(rows, dtype)
    except InvalidInput as error:
        return payload, str(error)
    return payload, array.shape, array.dtype, array.tobytes()


@pytest.fixture(params=["simdjson", "orjson"], autouse=True, scope="module")
def short_cut(request):
    """Both parsers, for bodies of any size and rows of any length."""
    assert v1_numbers.simdjson is not None, "make setup installs the extra `fast`"
    parser = v1_numbers.simdjson if request.param == "simdjson" else None
    with (
        mock.patch.object(v1_numbers, "LARGE", 0),
        mock.patch.object(v1_numbers, "_SHORT_ROW", 1000),
        mock.patch.object(v1_numbers, "_PIECE", 8),
        mock.patch.object(v1_numbers, "simdjson", parser),
    ):
        yield


@given(bodies(), DTYPES)
@example(b'{"instances":[[1, ]2,[3,4]]}', "float32")
@example(b'{"instances":[[1,2]3,[4,5]]}', "float32")
@example(b'{"instances":[1,2].5}', "float32")
@example(b'{"instances":[9007199254740993,9223372036854775807]}', "float32")
@example(b'{"instances":[[],[]]}', "float32")
@example(b'{"instances":[[1],[]]}', "float32")
@example(b'{"instances":[[1,2],[3],[4,5,6]]}', "float32")
@example(b'{"instances":[-0,1]}', "float32")
@example(b'{"instances":[18446744073709551616,1]}', "int64")
def test_any_body_gives_what_the_ordinary_way_gives(body, dtype):
    assert outcome(body, dtype, dtype) == outcome(body, dtype, None)


@given(st.binary(max_size=100), DTYPES)
def test_any_bytes_too(body, dtype):
    assert outcome(body, dtype, dtype) == outcome(body, dtype, None)
    around = b'{"instances":' + body + b"}"
    assert outcome(around, dtype, dtype) == outcome(around, dtype, None)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(max_dims=5, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_every_array_that_was_written_is_read_by_the_short_cut(array):
    body, _ = encode_response({"instances": array})
    read = v1_numbers.read_instances(body, array.dtype)["instances"]
    assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes())
