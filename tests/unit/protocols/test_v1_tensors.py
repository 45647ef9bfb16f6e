"""Named arrays to V1 bodies and back."""

import numpy as np
import pytest

from modelserver.errors import InferenceError, InvalidInput
from modelserver.protocols.v1_tensors import from_answer, to_payload


def strings(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_one_input_stays_one_array():
    array = np.float32([[1, 2]])
    assert to_payload({"any": array})["instances"] is array


def test_strings_become_what_json_has_for_them():
    array = strings(b"a", "é".encode(), b"\xff").reshape(3, 1)
    assert to_payload({"x": array}) == {"instances": [["a"], ["é"], [{"b64": "/w=="}]]}


def test_several_inputs_become_rows_of_plain_values():
    payload = to_payload(
        {"n": np.int64([1, 2]), "v": np.float64([[0.5], [1]]), "t": strings(b"a", b"b")}, "sig"
    )
    assert payload == {
        "instances": [{"n": 1, "v": [0.5], "t": "a"}, {"n": 2, "v": [1.0], "t": "b"}],
        "signature_name": "sig",
    }
    assert type(payload["instances"][0]["n"]) is int


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no inputs"),
        ({"x": np.float32(1)}, "input x: a single value"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "different numbers of rows: x 2, y 3"),
    ],
)
def test_what_is_no_rows_is_refused(inputs, words):
    with pytest.raises(InvalidInput, match=words):
        to_payload({name: np.asarray(array) for name, array in inputs.items()})


@pytest.mark.parametrize(
    ("answer", "names", "expected"),
    [
        ({"predictions": [1.5, 2]}, (), {"predictions": [1.5, 2.0]}),
        ({"predictions": np.float32([[1]])}, ("y",), {"y": [[1.0]]}),
        ({"predictions": [[1], [2]]}, ("a", "b"), {"predictions": [[1], [2]]}),
        ({"predictions": []}, (), {"predictions": []}),
        ({"predictions": ["a", "b"]}, (), {"predictions": ["a", "b"]}),
        ({"predictions": [[b"a\0"], ["b\0"]]}, (), {"predictions": [[b"a\0"], ["b\0"]]}),
        ({"predictions": [{"a": 1, "b": [2]}, {"b": [4], "a": 3}]}, ("y",), {"a": [1, 3], "b": [[2], [4]]}),
        ({"outputs": {"a": [1], "b": 2}}, (), {"a": [1], "b": 2}),
        ([True, False], (), {"predictions": [True, False]}),
    ],
)
def test_an_answer_becomes_arrays(answer, names, expected):
    arrays = from_answer(answer, names)
    assert {name: array.tolist() for name, array in arrays.items()} == expected


def test_outputs_are_chosen():
    answer = {"predictions": [{"a": 1, "b": 2}]}
    assert list(from_answer(answer, wanted=["b"])) == ["b"]
    with pytest.raises(InvalidInput, match=r"There is no output c\. The model answers with: a, b"):
        from_answer(answer, wanted=["c"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "no predictions to be sent as tensors: it is dict"),
        ("text", "it is str"),
        (b"bytes", "it is bytes"),
        (None, "it is NoneType"),
        ({"predictions": [[1], [1, 2]]}, "output predictions is no tensor"),
        ({"predictions": [{"a": 1}, {"b": 1}]}, "different keys"),
        ({"predictions": [{"a": 1}, 2]}, "different keys"),
        ({"predictions": [None]}, "holds other things than numbers or text"),
    ],
)
def test_an_answer_that_is_no_arrays_is_the_models_fault(answer, words):
    with pytest.raises(InferenceError, match=words):
        from_answer(answer)
