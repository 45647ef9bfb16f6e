"""KServe's helpers that read and answer either protocol."""

import numpy as np
import pandas
import pytest

from modelserver import (
    InferInput,
    InferRequest,
    InferResponse,
    InvalidInput,
    get_predict_input,
    get_predict_response,
)

FLOATS = np.float32([[1.5, 2.5], [3.5, 4.5]])


def v2(*tensors, **parameters):
    return InferRequest("m", list(tensors), "id", parameters=parameters)


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_rows_of_a_v1_body(key):
    assert get_predict_input({key: FLOATS.tolist()}).tolist() == FLOATS.tolist()
    assert get_predict_input({key: FLOATS}) is FLOATS
    assert get_predict_input({key: ["a", "b"]}) == ["a", "b"]
    assert get_predict_input({key: []}).shape == (0,)


@pytest.mark.parametrize(
    "rows", [[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], [[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]]]
)
def test_objects_are_a_table(rows):
    expected = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    pandas.testing.assert_frame_equal(get_predict_input({"instances": rows}), expected)
    assert list(get_predict_input({"instances": rows}, ["b"]).columns) == ["b"]


def test_the_first_input_of_a_v2_request():
    assert get_predict_input(v2(InferInput("x", [2, 2], "FP32", FLOATS))) is FLOATS
    assert get_predict_input(v2(InferInput("s", [1], "BYTES", ["a"]))) == ["a"]
    table = get_predict_input(v2(InferInput("x", [2], "INT8", [1, 2]), content_type="pd"))
    assert table["x"].tolist() == [1, 2]


@pytest.mark.parametrize("payload", [{}, {"instances": 5}, b"raw", v2()])
def test_what_has_no_input(payload):
    with pytest.raises(InvalidInput):
        get_predict_input(payload)


def test_answers_are_in_the_payload_s_protocol():
    body, request = {"instances": []}, v2(InferInput("x", [2, 2], "FP32", FLOATS))
    table = pandas.DataFrame({"a": np.int64([1, 2]), "b": ["x", "y"]})
    assert get_predict_response(body, FLOATS, "m")["predictions"] is FLOATS
    assert get_predict_response(body, table, "m") == {"predictions": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}
    response = get_predict_response(request, FLOATS, "m")
    assert isinstance(response, InferResponse)
    assert (response.id, response.outputs[0].name, response.outputs[0].as_numpy()) == (
        "id",
        "output-0",
        pytest.approx(FLOATS),
    )
    (text,) = get_predict_response(request, ["a", "b"], "m").outputs
    assert (text.datatype, text.as_string()) == ("BYTES", ["a", "b"])
    outputs = get_predict_response(request, table, "m").outputs
    assert [(output.name, output.datatype) for output in outputs] == [("a", "INT64"), ("b", "BYTES")]
    with pytest.raises(InvalidInput, match="got bytes"):
        get_predict_response(b"", FLOATS, "m")
