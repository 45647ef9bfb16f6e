"""InferRequest, InferResponse and their tensors: KServe's names, and arrays all the way."""

import numpy as np
import orjson
import pandas
import pytest

from modelserver import (
    InferenceError,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    RequestedOutput,
    generate_uuid,
)

FLOATS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)


def test_an_input_made_of_a_list():
    tensor = InferInput("x", [2, 2], "fp32", [1, 2, 3, 4])
    assert tensor.datatype == "FP32"
    assert tensor.data == [1, 2, 3, 4]
    array = tensor.as_numpy()
    assert (array.dtype, array.tolist()) == (np.float32, [[1, 2], [3, 4]])
    assert InferInput("x", [2, 2], "FP32", [[1, 2], [3, 4]]) == tensor
    assert InferInput("x", [2, 2], "FP32", [[1, 2], [3, 5]]) != tensor
    assert tensor != InferOutput("x", [2, 2], "FP32", [1, 2, 3, 4])


def test_arrays_are_not_copied():
    tensor = InferInput("x", FLOATS.shape, "FP32")
    tensor.set_data_from_numpy(FLOATS)
    assert tensor.as_numpy() is FLOATS
    assert tensor.data is FLOATS
    assert tensor.is_binary
    tensor.set_data_from_numpy(FLOATS, binary_data=False)
    assert not tensor.is_binary
    assert np.shares_memory(InferInput("x", [4], "FP32", FLOATS).as_numpy(), FLOATS)


def test_a_reshaped_tensor():
    tensor = InferInput("x", [2, 2], "FP32", FLOATS)
    tensor.shape = [4]
    assert tensor.as_numpy().shape == (4,)
    tensor.data = [7]
    tensor.shape = [1]
    assert tensor.as_numpy().tolist() == [7]


@pytest.mark.parametrize(
    ("shape", "datatype", "array", "text"),
    [
        ([2, 2], "FP64", FLOATS, "the array is FP32, expected FP64"),
        ([4], "FP32", FLOATS, r"the array has the shape \[2, 2\], expected \[4\]"),
        ([2], "FP32", [1, 2], "data are list, expected a numpy array"),
        ([2], "FP32", np.zeros(2, complex), "there are no tensors of complex128"),
    ],
)
def test_an_array_that_is_not_the_tensor_s(shape, datatype, array, text):
    with pytest.raises(InferenceError, match=text):
        InferOutput("y", shape, datatype).set_data_from_numpy(array)


def test_bf16_takes_floats():
    tensor = InferOutput("y", [2, 2], "BF16")
    tensor.set_data_from_numpy(FLOATS)
    assert tensor.as_numpy() is FLOATS


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (InferInput("x", [2], "FP32"), 'input "x" has no data'),
        (
            InferInput("x", [3], "FP32", [1, 2]),
            'input "x": "data" has 2 values, and shape \\[3\\] has 3 values',
        ),
        (InferInput("x", [3], "FP32", FLOATS), r"data have the shape \[2, 2\], expected \[3\]"),
        (InferInput("x", [1], "FP33", [1]), "Unknown datatype 'FP33'"),
        (InferInput("x", [1], "FP33", FLOATS), "Unknown datatype 'FP33'"),
        (InferInput("x", [1], "BYTES", "text"), "data are str, expected a list or an array"),
    ],
)
def test_data_that_do_not_fit(made, text):
    with pytest.raises(InvalidInput, match=text):
        made.as_numpy()


def test_text_from_json_stays_text_and_binary_text_is_bytes():
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["a", "é"]}]})
    (tensor,) = InferRequest.from_bytes(body, len(body), "m").inputs
    assert tensor.data == ["a", "é"]
    assert tensor.as_numpy().tolist() == ["a", "é"]
    assert tensor.as_string() == ["a", "é"]
    raw = InferRequest("m", [InferInput("x", [2], "BYTES")], raw_inputs=[b"\1\0\0\0a\2\0\0\0\xc3\xa9"])
    assert raw.inputs[0].as_numpy().tolist() == [b"a", "é".encode()]
    assert raw.inputs[0].as_string() == ["a", "é"]
    assert InferInput("x", [2], "BYTES", [b"a", "é"]).as_string() == ["a", "é"]
    with pytest.raises(InvalidInput, match="expected BYTES for text"):
        InferInput("x", [1], "FP32", [1]).as_string()
    with pytest.raises(InvalidInput, match="no UTF-8"):
        InferInput("x", [1], "BYTES", [b"\xff"]).as_string()


def test_raw_inputs_are_as_many_as_the_inputs():
    with pytest.raises(InvalidInput, match="2 raw contents for 1 tensors"):
        InferRequest("m", [InferInput("x", [1], "FP32")], raw_inputs=[b"1234", b"1234"])


def test_a_request_to_rest_and_back():
    request = InferRequest(
        "m",
        [InferInput("a", [2, 2], "FP32", [1, 2, 3, 4]), InferInput("s", [1], "BYTES", ["t"])],
        request_id="7",
        parameters={"p": 1},
        request_outputs=[RequestedOutput("y", {"binary_data": True})],
    )
    as_json, length = request.to_rest()
    assert length is None
    assert as_json["inputs"][0]["data"] == [1, 2, 3, 4]
    again = InferRequest.from_bytes(orjson.dumps(as_json), len(orjson.dumps(as_json)), "m")
    assert again == request
    assert again.get_input_by_name("s").as_string() == ["t"]
    assert again.get_input_by_name("nothing") is None
    assert again.request_outputs[0].binary_data is True
    request.inputs[0].set_data_from_numpy(FLOATS)
    body, length = request.to_rest()
    assert body[length:] == FLOATS.tobytes()
    assert (InferRequest.from_bytes(body, length, "m").inputs[0].as_numpy() == FLOATS).all()


def test_an_answer_to_rest_and_back():
    response = InferResponse("7", "m", [InferOutput("y", [2, 2], "FP32", FLOATS)], "3", parameters={"p": 1})
    as_json, length = response.to_rest()
    assert length is None
    assert InferResponse.from_rest(as_json) == response
    response.use_binary_outputs = True
    body, length = response.to_rest()
    assert body[length:] == FLOATS.tobytes()
    again = InferResponse.from_bytes(body, length)
    assert (again.get_output_by_name("y").as_numpy() == FLOATS).all()
    response.requested_outputs = [RequestedOutput("z")]
    with pytest.raises(InvalidInput, match="Unexpected inference output 'z' for model 'm'"):
        response.to_rest()


def test_a_wrong_output_is_the_model_s_mistake():
    response = InferResponse("7", "m", [InferOutput("y", [3], "FP32", [1])])
    with pytest.raises(
        InferenceError, match='the model\'s answer cannot be sent: output "y": "data" has 1 values'
    ):
        response.to_rest()


def test_binary_outputs_are_asked_for_in_another_way_by_each_door():
    tensor = InferInput("x", [1], "FP32")
    assert not InferRequest("m", [tensor]).use_binary_outputs
    assert InferRequest("m", [tensor], parameters={"binary_data_output": True}).use_binary_outputs
    assert InferRequest("m", [tensor], raw_inputs=[b"1234"], from_grpc=True).use_binary_outputs
    assert not InferRequest("m", [tensor], raw_inputs=[b"1234"]).use_binary_outputs


def test_a_table():
    request = InferRequest(
        "m",
        [
            InferInput("a", [2], "INT32", [1, 2]),
            InferInput("b", [2, 1], "FP32", [[0.5], [1.5]]),
            InferInput("s", [2], "BYTES", [b"t", b"u"]),
        ],
    )
    expected = pandas.DataFrame({"a": np.int32([1, 2]), "b": np.float32([0.5, 1.5]), "s": ["t", "u"]})
    pandas.testing.assert_frame_equal(request.as_dataframe(), expected)
    with pytest.raises(InvalidInput, match=r'input "m" has the shape \[2, 2\], expected one value in a row'):
        InferRequest("m", [InferInput("m", [2, 2], "FP32", FLOATS)]).as_dataframe()


def test_ids_differ():
    assert generate_uuid() != generate_uuid()


@pytest.mark.parametrize(
    ("of_request", "of_output", "binary"),
    [
        ({}, {}, False),
        ({"binary_data_output": True}, {}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({"binary_data_output": False}, {"binary_data": True}, True),
        ({}, {"binary_data": True}, True),
    ],
)
def test_an_output_s_own_wish_wins(of_request, of_output, binary):
    response = InferResponse("7", "m", [InferOutput("y", [2, 2], "FP32", FLOATS)])
    (output,) = response.value([RequestedOutput("y", of_output)], of_request).outputs
    assert output.is_binary is binary


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("UINT8", np.array([300])),
        ("INT32", np.array([1.7])),
        ("INT64", np.array([np.nan])),
        ("FP32", np.array([1 + 2j])),
        ("FP32", np.array(["3.5"])),
        ("INT64", np.array(["2026-01-01"], "M8[s]")),
        ("BYTES", np.array([1])),
        ("BOOL", np.array([1])),
    ],
)
def test_an_array_that_does_not_fit_the_datatype_is_not_cast(datatype, array):
    with pytest.raises(InferenceError, match="the model's answer cannot be sent"):
        InferResponse("7", "m", [InferOutput("y", [1], datatype, array)]).value()


def test_an_array_that_fits_is_cast():
    (tensor,) = InferResponse("7", "m", [InferOutput("y", [2], "FP32", np.array([0.1, 2]))]).value().outputs
    assert (tensor.array.dtype, tensor.array.tolist()) == (np.float32, np.float32([0.1, 2]).tolist())


def test_an_output_is_sent_once():
    response = InferResponse("7", "m", [InferOutput("y", [2, 2], "FP32", FLOATS)])
    with pytest.raises(
        InvalidInput, match=r"Unexpected inference output 'y' for model 'm' .it is wanted twice"
    ):
        response.value([RequestedOutput("y"), RequestedOutput("y")])
