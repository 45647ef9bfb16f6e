"""What hooks get of a V2 request, and what becomes of what they return."""

import numpy as np
import pytest

from modelserver import (
    InferenceError,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    Model,
    RequestedOutput,
    TensorRequest,
    TensorResponse,
)
from modelserver.v2_inference import to_payload, to_response

FLOATS = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)


class Own(Model):
    """Says nothing of itself."""


class Rows(Model):
    instances_dtype = "float32"


class Tensors(Model):
    takes_tensors = True

    def __init__(self, inputs=(), outputs=()):
        super().__init__("m")
        self.inputs, self.outputs = inputs, outputs

    def get_input_types(self):
        return self.inputs

    def get_output_types(self):
        return self.outputs


class TensorRows(Tensors):
    instances_dtype = "float32"
    max_batch_size = 8


def said(name, datatype="FP32", shape=(-1, 2)):
    return {"name": name, "datatype": datatype, "shape": np.array(shape)}


def request(*inputs, **kwargs):
    tensors = []
    for name, array in inputs:
        if array.dtype == object:
            tensors.append(InferInput(name, array.shape, "BYTES", array))
        else:
            tensors.append(
                InferInput(name, array.shape, {"f4": "FP32", "i8": "INT64"}[array.dtype.str[1:]], array)
            )
    return InferRequest("m", tensors, "id", **kwargs)


def test_a_model_that_says_nothing_gets_the_request_as_in_kserve():
    asked = request(("x", FLOATS))
    assert to_payload(asked, Own("m")) is asked


def test_a_model_of_rows_gets_what_a_v1_client_sends():
    payload = to_payload(request(("x", FLOATS)), Rows("m"))
    assert payload.keys() == {"instances"}
    assert payload["instances"] is FLOATS
    two = to_payload(request(("a", FLOATS), ("b", np.array(["s", "t"], object))), Rows("m"))
    assert two == {"instances": [{"a": [1.5, 2.5], "b": "s"}, {"a": [3.5, 4.5], "b": "t"}]}


@pytest.mark.parametrize(
    ("inputs", "outputs", "array", "is_v1"),
    [
        ([said("x")], [said("y")], FLOATS, True),
        ([], [said("y")], FLOATS, True),
        ([said("x", "INT64")], [said("y")], np.zeros((1, 2), np.int64), False),
        ([said("x")], [said("y"), said("z")], FLOATS, False),
        ([said("x")], [], FLOATS, False),
        ([said("x")], [said("y", shape=[2])], FLOATS, False),
        ([said("x")], [said("y", "BYTES")], FLOATS, False),
    ],
)
def test_one_input_and_one_output_share_v1_s_batches(inputs, outputs, array, is_v1):
    payload = to_payload(request(("x", array)), TensorRows(inputs, outputs))
    if is_v1:
        assert payload["instances"] is array
    else:
        assert isinstance(payload, TensorRequest)
        assert payload.inputs["x"] is array


def test_without_batches_there_is_nothing_to_share():
    model = TensorRows([said("x")], [said("y")])
    model.max_batch_size = 0
    assert isinstance(to_payload(request(("x", FLOATS)), model), TensorRequest)


def test_a_signature_and_the_wanted_outputs_are_passed_on():
    asked = request(
        ("x", FLOATS), parameters={"signature_name": "other"}, request_outputs=[RequestedOutput("y")]
    )
    payload = to_payload(asked, TensorRows([said("x")], [said("y")]))
    assert (payload.signature_name, tuple(payload.outputs)) == ("other", ("y",))
    with pytest.raises(InvalidInput, match='parameter "signature_name" is no string'):
        to_payload(request(("x", FLOATS), parameters={"signature_name": 5}), Tensors())


def test_text_is_bytes_for_a_model_of_tensors():
    payload = to_payload(request(("s", np.array([["é", "t"]], object))), Tensors())
    assert payload.inputs["s"].tolist() == [["é".encode(), b"t"]]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([("z", FLOATS)], 'unexpected input "z"; the model takes "x" FP32 [-1, 2], "n" INT64 [-1]'),
        ([("x", FLOATS)], 'input "n" is missing; the model takes "x" FP32 [-1, 2], "n" INT64 [-1]'),
        ([("x", np.zeros((2, 2), np.int64)), ("n", np.zeros(2, np.int64))],
         'input "x" has the datatype INT64, expected FP32'),
        ([("x", FLOATS.T[:1]), ("n", np.zeros(2, np.int64))], None),
        ([("x", FLOATS[:, :1]), ("n", np.zeros(2, np.int64))],
         'input "x" has the shape [2, 1], expected [-1, 2]'),
        ([("x", FLOATS[0]), ("n", np.zeros(2, np.int64))], 'input "x" has the shape [2], expected [-1, 2]'),
        ([("x", FLOATS), ("n", np.zeros((2, 7), np.int64))], None),
    ],
)  # fmt: skip
def test_inputs_are_those_that_the_model_says(inputs, text):
    model = Tensors([said("x"), said("n", "INT64", [-1])])
    if text is None:
        assert to_payload(request(*inputs), model).inputs.keys() == {"x", "n"}
        return
    with pytest.raises(InvalidInput) as refusal:
        to_payload(request(*inputs), model)
    assert str(refusal.value) == text


def test_an_input_that_is_there_twice():
    with pytest.raises(InvalidInput, match='input "x" is there twice'):
        to_payload(request(("x", FLOATS), ("x", FLOATS)), Tensors())


RESPONSE = InferResponse("own", "m", [InferOutput("y", [2, 2], "FP32", FLOATS)])


def outputs(answer, model=None):
    response = to_response(answer, request(("x", FLOATS)), model or Own("m"), "m")
    assert isinstance(response, InferResponse)
    assert response.model_name == "m"
    assert response.model_version == "1"
    return {each.name: (each.datatype, each.as_numpy().tolist()) for each in response.outputs}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RESPONSE, {"y": ("FP32", FLOATS.tolist())}),
        (TensorResponse({"y": FLOATS, "s": np.array([b"t"], object)}),
         {"y": ("FP32", FLOATS.tolist()), "s": ("BYTES", [b"t"])}),
        ({"predictions": [1, 2]}, {"predictions": ("INT64", [1, 2])}),
        ({"predictions": FLOATS}, {"predictions": ("FP32", FLOATS.tolist())}),
        ({"predictions": [{"a": 1, "b": "s"}, {"a": 2, "b": "t"}]},
         {"a": ("INT64", [1, 2]), "b": ("BYTES", ["s", "t"])}),
        ({"outputs": {"a": [1.5]}}, {"a": ("FP64", [1.5])}),
        ({"outputs": [{"name": "y", "shape": [1, 2], "datatype": "INT8", "data": [1, 2]}]},
         {"y": ("INT8", [[1, 2]])}),
        ({"outputs": [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": FLOATS}]},
         {"y": ("FP32", FLOATS.tolist())}),
        (FLOATS, {"output-0": ("FP32", FLOATS.tolist())}),
        ([[1, 2]], {"output-0": ("INT64", [[1, 2]])}),
        (["a", "b"], {"output-0": ("BYTES", ["a", "b"])}),
    ],
)  # fmt: skip
def test_what_a_model_may_return(answer, expected):
    assert outputs(answer) == expected


def test_the_request_s_id_is_the_answer_s():
    asked = request(("x", FLOATS))
    assert to_response([1], asked, Own("m"), "m").id == "id"
    assert to_response(RESPONSE, asked, Own("m"), "m").id == "own"
    again = InferResponse(None, "m", [])
    assert to_response(again, asked, Own("m"), "m").id == "id"
    assert again.id is None  # a model may keep it


def test_numbers_from_lists_are_what_the_model_says():
    model = Tensors(outputs=[said("y")])
    assert outputs({"predictions": [[1, 2.5]]}, model) == {"y": ("FP32", [[1, 2.5]])}
    assert outputs([[1, 2]], model) == {"y": ("FP32", [[1, 2]])}
    whole = Tensors(outputs=[said("y", "INT32")])
    assert outputs({"predictions": [1, 2]}, whole) == {"y": ("INT32", [1, 2])}
    assert outputs({"predictions": [1.5]}, whole) == {"y": ("FP64", [1.5])}
    assert outputs({"predictions": [2**40]}, whole) == {"y": ("INT64", [2**40])}


@pytest.mark.parametrize("answer", [b"raw", "text", {"other": 1}, None])
def test_what_is_no_tensor_stays_as_it_is(answer):
    assert to_response(answer, request(("x", FLOATS)), Own("m"), "m") is answer


@pytest.mark.parametrize(
    "answer",
    [
        {"predictions": [{"a": 1}, {"b": 2}]},
        {"predictions": [[1], [1, 2]]},
        [object()],
        np.zeros(2, complex),
        {"outputs": [{"name": "y", "shape": [3], "datatype": "INT8", "data": [1]}]},
    ],
)
def test_an_answer_that_cannot_be_tensors_is_the_model_s_mistake(answer):
    with pytest.raises(InferenceError):
        to_response(answer, request(("x", FLOATS)), Own("m"), "m")


def test_types_that_are_told_later_say_nothing():
    class Later(Model):
        instances_dtype = "float32"

        async def get_input_types(self):
            return [said("other")]

    assert to_payload(request(("x", FLOATS)), Later("m"))["instances"] is FLOATS
