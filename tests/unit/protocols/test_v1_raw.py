"""Bodies of bytes: what they are, by what the model says of its input."""

from functools import partial

import numpy as np
import pytest

from modelserver import InvalidInput, UnsupportedMediaType
from modelserver.protocols import tfs_json, v1_json
from modelserver.protocols.v1_raw import decode_request, is_raw

OCTETS = "application/octet-stream"
JPEG = b"\xff\xd8\xff\xe0 a picture"
read_json = partial(v1_json.decode_request, content_type="")
read_leniently = partial(tfs_json.decode_request, content_type="")


def tensor(datatype="FP32", shape=(-1, 2)):
    return {"name": "x", "datatype": datatype, "shape": list(shape)}


def read(body, said=None, content_type=OCTETS, json=read_json):
    return decode_request(body, content_type, said or tensor(), json)


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        (OCTETS, True),
        ("Application/Octet-Stream; charset=x", True),
        ("image/jpeg", True),
        ("audio/wav", True),
        ("video/mp4", True),
        ("image/x+json", False),
        ("", False),
        ("application/json", False),
        ("application/x-npy", False),
        ("text/csv", False),
        ("imagery", False),
    ],
)
def test_which_content_types(content_type, raw):
    assert is_raw(content_type) is raw


@pytest.mark.parametrize("content_type", [OCTETS, "image/jpeg", "audio/wav"])
@pytest.mark.parametrize(
    ("shape", "payload"),
    [
        ((-1,), {"instances": [JPEG]}),
        ((1,), {"instances": [JPEG]}),
        ((-1, 1), {"instances": [[JPEG]]}),
        ((-1, -1, 1), {"instances": [[[JPEG]]]}),
        ((), {"inputs": JPEG}),
    ],
)
def test_a_file_is_one_row(content_type, shape, payload):
    assert read(JPEG, tensor("BYTES", shape), content_type) == payload


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", "?"), ("UINT8", "u1"), ("UINT16", "<u2"), ("UINT32", "<u4"), ("UINT64", "<u8"),
        ("INT8", "i1"), ("INT16", "<i2"), ("INT32", "<i4"), ("INT64", "<i8"),
        ("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"),
    ],
)  # fmt: skip
def test_numbers_are_rows_of_their_datatype(datatype, dtype):
    rows = np.array([[[1], [0]], [[1], [1]], [[0], [1]]], dtype)
    (key, array), = read(rows.tobytes(), tensor(datatype, (-1, 2, 1))).items()  # fmt: skip
    assert (key, array.dtype, array.tolist()) == ("instances", rows.dtype, rows.tolist())


def test_bf16_is_read_as_float32():
    body = bytes((0xC0, 0x3F, 0x40, 0xC0))  # 1.5 and -3
    array = read(body, tensor("BF16"))["instances"]
    assert (array.dtype, array.tolist()) == (np.float32, [[1.5, -3]])


def test_rows_that_are_single_numbers():
    assert read(bytes(8), tensor(shape=(-1,)))["instances"].tolist() == [0, 0]


def test_numbers_are_not_copied():
    body = bytes(16)
    address = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert read(body)["instances"].__array_interface__["data"][0] == address


@pytest.mark.parametrize("size", [0, 1, 7, 9])
def test_a_length_that_is_no_number_of_rows(size):
    with pytest.raises(InvalidInput) as caught:
        read(b"\x01" * size)
    assert str(caught.value) == (
        f'The body has {size} bytes, expected a multiple of 8: input "x" takes rows of FP32 of shape [2], '
        "little-endian"
    )


@pytest.mark.parametrize("shape", [(), (-1, -1), (-1, 2, -1), (-1, 0)])
@pytest.mark.parametrize("content_type", [OCTETS, "image/png"])
def test_rows_of_unknown_size_are_refused(shape, content_type):
    with pytest.raises(UnsupportedMediaType) as caught:
        read(bytes(8), tensor(shape=shape), content_type)
    assert str(caught.value) == (
        f'Content-Type {content_type!r} is not for input "x", FP32 of shape {list(shape)}. Send its rows as '
        "JSON or application/x-npy."
    )


def test_a_file_for_numbers_is_refused_with_what_is_taken():
    with pytest.raises(UnsupportedMediaType) as caught:
        read(JPEG, tensor("UINT8", (-1, 4, 4, 3)), "image/JPEG")
    assert caught.value.status == 415
    assert str(caught.value).endswith(
        "Send its rows as JSON or application/x-npy, or as application/octet-stream: rows of 48 bytes, "
        "little-endian."
    )


def test_a_datatype_of_the_models_own_is_refused():
    with pytest.raises(UnsupportedMediaType):
        read(bytes(8), tensor("COMPLEX64"))


@pytest.mark.parametrize("content_type", [OCTETS, "image/png"])
@pytest.mark.parametrize("said", [tensor(), tensor("BYTES", (-1,))])
@pytest.mark.parametrize("body", [b'{"instances": [[1, 2]]}', b' \r\n{ "a": 1, "inputs": [[1, 2]]}'])
def test_a_request_in_json_is_one_whatever_its_type(content_type, said, body):
    assert read(body, said, content_type) == v1_json.decode_request(body, "")


def test_by_the_models_own_rules():
    body = b'\xef\xbb\xbf{"instances": [[NaN, 2]]} behind'
    rows = read(body, json=read_leniently)["instances"]
    np.testing.assert_array_equal(rows, [[np.nan, 2]])


@pytest.mark.parametrize(
    "body", [b"{}", b'{"a": 1}', b'{"instances', b'{"instances": [1]', b"[1, 2]", b'"instances"', b""]
)
@pytest.mark.parametrize("json", [read_json, read_leniently])
def test_json_that_is_no_request_is_a_row_of_bytes(body, json):
    assert read(body, tensor("BYTES", (-1,)), json=json) == {"instances": [body]}


@pytest.mark.parametrize("body", [b"{}\0\0 \0\0\0", b'{"\0\0 \0\0\0', b'{"a": 1}', b'{" "...\xff'])
@pytest.mark.parametrize("json", [read_json, read_leniently])
def test_numbers_may_begin_like_json(body, json):
    assert read(body, json=json)["instances"].tobytes() == body
