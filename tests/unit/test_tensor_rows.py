"""Requests of named arrays that share a call, and what each gets of it."""

import numpy as np
import pytest

from modelserver import TensorRequest, TensorResponse
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
