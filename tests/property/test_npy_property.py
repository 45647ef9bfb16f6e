"""Whatever bytes come as ``.npy``: the array that numpy reads from them, or InvalidInput."""

import io
import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver import InvalidInput
from modelserver.protocols.npy import read_array

ARRAYS = hnp.arrays(
    st.one_of(hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64)))
    | hnp.boolean_dtypes(),
    hnp.array_shapes(min_side=0, max_dims=4),
)


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


@st.composite
def damaged(draw):
    """A body with some bytes changed, most of them in its header."""
    body = bytearray(npy(draw(ARRAYS), draw(st.sampled_from([(1, 0), (2, 0), (3, 0)]))))
    for _ in range(draw(st.integers(1, 3))):
        end = draw(st.sampled_from([12, 80, len(body)]))
        place = draw(st.integers(0, end))
        piece = draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([*b"0123456789-(),'{}: <>=|OVSU"]).map(chr))
        )
        body[place : place + draw(st.integers(0, 2))] = piece.encode() if isinstance(piece, str) else piece
    return bytes(body)


@given(ARRAYS, st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_any_array_comes_through(array, is_fortran, version):
    read = read_array(npy(np.asfortranarray(array) if is_fortran else array, version))
    assert (read.shape, read.dtype) == (array.shape, array.dtype.newbyteorder("="))
    assert read.tobytes() == array.astype(read.dtype).tobytes()


@given(
    st.one_of(damaged(), st.binary(max_size=200), st.binary(max_size=200).map(b"\x93NUMPY\x01\x00".__add__))
)
def test_any_bytes_are_refused_or_read_as_numpy_reads_them(body):
    try:
        read = read_array(body)
    except InvalidInput as error:
        assert str(error).startswith("Unrecognized .npy body: ")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header that numpy corrects
        expected = np.load(io.BytesIO(body), allow_pickle=False)
    assert read.shape == expected.shape
    assert read.dtype == expected.dtype.newbyteorder("=")
    if read.dtype != np.bool_:  # numpy leaves a byte of 2 as it is
        assert read.tobytes() == expected.astype(read.dtype).tobytes()
