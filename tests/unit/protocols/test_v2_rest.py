"""V2 bodies: JSON and binary tensors, both directions, and what is wrong with a body."""

import json

import numpy as np
import orjson
import pytest

from modelserver import InvalidInput
from modelserver.protocols import v2_rest
from modelserver.protocols.v2_values import Request, Response, Tensor, Wanted

FLOATS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
TEXTS = np.array([b"a", b"\xff"], object)


def whole(parts):
    return b"".join(parts)


def test_a_request_with_json_and_binary_inputs_comes_back():
    request = Request(
        [
            Tensor("a", "FP32", [2, 2], FLOATS, {"p": 1}, is_binary=True),
            Tensor("b", "INT64", [2], np.array([2**60, -1])),
            Tensor("c", "BYTES", [2], TEXTS, is_binary=True),
        ],
        [Wanted("y", {"binary_data": False}), Wanted("z")],
        "id-1",
        {"flag": True, "n": 3, "x": 0.5, "s": "text"},
    )
    parts, json_length = v2_rest.encode_request(request, binary_outputs=True)
    body = whole(parts)
    message = orjson.loads(body[:json_length])
    assert message["inputs"][0] == {
        "name": "a", "shape": [2, 2], "datatype": "FP32", "parameters": {"p": 1, "binary_data_size": 16},
    }  # fmt: skip
    assert message["inputs"][1]["data"] == [2**60, -1]
    assert body[json_length:] == FLOATS.tobytes() + b"\1\0\0\0a\1\0\0\0\xff"
    read = v2_rest.decode_request(body, json_length)
    assert read.id == "id-1"
    assert read.parameters == {**request.parameters, "binary_data_output": True}
    assert read.outputs == request.outputs
    assert [tensor.name for tensor in read.inputs] == ["a", "b", "c"]
    assert [tensor.is_binary for tensor in read.inputs] == [True, False, True]
    assert (read.inputs[0].array == FLOATS).all()
    assert read.inputs[1].array.tolist() == [2**60, -1]
    assert read.inputs[2].array.tolist() == [b"a", b"\xff"]


def test_an_answer_comes_back():
    response = Response(
        "m", [Tensor("y", "FP32", [2, 2], FLOATS, {"p": 1}), Tensor("f", "BF16", [1], FLOATS[0, :1])]
    )
    parts, json_length = v2_rest.encode_response(
        response._replace(id="1", model_version="2", parameters={"k": 1})
    )
    assert json_length is None
    assert json.loads(whole(parts)) == {
        "model_name": "m",
        "model_version": "2",
        "id": "1",
        "parameters": {"k": 1},
        "outputs": [
            {
                "name": "y",
                "shape": [2, 2],
                "datatype": "FP32",
                "data": [1.5, 2.5, 3.5, 4.5],
                "parameters": {"p": 1},
            },
            {"name": "f", "shape": [1], "datatype": "BF16", "data": [1.5]},
        ],
    }
    read = v2_rest.decode_response(whole(parts))
    assert (read.model_name, read.model_version, read.id, read.parameters) == ("m", "2", "1", {"k": 1})
    assert (read.outputs[0].array == FLOATS).all()


def test_binary_tensors_are_views_of_the_body():
    tensors = [Tensor("a", "FP32", [2, 2], FLOATS, is_binary=True)]
    parts, json_length = v2_rest.encode_request(Request(tensors))
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), FLOATS)
    body = bytearray(whole(parts))
    read = v2_rest.decode_request(memoryview(body), json_length)
    assert np.shares_memory(read.inputs[0].array, np.frombuffer(body, np.uint8))


def test_bytes_that_are_no_text_have_no_json_form():
    with pytest.raises(TypeError, match=r"y holds bytes that are no UTF-8, .*: ask for binary data"):
        v2_rest.encode_response(Response("m", [Tensor("y", "BYTES", [2], TEXTS)]))


def tensor(**changes):
    made = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1], **changes}
    return {key: value for key, value in made.items() if value is not ...}


BAD = [
    (b"", "Unrecognized request format: "),
    (b"{", "Unrecognized request format: "),
    (
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        "Unrecognized request format",
    ),
    ([], "Expected a JSON object such as"),
    ({}, 'Expected "inputs", a list of tensors such as'),
    ({"inputs": {}}, "got an object"),
    ({"inputs": [1]}, "inputs[0] is an integer, expected a tensor with name, shape and datatype"),
    ({"inputs": [tensor(name=...)]}, 'inputs[0]: "name" is null, expected a string'),
    ({"inputs": [tensor(name="")]}, "inputs[0]: \"name\" is '', expected a string"),
    ({"inputs": [tensor(), tensor(name=5)]}, 'inputs[1]: "name" is 5, expected a string'),
    ({"inputs": [tensor(datatype=...)]}, 'input "x": "datatype" is null, expected a string such as FP32'),
    ({"inputs": [tensor(datatype="FP31")]}, "input \"x\": Unknown datatype 'FP31', expected one of BOOL"),
    ({"inputs": [tensor(shape=...)]}, 'input "x": "shape" is null, expected a list of integers'),
    ({"inputs": [tensor(shape=[1.0])]}, 'input "x": "shape" is [1.0], expected a list of integers'),
    ({"inputs": [tensor(shape=[True])]}, "is [True], expected a list of integers"),
    ({"inputs": [tensor()], "parameters": {"binary_data_output": "false"}}, "is 'false', expected a boolean"),
    (
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"binary_data": 2}}]},
        "expected a boolean",
    ),
    ({"inputs": [tensor(data=...)]}, 'input "x" has no data, expected "data" or'),
    ({"inputs": [tensor(data=[1, 2])]}, 'input "x": "data" has 2 values, and shape [1] has 1 values'),
    ({"inputs": [tensor(data=[1e39])]}, 'input "x": "data" holds a number that is too large for FP32'),
    ({"inputs": [tensor(data=[70000], datatype="FP16")]}, "a number that is too large for FP16"),
    ({"inputs": [tensor(parameters=5)]}, '"parameters" of input "x" are an integer, expected an object'),
    ({"inputs": [tensor(parameters={"a": []})]}, 'parameter "a" of input "x" is a list, expected a string'),
    ({"inputs": [tensor(parameters={"binary_data_size": 4})]}, 'has both "data" and binary_data_size'),
    (
        {"inputs": [tensor(data=..., parameters={"binary_data_size": 4})]},
        "binary_data_size is 4, and 0 bytes are left",
    ),
    (
        {"inputs": [tensor(data=..., parameters={"binary_data_size": -1})]},
        "is -1, expected a number of bytes",
    ),
    (
        {"inputs": [tensor(data=..., parameters={"binary_data_size": True})]},
        "is True, expected a number of bytes",
    ),
    ({"inputs": [tensor()], "outputs": {}}, 'Expected "outputs" to be a list, got an object'),
    ({"inputs": [tensor()], "outputs": ["y"]}, "outputs[0] is 'y', expected an object with the \"name\""),
    ({"inputs": [tensor()], "outputs": [{}]}, 'outputs[0] is an object, expected an object with the "name"'),
    ({"inputs": [tensor()], "id": 5}, 'Expected "id" to be a string, got an integer'),
    ({"inputs": [tensor()], "parameters": [1]}, '"parameters" of the request are a list, expected an object'),
]


@pytest.mark.parametrize(("body", "text"), BAD)
def test_a_wrong_body_is_refused_by_name(body, text):
    encoded = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(InvalidInput) as refusal:
        v2_rest.decode_request(encoded)
    assert text in str(refusal.value)


@pytest.mark.parametrize("extra", [b"", b"1234567"])
def test_binary_data_must_be_as_many_as_the_tensors_say(extra):
    head = orjson.dumps({"inputs": [tensor(data=..., parameters={"binary_data_size": 4})]})
    with pytest.raises(InvalidInput, match=r"0 bytes are left|3 bytes behind the JSON belong to no tensor"):
        v2_rest.decode_request(head + extra, len(head))


@pytest.mark.parametrize("value", ["", "-1", "1.0", "0x1", "11", "9" * 400, "٣"])
def test_a_header_that_is_no_length(value):
    with pytest.raises(
        InvalidInput, match=r"Inference-Header-Content-Length is .*, expected a number of bytes up to 10"
    ):
        v2_rest.header_length(value, 10)


def test_a_header_that_is_one():
    assert v2_rest.header_length("7", 10) == 7
    assert v2_rest.header_length(None, 10) is None
