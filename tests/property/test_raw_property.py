"""Whatever bytes come for an input that is declared: its rows, or InvalidInput or a 415; nothing else."""

from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelserver import InvalidInput, UnsupportedMediaType
from modelserver.datatypes import DATATYPES, element_size, pack
from modelserver.protocols import tfs_json, v1_json
from modelserver.protocols.v1_raw import decode_request

BODIES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=30).map(b'{"instances": ['.__add__),
    st.lists(st.sampled_from([b'{"', b'"instances"', b":", b"[", b"1.5", b"]", b"}", b" ", b"\xff"])).map(
        b"".join
    ),
)
SHAPES = st.lists(st.integers(-1, 5), max_size=4)
CODECS = st.sampled_from([v1_json, tfs_json])


@given(
    BODIES,
    st.sampled_from(DATATYPES),
    SHAPES,
    st.sampled_from(["application/octet-stream", "image/png"]),
    CODECS,
)
def test_any_bytes(body, datatype, shape, content_type, codec):
    tensor = {"name": "x", "datatype": datatype, "shape": shape}
    read_json = partial(codec.decode_request, content_type="")
    try:
        payload = decode_request(body, content_type, tensor, read_json)
    except InvalidInput:
        assert datatype != "BYTES"
        assert content_type == "application/octet-stream"
        return
    except UnsupportedMediaType:
        assert datatype != "BYTES"
        return
    rows = payload.get("instances")
    if isinstance(rows, np.ndarray):
        assert list(rows.shape[1:]) == shape[1:]
        assert rows.size * element_size(datatype) == len(body)
        if datatype not in ("BOOL", "BF16"):  # a byte of 2 is True; NaN has many forms
            assert pack(rows, datatype) == body
    elif datatype == "BYTES" and body in (payload.get("inputs"), *np.ravel(np.array(rows, object))):
        assert (rows is None) is (shape == [])
    else:
        assert payload.items() >= read_json(body).items()


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1), CODECS)
def test_rows_come_through(rows, codec):
    array = np.array(rows, "<f4")
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    read_json = partial(codec.decode_request, content_type="")
    read = decode_request(array.tobytes(), "application/octet-stream", tensor, read_json)["instances"]
    np.testing.assert_array_equal(read, array)
