"""gRPC's messages of V2 and values, both ways."""

import numpy as np
import pytest

from modelserver import datatypes
from modelserver.errors import InvalidInput
from modelserver.messages import InferInput, InferOutput, InferRequest, InferResponse, RequestedOutput
from modelserver.protocols import v2_grpc
from modelserver.protocols.v2_messages import ModelInferRequest, ModelInferResponse
from modelserver.protocols.v2_values import Request, Response, Tensor, Wanted

ARRAYS = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{f"UINT{bits}": np.array([[0, 2**bits - 1], [1, 5]], f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{
        f"INT{bits}": np.array([[-(2 ** (bits - 1)), 2 ** (bits - 1) - 1], [0, -1]], f"i{bits // 8}")
        for bits in (8, 16, 32, 64)
    },
    "FP16": np.array([[0.5, -2], [65504, np.inf]], np.float16),
    "BF16": np.array([[0.5, -2], [2**100, np.inf]], np.float32),
    "FP32": np.array([[0.1, -2], [3e38, np.nan]], np.float32),
    "FP64": np.array([[0.1, -2], [1e308, -np.inf]]),
    "BYTES": np.array([[b"a\xff", b""], ["é".encode(), b"x" * 300]], object),
}
RAW_ONLY = {"FP16", "BF16"}
PARAMETERS = {"b": True, "i": -(2**63), "u": 2**64 - 1, "f": 0.25, "s": "é"}


def request(**kinds):
    """A request of the given tensors: name -> datatype, shape, contents."""
    message = ModelInferRequest(model_name="m")
    for name, (datatype, shape, contents) in kinds.items():
        message.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return message


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_datatype_comes_back_in_both_forms(datatype, is_binary):
    array = ARRAYS[datatype]
    sent = Tensor("x", datatype, [2, 2], array, is_binary=is_binary)
    for encode, decode, value, field in (
        (v2_grpc.encode_request, v2_grpc.decode_request, Request([sent]), "raw_input_contents"),
        (v2_grpc.encode_response, v2_grpc.decode_response, Response("m", [sent]), "raw_output_contents"),
    ):
        body = encode(value)
        kind = ModelInferRequest if encode is v2_grpc.encode_request else ModelInferResponse
        is_raw = is_binary or datatype in RAW_ONLY
        assert len(getattr(kind.FromString(body), field)) == is_raw
        decoded = decode(body)
        [got] = decoded.inputs if kind is ModelInferRequest else decoded.outputs
        assert (got.name, got.datatype, list(got.shape), got.is_binary) == ("x", datatype, [2, 2], is_raw)
        assert got.array.dtype == array.dtype
        assert got.array.tobytes() == array.tobytes() if datatype != "BYTES" else (got.array == array).all()


@pytest.mark.parametrize("datatype", ARRAYS.keys() - {"FP16", "BF16", "BYTES"})
def test_long_lists_are_read_as_short_ones_are(datatype):
    array = np.tile(ARRAYS[datatype], (100, 1))
    [got] = v2_grpc.decode_request(
        v2_grpc.encode_request(Request([Tensor("x", datatype, [200, 2], array)]))
    ).inputs
    assert got.array.dtype == array.dtype
    assert got.array.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [[], [0], [3, 0], [1, 1, 1]])
@pytest.mark.parametrize("is_binary", [False, True])
def test_shapes(shape, is_binary):
    array = np.ones(shape, np.float32)
    body = v2_grpc.encode_request(Request([Tensor("x", "FP32", shape, array, is_binary=is_binary)]))
    assert v2_grpc.decode_request(body).inputs[0].array.tolist() == array.tolist()


def test_arrays_that_do_not_lie_in_row_order_are_written_so():
    array = np.arange(6, dtype=">f8").reshape(2, 3).T
    for datatype, is_binary in (("FP32", True), ("FP32", False), ("INT16", False), ("FP64", True)):
        sent = Tensor("x", datatype, [3, 2], array, is_binary=is_binary)
        [got] = v2_grpc.decode_request(v2_grpc.encode_request(Request([sent]))).inputs
        assert got.array.tolist() == array.tolist()


def test_all_of_a_request_comes_back():
    sent = Request(
        [
            Tensor("x", "FP32", [1], np.float32([1]), PARAMETERS),
            Tensor("y", "INT64", [1], np.int64([2]), {"one": 1}),
        ],
        [Wanted("a", {"binary_data": False}), Wanted("b")],
        "id",
        PARAMETERS,
        "model",
        "7",
    )
    got = v2_grpc.decode_request(v2_grpc.encode_request(sent))
    assert (got.id, got.model_name, got.model_version) == ("id", "model", "7")
    assert got.parameters == PARAMETERS
    assert [(each.name, each.parameters) for each in got.inputs] == [("x", PARAMETERS), ("y", {"one": 1})]
    assert got.outputs == sent.outputs
    assert v2_grpc.request_of(v2_grpc.request_message(sent)).inputs[0].array.tolist() == [1]


def test_all_of_an_answer_comes_back():
    sent = Response("model", [Tensor("x", "FP32", [1], np.float32([1]), PARAMETERS)], "7", "id", PARAMETERS)
    got = v2_grpc.decode_response(v2_grpc.encode_response(sent))
    assert (got.id, got.model_name, got.model_version) == ("id", "model", "7")
    assert got.parameters == got.outputs[0].parameters == PARAMETERS
    assert v2_grpc.response_of(v2_grpc.response_message(sent)).outputs[0].array.tolist() == [1]


@pytest.mark.parametrize(
    ("value", "same"), [(np.int32(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.str_("a"), "a")]
)
def test_numpys_scalars_are_parameters(value, same):
    body = v2_grpc.encode_response(Response("m", [], parameters={"p": value}))
    got = v2_grpc.decode_response(body).parameters["p"]
    assert (got, type(got)) == (same, type(same))


@pytest.mark.parametrize("value", [None, [1], 2**64, -(2**63) - 1, b"bytes"])
def test_parameters_that_cannot_be_sent_are_named(value):
    with pytest.raises(TypeError, match=r"parameter p is .*, expected a string, a boolean or a number"):
        v2_grpc.encode_response(Response("m", [], parameters={"p": value}))


def test_a_parameter_that_holds_nothing_is_left_out():
    message = ModelInferRequest()
    message.parameters["nothing"]  # a map makes what it is asked for
    message.parameters["one"].int64_param = 1
    assert v2_grpc.request_of(message).parameters == {"one": 1}


def test_large_raw_tensors_are_views_of_the_body():
    arrays = [np.arange(n, dtype=np.float32) for n in (50_000, 20_000)]
    tensors = [Tensor(f"x{n}", "FP32", array.shape, array, is_binary=True) for n, array in enumerate(arrays)]
    asked = v2_grpc.encode_request(Request(tensors, model_name="m"))
    answered = v2_grpc.encode_response(Response("m", tensors))
    for body, decoded in (
        (asked, v2_grpc.decode_request(asked).inputs),
        (answered, v2_grpc.decode_response(answered).outputs),
    ):
        memory = np.frombuffer(body, np.uint8)
        for tensor, array in zip(decoded, arrays, strict=True):
            assert np.shares_memory(tensor.array, memory)
            assert not tensor.array.flags.writeable
            assert np.array_equal(tensor.array, array)


FP32_2 = {"fp32_contents": [1, 2]}


@pytest.mark.parametrize(
    ("message", "raw", "words"),
    [
        (request(x=("FP32", [], FP32_2)), [], "fp32_contents has 2 values, and shape [] of FP32 has 1"),
        (request(x=("FP32", [3], FP32_2)), [], 'input "x": fp32_contents has 2 values, and shape [3] of FP'),
        (
            request(x=("INT64", [2], FP32_2)),
            [],
            'input "x": int64_contents has 0 values, and shape [2] of INT64 has 2; there are fp32_contents',
        ),
        (request(x=("FP16", [2], FP32_2)), [], 'input "x": FP16 is sent as raw bytes only, and there are'),
        (request(x=("FP31", [2], FP32_2)), [], "input \"x\": Unknown datatype 'FP31', expected one of BOOL"),
        (request(x=("", [2], FP32_2)), [], "input \"x\": Unknown datatype ''"),
        (request(x=("FP32", [-1, 2], FP32_2)), [], 'input "x": shape [-1, 2] has a negative size'),
        (request(x=("FP32", [0, 2**40], {})), [], 'input "x": shape [0, 1099511627776] has too many rows'),
        (request(x=("FP32", [2**40, 2**40], FP32_2)), [], "has 1208925819614629174706176"),
        (request(x=("FP32", [1] * 33, {})), [], 'input "x": 33 dimensions, expected at most 32'),
        (
            request(x=("INT8", [2], {"int_contents": [1, 128]})),
            [],
            'input "x": int_contents has values from 0 to 128, and INT8 has -128 to 127',
        ),
        (request(x=("INT8", [1], {"int_contents": [-129]})), [], "from -129 to 0"),
        (request(x=("UINT16", [1], {"uint_contents": [2**16]})), [], "UINT16 has 0 to 65535"),
        (ModelInferRequest(inputs=[{"datatype": "FP32"}]), [], "has no name"),
        (
            request(x=("FP32", [1], {}), y=("FP32", [1], {})),
            [b"1234"],
            "raw_input_contents has 1 tensors, and there are 2 inputs",
        ),
        (ModelInferRequest(), [b"1234"], "raw_input_contents has 1 tensors, and there are 0 inputs"),
        (
            request(x=("FP32", [2], FP32_2)),
            [b"12345678"],
            'input "x" has contents, and raw_input_contents as well, expected one of them',
        ),
        (ModelInferRequest(inputs=[{}] * 65_537), [], "65537 inputs, expected at most 65536"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said(message, raw, words):
    message.raw_input_contents.extend(raw)
    for padding in ("", "p" * 100_000):  # the second is long enough to be looked through
        message.parameters["padding"].string_param = padding
        with pytest.raises(InvalidInput) as error:
            v2_grpc.decode_request(message.SerializeToString())
        assert words in str(error.value)


def test_raw_bytes_that_do_not_fit_are_refused():
    message = ModelInferRequest(
        inputs=[{"name": "x", "datatype": "FP32", "shape": [2]}], raw_input_contents=[b"1234567"]
    )
    with pytest.raises(InvalidInput, match=r'input "x": 7 bytes.*shape .2. of FP32 has 8'):
        v2_grpc.decode_request(message.SerializeToString())


def test_small_letters_name_a_datatype_too():
    [got] = v2_grpc.request_of(request(x=("fp32", [2], FP32_2))).inputs
    assert got.datatype == "FP32"


@pytest.mark.parametrize("size", [3, 200_000])
def test_bytes_that_are_no_message_are_refused(size):
    with pytest.raises(InvalidInput, match=r"The request is not a inference.ModelInferRequest"):
        v2_grpc.decode_request(b"\xff" * size)
    with pytest.raises(InvalidInput, match=r"The answer is not a inference.ModelInferResponse"):
        v2_grpc.decode_response(b"\xff" * size)


def test_a_large_shape_takes_no_memory():
    """What the shape promises is compared with what is there first."""
    for datatype in datatypes.DATATYPES:
        message = ModelInferRequest(inputs=[{"name": "x", "datatype": datatype, "shape": [2**31, 2**20]}])
        with pytest.raises(InvalidInput):
            v2_grpc.request_of(message)
        with pytest.raises(InvalidInput):
            v2_grpc.request_of(message, [b"\0" * 8])


# -- KServe's classes


def test_an_infer_request_is_made_of_a_message_and_becomes_one():
    message = request(x=("FP32", [2], FP32_2), t=("BYTES", [1], {"bytes_contents": [b"a"]}))
    message.id, message.model_version = "id", "3"
    message.outputs.add(name="y")
    message.parameters["p"].int64_param = 4
    got = InferRequest.from_grpc(message)
    assert (got.id, got.model_name, got.model_version, got.parameters) == ("id", "m", "3", {"p": 4})
    assert vars(got)["from_grpc"]
    assert not got.use_binary_outputs
    assert got.get_input_by_name("x").as_numpy().tolist() == [1, 2]
    assert got.get_input_by_name("t").as_string() == ["a"]
    assert got.request_outputs == [RequestedOutput("y")]
    back = got.to_grpc()
    assert [bytes(each) for each in back.raw_input_contents] == [np.float32([1, 2]).tobytes(), b"\1\0\0\0a"]
    assert InferRequest.from_grpc(back).use_binary_outputs
    del back.raw_input_contents[:]
    for tensor in message.inputs:
        tensor.ClearField("contents")
    assert back == message


def test_lists_become_contents_and_arrays_raw_bytes():
    lists = InferRequest("m", [InferInput("x", [2], "FP32", [1, 2]), InferInput("t", [1], "BYTES", ["é"])])
    message = lists.to_grpc()
    assert list(message.inputs[0].contents.fp32_contents) == [1, 2]
    assert list(message.inputs[1].contents.bytes_contents) == ["é".encode()]
    assert not message.raw_input_contents
    lists.inputs[0].set_data_from_numpy(np.float32([3, 4]))
    message = lists.to_grpc()
    assert not message.inputs[1].HasField("contents")
    assert list(message.raw_input_contents) == [np.float32([3, 4]).tobytes(), b"\2\0\0\0\xc3\xa9"]


def test_an_infer_response_is_made_of_a_message_and_becomes_one():
    outputs = [InferOutput("x", [2], "INT8", [1, 2]), InferOutput("y", [1], "FP32", [0.5])]
    response = InferResponse("id", "m", outputs, "3", parameters={"p": "q"})
    message = response.to_grpc()
    assert list(message.outputs[0].contents.int_contents) == [1, 2]
    got = InferResponse.from_grpc(message)
    assert (got.id, got.model_name, got.model_version, got.parameters) == ("id", "m", "3", {"p": "q"})
    assert got.get_output_by_name("x").as_numpy().dtype == np.int8
    assert got.get_output_by_name("y").as_numpy().tolist() == [0.5]
    response.requested_outputs = [RequestedOutput("y")]
    outputs[1].data = np.float32([0.5])
    message = response.to_grpc()
    assert [each.name for each in message.outputs] == ["y"]
    assert list(message.raw_output_contents) == [np.float32([0.5]).tobytes()]
