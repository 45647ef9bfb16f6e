"""Whatever bytes come, the codec gives a value or InvalidInput; whatever arrays go out, they come back."""

import json

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver import InvalidInput, array_from_json
from modelserver.protocols.v1_json import decode_request, encode_error, encode_response

CONTENT_TYPES = st.one_of(
    st.sampled_from(["", "application/json", "text/plain", "image/png", "application/ld+json; q=1"]),
    st.text(max_size=20),
)
NESTED = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.just({})
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200), CONTENT_TYPES)
def test_any_bytes_give_a_value_or_invalid_input(body, content_type):
    try:
        payload = decode_request(body, content_type)
    except InvalidInput as error:
        assert str(error)
    else:
        assert isinstance(payload, dict) or payload == body


@given(st.dictionaries(st.text(max_size=5), NESTED, max_size=3))
def test_any_json_object_is_read_as_the_standard_library_reads_it(value):
    body = json.dumps(value).encode()
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:  # an integer or float beyond what the format's numbers hold
        return
    assert decode_request(body, "application/json") == expected


@given(NESTED)
def test_any_nesting_gives_an_array_of_that_shape_or_invalid_input(value):
    try:
        array = array_from_json(value)
    except InvalidInput as error:
        assert str(error).startswith('"instances"')
        return
    assert array.shape == np.shape(value)
    assert array.dtype in (np.float32, np.int64, np.bool_)


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64, np.int32, np.bool_]), hnp.array_shapes(max_dims=3))
)
def test_numbers_survive_the_way_out_and_back(array):
    body, _ = encode_response({"instances": array})
    rows = json.loads(body)["instances"]
    returned = np.array([[np.nan if x is None else x] for x in np.array(rows, object).ravel()], array.dtype)
    finite = np.isfinite(array.astype(np.float64)).ravel()
    np.testing.assert_array_equal(returned.ravel()[finite], array.ravel()[finite])


@given(st.text())
def test_an_error_is_always_a_json_object(text):
    assert set(json.loads(encode_error(text))) == {"error"}
