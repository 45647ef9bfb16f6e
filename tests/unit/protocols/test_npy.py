"""``.npy`` bodies: numpy's own files are read as numpy reads them, anything else is a 400."""

import io

import numpy as np
import pytest

from modelserver import InvalidInput
from modelserver.protocols.npy import read_array
from modelserver.protocols.v1_json import decode_request

ROWS = np.arange(6).reshape(2, 3)


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


def header(text, data=b"", version=b"\x01\x00"):
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + text.encode() + data


@pytest.mark.parametrize(
    "array",
    [
        *(ROWS.astype(dtype) for dtype in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")),
        *(ROWS.astype(dtype) for dtype in ("f2", "f4", "f8", ">f4", ">i2", ">u8", "=i4")),
        np.asfortranarray(ROWS),
        np.asfortranarray(ROWS.astype(">f8")),
        np.arange(3),
        np.zeros((0, 4)),
        np.zeros((2, 0)),
        np.float32([np.nan, np.inf, -0.0]),
        np.zeros((1,) * 32),
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_what_numpy_writes(array, version):
    read = read_array(npy(array, version))
    assert (read.shape, read.dtype) == (array.shape, array.dtype.newbyteorder("="))
    assert read.dtype.isnative
    assert read.tobytes() == array.astype(read.dtype).tobytes()
    assert read.flags.c_contiguous
    assert read.flags.aligned


def test_a_plain_array_is_not_copied():
    body = npy(ROWS)
    read = read_array(body)
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))
    assert not read.flags.writeable


def test_data_at_an_odd_place_is_moved():
    body = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", np.float64([2.5]).tobytes())
    assert read_array(body).tolist() == [2.5]
    assert read_array(body).flags.aligned


def test_a_boolean_is_true_or_false_whatever_its_byte():
    body = header("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", b"\x00\x01\x02")
    assert read_array(body).view(np.uint8).tolist() == [0, 1, 1]


def test_keys_in_any_order():
    body = header("{'shape': (2,),'fortran_order':False, 'descr':'|u1'}", b"\x05\x06")
    assert read_array(body).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "it does not begin with"),
        (b"{}", "it does not begin with"),
        (b"\x93NUMPY", "version missing, expected 1.0, 2.0 or 3.0"),
        (b"\x93NUMPY\x04\x00", "version 4.0, expected"),
        (b"\x93NUMPY\x01\x00\x76", "a header of 118 bytes, which is cut off"),
        (npy(ROWS)[:60], "a header of 118 bytes, which is cut off"),
        (header("x" * 5000), "a header of 5000 bytes, which is cut off or longer than 4096"),
        (npy(ROWS)[:-1], "47 bytes of data, and shape [2, 3] of int64 has 48"),
        (npy(ROWS) + b"x", "49 bytes of data, and shape [2, 3] of int64 has 48"),
        (npy(7), "a single value, expected rows"),
        (npy(np.zeros(2, "c8")), "header {'descr': '<c8'"),
        (npy(np.array(["a"])), "header {'descr': '<U1'"),
        (npy(np.zeros(2, "f4, i4")), "header {'descr': [('f0', '<f4')"),
        (npy(np.zeros(2, "M8[s]")), "header {'descr': '<M8[s]'"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"."), "header {'descr': '|O'"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "header {"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", b"1234"), "header {"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,), }", b"1234"), "header {"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 'y'}", b"1234"), "header {"),
        (header("{'descr': '<f4', 'fortran_order': False}"), "header {"),
        (header("__import__('os')"), "header __import__('os'), expected that of an array of numbers"),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 999999999999), }"),
            "0 bytes of data, and shape [999999999999, 999999999999] of float64 has 79999999999",
        ),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 999999999999, 999999999999), }"),
            "shape [0, 999999999999, 999999999999] is too large",
        ),
        (
            header(f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({'1,' * 33}), }}", b"1"),
            "33 dimensions",
        ),
    ],
)
def test_refuses_the_rest(body, text):
    with pytest.raises(InvalidInput) as caught:
        read_array(body)
    assert str(caught.value).startswith(f"Unrecognized .npy body: {text}")


@pytest.mark.parametrize(
    "content_type",
    ["application/x-npy", "application/npy", "Application/X-NPY; version=1", " application/npy "],
)
def test_by_its_content_type(content_type):
    payload = decode_request(npy(ROWS), content_type)
    assert list(payload) == ["instances"]
    np.testing.assert_array_equal(payload["instances"], ROWS)
