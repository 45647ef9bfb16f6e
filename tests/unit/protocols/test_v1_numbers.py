"""The short cut for large bodies: what it reads, and what it leaves to the ordinary way.

That it never differs from the ordinary way is in tests/property/test_numbers_property.py.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from modelserver.protocols import v1_numbers
from modelserver.protocols.v1_json import decode_request
from modelserver.protocols.v1_numbers import LARGE, read_instances

HAS_SIMDJSON = v1_numbers.simdjson is not None


@pytest.fixture(params=["simdjson", "orjson"], autouse=True)
def parser(request, monkeypatch):
    assert HAS_SIMDJSON, "make setup installs the extra `fast`"
    if request.param == "orjson":
        monkeypatch.setattr(v1_numbers, "simdjson", None)
    return request.param


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("[1.5, -2, 3e2]", "float32", np.array([1.5, -2, 300], np.float32)),
        ("[[1,2,3],[4,5,6]]", "float64", np.array([[1, 2, 3], [4, 5, 6]], np.float64)),
        ("[[1, 2], [3, 4], [5, 6]]", np.int32, np.array([[1, 2], [3, 4], [5, 6]], np.int32)),
        ("[[[1], [2]], [[3], [4]]]", np.dtype("uint8"), np.array([[[1], [2]], [[3], [4]]], np.uint8)),
        ("[[[[7]]]]", "int64", np.array([[[[7]]]], np.int64)),
        ("[[1, 2], [3, 4]]", "number", np.array([[1, 2], [3, 4]], np.int64)),
        ("[[1, 2], [3, 4.0]]", "number", np.array([[1, 2], [3, 4]], np.float32)),
        ("[1E2, 0.1]", "float16", np.array([100, 0.1], np.float16)),
        ("[-0.0, 1e-400, 1e300]", "float32", np.array([-0.0, 0, np.inf], np.float32)),
        ("[9007199254740993, 0]", "float32", np.array([9007199254740993, 0], np.int64).astype(np.float32)),
        ("[9007199254740993, 0]", "float64", np.array([9007199254740992, 0], np.float64)),
        ("[[1,\n2],[3,\t4]]", "int64", np.array([[1, 2], [3, 4]], np.int64)),
    ],
)
def test_reads_regular_numbers(text, dtype, expected):
    payload = read_instances(b'{"instances": %b}' % text.encode(), dtype)
    array = payload["instances"]
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.tobytes() == expected.tobytes()
    assert array.flags.writeable
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("[]", "float32"),
        ("[[], []]", "float32"),
        ("[[], [1]]", "float32"),
        ("[[1], []]", "float32"),
        ("[[1, 2], [3], [4, 5, 6]]", "float32"),
        ("[[[1, 2]], [[3], [4]]]", "float32"),
        ("[[1, 2], [3]]", "float32"),
        ("[[1, 2], 3]", "float32"),
        ("[1, [2]]", "float32"),
        ("[[1, 2], [3, null]]", "float32"),
        ("[[1, 2], [3, true]]", "float32"),
        ('[[1, 2], [3, "4"]]', "float32"),
        ("[[1, 2], [3, {}]]", "float32"),
        ("[1, NaN]", "float32"),
        ("[1, Infinity]", "float32"),
        ("[1, 1e400]", "float32"),
        ("[1, 01]", "float32"),
        ("[1, +1]", "float32"),
        ("[1, .5]", "float32"),
        ("[1, 1.]", "float32"),
        ("[1, --1]", "float32"),
        ("[1 2]", "float32"),
        ("[1,]", "float32"),
        ("[[1, ]2, [3, 4]]", "float32"),
        ("[[1, 2], 3[, 4]]", "float32"),
        ("[[1, 2] 3, [4, 5]]", "float32"),
        ("[[1,2]3,[4,5]]", "float32"),
        ("[[1,2],[3,4]5]", "float32"),
        ("[1 [,2],[3,4]]", "float32"),
        ("[[1, 2], [3, 4]", "float32"),
        ("[[1, 2]], [3, 4]]", "float32"),
        ("[1, 2].5", "float32"),
        ("[1, 2]5", "float32"),
        ("[1.0, 2]", "int32"),
        ("[1e0, 2]", "int32"),
        ("[300, 2]", "uint8"),
        ("[-1, 2]", "uint8"),
        ("[18446744073709551615, 1]", "int64"),
        ("[18446744073709551615, 1]", "uint64"),
        ("[123456789012345678901234567890, 1]", "int64"),
        ("[1, 0]", "bool"),
        ("[" * 33 + "1" + "]" * 33, "float32"),
    ],
)
def test_leaves_the_rest_to_the_ordinary_way(text, dtype):
    assert read_instances(b'{"instances": %b}' % text.encode(), dtype) is None


@pytest.mark.parametrize(
    ("body", "others"),
    [
        ('{"instances": [1, 2]}', {}),
        (' {\n"instances" :\t[1, 2] } ', {}),
        ('{"signature_name": "a", "instances": [1, 2]}', {"signature_name": "a"}),
        ('{"instances": [1, 2], "signature_name": "a"}', {"signature_name": "a"}),
        ('{"a": {"b": null}, "instances": [1, 2], "c": "é"}', {"a": {"b": None}, "c": "é"}),
    ],
)
def test_keeps_the_other_keys_in_their_order(body, others):
    payload = read_instances(body.encode(), "float32")
    assert list(payload) == list(json.loads(body))
    assert payload.pop("instances").tolist() == [1, 2]
    assert payload == others


@pytest.mark.parametrize(
    "body",
    [
        "[1, 2]",
        '{"inputs": [1, 2]}',
        '{"instances": null, "x": [1, 2]}',
        '{"a": {"instances": [1, 2]}}',
        '{"instances": [1, 2], "instances": [3, 4]}',
        '{"instances": [1, 2], "instances": 3}',
        '{"instances": 3, "instances": [1, 2]}',
        '{"\\u0069nstances": 3, "instances": [1, 2]}',
        '{"instances": [1, 2], "\\u0069nstances": 3}',
        '{"x": "\\"instances": [1, 2]}',
        '{"instances": [1, 2], "x": [3]}',
        '{"x": [3], "instances": [1, 2]}',
        '{"instances": [1, 2], }',
        '{"instances": [1, 2]} x',
        '{"instances": [1, 2]',
        '\ufeff{"instances": [1, 2]}',
        '{"instances": {"b64": "[1"}}',
        "",
        "[",
        "]",
    ],
)
def test_leaves_what_is_not_instances_alone(body):
    assert read_instances(body.encode(), "float32") is None


def test_only_large_bodies_take_the_short_cut():
    small = {"instances": [[1.5, 2.5]]}
    assert decode_request(json.dumps(small).encode(), "", "float32") == small
    large = json.dumps({"instances": [[1.5, 2.5]] * LARGE}).encode()
    assert isinstance(decode_request(large, "", "float32")["instances"], np.ndarray)
    assert isinstance(decode_request(large, "")["instances"], list)


def test_many_numbers_in_pieces():
    rows = np.arange(60_000).reshape(-1, 3)
    for form in (rows.tolist(), (rows / 8).tolist()):
        body = json.dumps({"instances": form}).encode()
        np.testing.assert_array_equal(read_instances(body, "float32")["instances"], np.float32(form))


def test_orjson_leaves_long_rows_to_the_ordinary_way(parser):
    body = json.dumps({"instances": [list(range(100))] * 2}).encode()
    assert (read_instances(body, "float32") is None) is (parser == "orjson")


def test_without_simdjson_it_is_orjson():
    program = (
        "import sys; sys.modules['simdjson'] = None\n"
        "from modelserver.protocols import v1_numbers as v\n"
        "assert v.simdjson is None\n"
        "print(v.read_instances(b'{\"instances\": [1, 2.5]}', 'float32')['instances'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[1.0, 2.5]\n"
