"""Requests of named arrays that share a call, and what each gets of it."""

import numpy as np
import pytest

from modelserver import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RequestedOutput,
    TensorRequest,
    TensorResponse,
)
from modelserver.errors import PredictionCountError
from modelserver.tensor_rows import batch_key, join, row_count, split


def request(signature_name="", outputs=(), **inputs):
    return TensorRequest(inputs, signature_name, outputs)


FLOATS = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (request(x=FLOATS), request(x=FLOATS[:1]), True),
        (request(a=FLOATS, b=FLOATS), TensorRequest({"b": FLOATS, "a": FLOATS}), True),
        (request(x=FLOATS), request(y=FLOATS), False),
        (request(x=FLOATS), request(x=FLOATS[:, :2]), False),
        (request(x=FLOATS), request(x=FLOATS.astype(np.float64)), False),
        (request(x=FLOATS), request("other", x=FLOATS), False),
        (request(x=FLOATS), request(outputs=("y",), x=FLOATS), False),
    ],
)
def test_who_may_share_a_call(one, other, alike):
    assert (batch_key(one) == batch_key(other)) is alike
    assert hash(batch_key(one))


@pytest.mark.parametrize(
    "inputs", [{}, {"x": np.array(1.0)}, {"x": FLOATS[:0]}, {"a": FLOATS, "b": FLOATS[:1]}]
)
def test_what_has_no_one_number_of_rows_stays_alone(inputs):
    assert batch_key(request(**inputs)) is None


def test_each_gets_its_own_rows():
    requests = [
        request("s", ("y",), x=np.array([1.0]), t=np.array([b"a"], object)),
        request("s", ("y",), x=np.array([2.0, 3.0]), t=np.array([b"b", b"c"], object)),
    ]
    joined = join(requests)
    assert (joined.signature_name, joined.outputs, row_count(joined)) == ("s", ("y",), 3)
    assert joined.inputs["t"].tolist() == [b"a", b"b", b"c"]
    answers = split(TensorResponse({"y": joined.inputs["x"] * 2}, "s"), requests)
    assert [(answer.outputs["y"].tolist(), answer.signature_name) for answer in answers] == [
        ([2.0], "s"),
        ([4.0, 6.0], "s"),
    ]


@pytest.mark.parametrize("output", [np.array(1.0), np.ones(2)])
def test_an_output_without_a_row_for_each_is_not_shared_out(output):
    requests = [request(x=np.ones(1)), request(x=np.ones(2))]
    with pytest.raises(ValueError, match=r"output y has the shape .* for 3 rows of 2 joined requests"):
        split(TensorResponse({"y": output}), requests)


def asked(array, name="x", number=0, **kwargs):
    tensor = InferInput(name, array.shape, "FP32", array, kwargs.pop("of_input", None))
    return InferRequest("m", [tensor], f"id-{number}", **kwargs)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (asked(FLOATS), asked(FLOATS[:1]), True),
        (asked(FLOATS), asked(FLOATS, of_input={"binary_data_size": 24}), True),
        (asked(FLOATS), asked(FLOATS, parameters={"p": 1}), False),
        (asked(FLOATS, parameters={"p": 1}), asked(FLOATS, parameters={"p": 1}), True),
        (asked(FLOATS), asked(FLOATS, name="y"), False),
        (asked(FLOATS), asked(FLOATS[:, :2]), False),
        (asked(FLOATS), asked(FLOATS, request_outputs=[RequestedOutput("y")]), False),
        (asked(FLOATS), request(x=FLOATS), False),
    ],
)
def test_which_requests_of_the_open_inference_protocol_share_a_call(one, other, alike):
    assert (batch_key(one) == batch_key(other)) is alike


@pytest.mark.parametrize(
    "alone",
    [
        asked(FLOATS, of_input={"scale": 2}),
        asked(np.float32(1)),
        InferRequest("m", []),
        InferRequest("m", [InferInput("x", [1], "FP32", [1])] * 2),
    ],
)
def test_a_request_with_parameters_of_its_own_for_an_input_stays_alone(alone):
    assert batch_key(alone) is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda array: InferResponse("id", "m", [InferOutput("y", array.shape, "FP32", array)]),
        lambda array: {"predictions": array, "other": 1},
        lambda array: {"predictions": array.tolist(), "other": 1},
        lambda array: array,
        lambda array: array.tolist(),
    ],
)
def test_each_gets_its_own_rows_of_whatever_the_model_returns(answer):
    requests = [asked(np.float32([[1], [2]]), number=1), asked(np.float32([[3]]), number=2)]
    joined = join(requests)
    assert joined.inputs[0].shape == [3, 1]
    shares = split(answer(joined.inputs[0].as_numpy() * 2), requests)
    found = []
    for share in shares:
        if isinstance(share, InferResponse):
            share = share.outputs[0].as_numpy()
        elif isinstance(share, dict):
            assert share["other"] == 1
            share = share["predictions"]
        found.append(np.asarray(share).tolist())
    assert found == [[[2], [4]], [[6]]]
    if isinstance(shares[0], InferResponse):
        assert [share.id for share in shares] == ["id-1", "id-2"]


@pytest.mark.parametrize(
    "answer",
    [
        InferResponse("id", "m", [InferOutput("y", [2], "FP32", [1, 2])]),
        InferResponse("id", "m", [InferOutput("y", [], "FP32", np.float32(1))]),
        {"predictions": [1, 2]},
        {"other": [1, 2, 3]},
        [1, 2],
        "abc",
        None,
    ],
)
def test_an_answer_of_another_number_of_rows_is_never_shared_out(answer):
    with pytest.raises(
        PredictionCountError, match=r"predict returned \d rows for 3 rows of 2 joined requests"
    ):
        split(answer, [asked(FLOATS), asked(FLOATS[:1])])
