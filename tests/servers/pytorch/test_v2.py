"""V2 requests to real networks: named arrays of every datatype, in process and over the wire."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch
from harness import serving, wait_until

import modelserver
from modelserver import InferenceError, InvalidInput, TensorRequest, v2_inference
from modelserver.execution import ModelThreads
from modelserver.infer_tensors import InferInput, RequestedOutput
from modelserver.messages import InferRequest
from modelserver.protocols import tensor_proto, tfs_messages, v2_grpc, v2_values

from .conftest import MLP, ask, network

GRPC = re.compile(r"grpc://[^ ,]*:(\d+)")
ROWS = np.array([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], np.float32)
LINEAR = "self.out = nn.Linear(4, 3)"
EMBEDDING = "self.embed = nn.Embedding(10, 4)"


def tensors(model, wanted=(), **arrays):
    """The outputs, through all hooks."""
    answer = asyncio.run(model(TensorRequest(arrays, outputs=wanted)))
    assert isinstance(answer, modelserver.TensorResponse)
    return answer.outputs


def refused(model, wanted=(), **arrays):
    with pytest.raises(InvalidInput) as caught:
        tensors(model, wanted, **arrays)
    return str(caught.value)


def infer(model, outputs=None, **arrays):
    """The V2 answer to a V2 request, as the doors make it."""
    inputs = [
        InferInput(name, array.shape, v2_inference.datatypes.datatype_of(array.dtype), array)
        for name, array in arrays.items()
    ]
    wanted = [RequestedOutput(name) for name in outputs or ()] or None
    request = InferRequest(model.name, inputs, "1", request_outputs=wanted)
    payload = v2_inference.to_payload(request, model)
    response = v2_inference.to_response(asyncio.run(model(payload)), request, model, model.name)
    return {each.name: each.as_numpy() for each in response.outputs}


def types(infos):
    return [(info["name"], info["datatype"], info["shape"]) for info in infos]


def says(**tensors_said):
    """``inputs = [...]`` or ``outputs = [...]``, of ``name="FP32 [-1, 4]"``."""
    made = []
    for name, text in tensors_said.items():
        datatype, _, shape = text.partition(" ")
        made.append({"name": name, "datatype": datatype, "shape": json.loads(shape)})
    return made


# -- datatypes


@pytest.mark.parametrize(
    ("datatype", "dtype", "values"),
    [
        ("BOOL", "bool", [True, False]),
        ("UINT8", "uint8", [0, 255]),
        ("INT8", "int8", [-128, 127]),
        ("INT16", "int16", [-(2**15), 2**15 - 1]),
        ("INT32", "int32", [-(2**31), 2**31 - 1]),
        ("INT64", "int64", [-(2**63), 2**63 - 1]),
        ("FP16", "float16", [0.1, 65504]),
        ("FP32", "float32", [0.1, 1e38]),
        ("FP64", "float64", [0.1, 1e308]),
    ],
)
def test_each_datatype_goes_through_as_it_is(served, datatype, dtype, values):
    extra = f"inputs = {says(x=f'{datatype} [-1, 2]')}"
    model = served(f"assert x.dtype is torch.{dtype}; return x", extra=extra)
    assert types(model.get_input_types()) == [("x", datatype, [-1, 2])]
    assert types(model.get_output_types()) == [("predictions", datatype, [-1, 2])]
    array = np.array([values], dtype)
    for got in (tensors(model, x=array)["predictions"], infer(model, x=array)["predictions"]):
        assert got.dtype == array.dtype
        assert (got == array).all()
    other = np.zeros((1, 2), "int32" if dtype != "int32" else "uint8")
    sent = "INT32" if dtype != "int32" else "UINT8"
    said = f'input "x" has the datatype {sent}, expected {datatype}'
    assert refused(model, x=other) == said
    with pytest.raises(InvalidInput) as caught:
        infer(model, x=other)
    assert str(caught.value) == said, "the door and the model say the same"


def test_bfloat16_comes_and_goes_as_float32_arrays(served):
    extra = f"inputs = {says(x='BF16 [-1, 2]')}"
    model = served("assert x.dtype is torch.bfloat16; return x * 2", extra=extra)
    got = tensors(model, x=np.array([[0.1, 3]], np.float32))["predictions"]
    assert got.dtype == np.float32
    assert got.tolist() == torch.tensor([[0.1, 3]]).bfloat16().mul(2).float().tolist()
    as_tensorflow_sends_it = np.array([[0.1, 3]], ml_dtypes.bfloat16)
    assert tensors(model, x=as_tensorflow_sends_it)["predictions"].tolist() == got.tolist()
    assert types(model.get_input_types()) == [("x", "BF16", [-1, 2])]
    assert types(model.get_output_types()) == [("predictions", "FP32", [-1, 2])]


@pytest.mark.parametrize(
    ("cast", "dtype"), [("half", "float16"), ("bfloat16", "float32"), ("double", "float64")]
)
def test_a_network_whose_parameters_are_of_another_dtype(served, cast, dtype):
    model = served("return self.out(x)", f"{LINEAR}; self.{cast}()")
    assert tensors(model, x=ROWS.astype(dtype))["predictions"].dtype == dtype
    wrong = "FP64" if dtype != "float64" else "FP32"
    assert f"has the datatype {wrong}, expected" in refused(model, x=ROWS.astype(f"float{wrong[2:]}"))


def test_other_dtypes_are_refused_in_the_protocols_words(iris):
    for array, sent in (
        (np.array([[b"a"] * 4], object), "BYTES"),
        (ROWS.astype("uint32"), "UINT32"),
        (ROWS.astype(ml_dtypes.bfloat16), "BF16"),
        (ROWS.astype("complex64"), "complex64"),
    ):
        assert refused(iris, x=array) == f'input "x" has the datatype {sent}, expected FP32'


def test_the_order_of_bytes_does_not_count(iris):
    swapped = ROWS.astype(">f4")
    assert (tensors(iris, x=swapped)["predictions"] == tensors(iris, x=ROWS)["predictions"]).all()


# -- where nothing says what the network takes


def test_integers_and_booleans_stay_what_they_are_where_nothing_is_known(served):
    model = served("return x.sum(1)")
    assert model.get_input_types() == []
    for dtype, total in (("int64", "int64"), ("bool", "int64"), ("uint8", "int64")):
        assert tensors(model, x=np.ones((2, 3), dtype))["predictions"].dtype == total


def test_floats_become_the_parameters_dtype_where_nothing_is_known(served):
    model = served("return x @ self.w", "self.w = nn.Parameter(torch.ones(4, 2))")
    assert model.get_input_types() == []
    assert tensors(model, x=ROWS.astype(np.float64))["predictions"].dtype == np.float32


def test_without_parameters_floats_stay_what_they_are(served):
    model = served("return x / 3")
    got = tensors(model, x=np.array([[0.1]]))["predictions"]
    assert got.tolist() == [[0.1 / 3]]


@pytest.mark.parametrize(
    ("code", "init", "array"),
    [
        ("return x @ self.w", "self.w = nn.Parameter(torch.ones(4, 2))", ROWS.astype(np.int64)),
        ("return x @ self.w.double()", "self.w = nn.Parameter(torch.ones(4, 2))", ROWS.astype(np.float64)),
        (
            "return F.one_hot(x.flatten(), 4) + F.relu(self.w)",
            "self.w = nn.Parameter(torch.ones(1))",
            np.array([1, 2]),
        ),
    ],
)
def test_another_dtype_is_tried_where_forward_minds(served, code, init, array):
    model = served(code, init)
    assert len(tensors(model, x=array)["predictions"]) == 2
    rules = dict(model._loaded.reader.rules)
    tensors(model, x=array)
    assert model._loaded.reader.rules == rules, "what one client sends is no rule for others"


def test_what_no_dtype_helps_is_the_clients_error(served):
    model = served("return x @ self.w", "self.w = nn.Parameter(torch.ones(4, 2))")
    assert "The model refuses the input: " in refused(model, x=ROWS[:, :3])
    assert refused(model, x=np.array([b"a"], object)) == 'input "x" has the datatype BYTES, expected numbers'


# -- memory


def test_an_array_that_can_be_written_is_not_copied(served):
    model = served("return x")
    array = ROWS.copy()
    assert np.shares_memory(tensors(model, x=array)["predictions"], array)
    unaligned = np.frombuffer(bytearray(b"x") + bytearray(ROWS.tobytes()), np.float32, offset=1).reshape(2, 4)
    assert not unaligned.flags.aligned
    assert np.shares_memory(tensors(model, x=unaligned)["predictions"], unaligned)
    assert (tensors(model, x=unaligned)["predictions"] == ROWS).all()


def test_a_read_only_array_is_copied(served):
    model = served("assert x.is_contiguous(); return x.add_(1)")
    array = ROWS.copy()
    array.flags.writeable = False
    assert (tensors(model, x=array)["predictions"] == ROWS + 1).all()
    assert (array == ROWS).all()
    turned = np.ascontiguousarray(ROWS.T).T
    assert (tensors(model, x=turned)["predictions"] == ROWS + 1).all()


def test_an_array_of_instances_of_the_right_dtype_is_not_looked_through(iris, monkeypatch):
    room = __import__("pytorchserver.instances", fromlist=["_"])
    monkeypatch.setattr(room, "array_from_json", None)
    assert len(iris.predict({"instances": ROWS.copy()})["predictions"]) == 2


# -- inputs


@pytest.fixture
def iris(folder):
    return folder.write("model.py", MLP).with_weights().load()


def test_the_networks_own_numbers(iris):
    assert tensors(iris, x=ROWS)["predictions"].tolist() == ask(iris, ROWS.tolist())
    assert infer(iris, x=ROWS)["predictions"].tolist() == ask(iris, ROWS.tolist())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": ROWS}, 'unexpected input "y"; the model takes "x" FP32 [-1, 4]'),
        ({"x": ROWS, "y": ROWS}, 'unexpected input "y"; the model takes "x" FP32 [-1, 4]'),
        ({}, 'input "x" is missing; the model takes "x" FP32 [-1, 4]'),
        ({"x": ROWS[:, :3]}, 'input "x" has the shape [2, 3], expected [-1, 4]'),
        ({"x": ROWS[0]}, 'input "x" has the shape [4], expected [-1, 4]'),
        ({"x": ROWS[:, :1]}, 'input "x" has the shape [2, 1], expected [-1, 4]'),
        ({"x": ROWS[:0]}, "expected one row at least"),
        ({"x": np.array(1, np.float32)}, 'input "x" has the shape [], expected [-1, 4]'),
    ],
)
def test_wrong_inputs(iris, arrays, said):
    assert said in refused(iris, **arrays)
    with pytest.raises(InvalidInput) as caught:
        infer(iris, **arrays)
    assert said in str(caught.value)
    assert len(infer(iris, x=ROWS)["predictions"]) == 2


def test_wrong_inputs_where_only_the_names_are_known(served):
    model = served("a, b, c=None:: return a + b")
    assert refused(model, a=ROWS) == 'input "b" is missing; the model takes a, b, [c]'
    assert refused(model, a=ROWS, b=ROWS, d=ROWS) == 'unexpected input "d"; the model takes a, b, [c]'
    optional = served("a=None:: return a")
    assert refused(optional) == "no inputs; the model takes [a]"


def test_a_forward_without_names_takes_one_input_of_any(served):
    model = served("*xs:: return xs[0] * 2")
    assert (tensors(model, anything=ROWS)["predictions"] == ROWS * 2).all()
    assert refused(model, a=ROWS, b=ROWS) == "2 inputs; the model takes one input"


def test_an_index_that_an_embedding_has_not(served):
    model = served("return self.embed(x).sum(1)", EMBEDDING)
    assert refused(model, x=np.array([[1, 10]])) == 'input "x" holds the index 10, expected 0 to 9'
    assert len(tensors(model, x=np.array([[1, 9]]))["predictions"]) == 1
    # By V1's objects as well: on CUDA it would end the device's use.
    with pytest.raises(InvalidInput, match="the index 10, expected 0 to 9"):
        ask(model, [{"x": [1, 10]}])


def test_several_inputs(served):
    model = served("a, b, c=None:: return a - b + (0 if c is None else c)")
    a, b = np.full((2, 1), 5, np.float32), np.full((2, 1), 3, np.float32)
    assert tensors(model, b=b, a=a)["predictions"].tolist() == [[2], [2]]
    assert tensors(model, c=a, b=b, a=a)["predictions"].tolist() == [[7], [7]]


def test_inputs_need_not_have_the_same_number_of_rows(served):
    model = served("a, b:: return {'scores': a @ b.T, 'n': torch.tensor(7)}")
    got = tensors(model, a=np.ones((5, 4), np.float32), b=ROWS)
    assert got["scores"].shape == (5, 2)
    assert got["n"].tolist() == [7]


# -- outputs


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("x", {"predictions": ROWS}),
        ("x.argmax(1)", {"predictions": np.array([0, 0])}),
        ("x.bfloat16()", {"predictions": torch.tensor(ROWS).bfloat16().float().numpy()}),
        ("x.half()", {"predictions": ROWS.astype(np.float16)}),
        ("x > 3", {"predictions": ROWS > 3}),
        ("(x, x > 3)", {"output_0": ROWS, "output_1": ROWS > 3}),
        ("[x, x[:, 0]]", {"output_0": ROWS, "output_1": ROWS[:, 0]}),
        ("(x,)", {"output_0": ROWS}),
        ("(x, None)", {"output_0": ROWS}),
        ("{'p': x, 'n': None, 1: x[:, 0]}", {"p": ROWS, "1": ROWS[:, 0]}),
        ("{'p': x, 'mean': torch.tensor(0.5)}", {"p": ROWS, "mean": np.float32([0.5, 0.5])}),
        ("{'p': x, 'v': 3}", {"p": ROWS, "v": np.array([3, 3])}),
        ("{'p': x, 'unit': 'cm'}", {"p": ROWS, "unit": np.array([b"cm", b"cm"], object)}),
        ("['a', 'b']", {"predictions": np.array([b"a", b"b"], object)}),
        ("[[1], [2]]", {"predictions": np.array([[1], [2]])}),
        ("x.numpy()", {"predictions": ROWS}),
        ("x[:1]", {"predictions": ROWS[:1]}),
        ("x.sum()", {"predictions": np.repeat(torch.tensor(ROWS).sum().numpy(), 2)}),
    ],
)
def test_the_outputs_have_names_and_the_networks_dtypes(served, expression, wanted):
    got = tensors(served(f"return {expression}"), x=ROWS.copy())
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("None", 'returned NoneType for output "predictions"'),
        ("[{'box': row} for row in x]", 'returned list for output "predictions", expected a tensor'),
        ("{'a': {'b': x}}", 'returned dict for output "a"'),
        ("[[1], [2, 3]]", 'returned list for output "predictions"'),
        ("object()", 'returned object for output "predictions"'),
        ("torch.complex(x, x)", "complex numbers"),
    ],
)
def test_what_is_no_tensor_is_the_models_error(served, expression, said):
    model = served(f"return {expression}")
    with pytest.raises(InferenceError) as caught:
        tensors(model, x=ROWS)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("code", "init"), [("return x.sum(1).squeeze()", "pass"), ("return self.out(x).squeeze()", LINEAR)]
)
def test_a_squeeze_takes_no_row_away(served, code, init):
    model = served(code, init)
    one, two = tensors(model, x=ROWS[:1])["predictions"], tensors(model, x=ROWS)["predictions"]
    assert one.shape == two[:1].shape


def test_an_output_that_never_had_rows_stays_as_it_is(served):
    model = served("return self.out(x), self.anchors", f"{LINEAR}; self.anchors = torch.ones(7, 2)")
    assert types(model.get_output_types()) == []  # no prediction for each row, so no guess counted
    declared = served(
        "return self.out(x), self.anchors",
        f"{LINEAR}; self.anchors = torch.ones(7, 2)",
        f"inputs = {says(x='FP32 [-1, 4]')}",
    )
    assert types(declared.get_output_types()) == [("output_0", "FP32", [-1, 3]), ("output_1", "FP32", [7, 2])]
    assert tensors(declared, x=ROWS[:1])["output_1"].shape == (7, 2)


def test_one_row_without_its_dimension_is_told_by_the_answer(served):
    model = served("return self.out(x + 0)", LINEAR)
    assert refused(model, x=ROWS[0]) == 'input "x" has the shape [4], expected [-1, 4]'


def test_outputs_that_are_asked_for(served):
    model = served("return {'a': x, 'b': x * 2, 'odd': [{}, {}]}")
    assert list(tensors(model, ["b"], x=ROWS)) == ["b"]
    assert list(tensors(model, ["b", "a"], x=ROWS)) == ["b", "a"]
    assert refused(model, ["c"], x=ROWS) == "Unexpected inference output 'c' for model 'm'"


def test_one_tensor_in_a_tuple_keeps_its_shape(served):
    model = served("return (self.out(x),)", LINEAR, "batchable = True")
    assert infer(model, x=ROWS)["output_0"].shape == (2, 3)
    assert np.shape(ask(model, ROWS.tolist())) == (2, 1, 3)


# -- declared in model.py


def test_declared_inputs_and_outputs_are_the_metadata(served):
    extra = (
        f"inputs = {says(ids='INT32 [-1, -1]', weight='FP32 [-1]')}\n"
        f"    outputs = {says(total='FP32 [-1]', count='INT64 [-1]')}"
    )
    model = served("ids, weight=None:: return ids.sum(1) * weight, ids.sum(1)", extra=extra)
    assert model.get_input_types() == [
        {"name": "ids", "datatype": "INT32", "shape": [-1, -1]},
        {"name": "weight", "datatype": "FP32", "shape": [-1], "optional": True},
    ]
    assert types(model.get_output_types()) == [("total", "FP32", [-1]), ("count", "INT64", [-1])]
    got = infer(model, ids=np.array([[1, 2], [3, 4]], np.int32), weight=np.array([1, 10], np.float32))
    assert {name: array.tolist() for name, array in got.items()} == {"total": [3, 70], "count": [3, 7]}
    assert ask(model, [{"ids": [1, 2], "weight": 1}]) == [[3, 3]], "V1 is answered as ever"
    assert model.example_request() == {"instances": [{"ids": [0] * 8, "weight": 0.0}]}


def test_a_declared_shape_is_strict_for_both_protocols(served):
    model = served("return x.flatten(1).sum(1)", extra=f"inputs = {says(x='FP32 [-1, 2, -1]')}")
    assert len(ask(model, [[[1.0], [2.0]]])) == 1
    assert refused(model, x=ROWS) == 'input "x" has the shape [2, 4], expected [-1, 2, -1]'
    with pytest.raises(InvalidInput, match=r'"instances" have shape \[1, 2\], expected \[rows, 2, any\]$'):
        ask(model, [[1.0, 2.0]])


def test_declared_rows_are_as_many_in_each_input(served):
    model = served("a, b:: return a.sum(1) + b", extra=f"inputs = {says(a='FP32 [-1, 4]', b='FP32 [-1]')}")
    assert (
        refused(model, a=ROWS, b=np.ones(3, np.float32))
        == "The inputs have different numbers of rows: a 2, b 3"
    )


def test_a_declared_number_of_rows(served):
    model = served("return x.reshape(2, 4)", extra=f"inputs = {says(x='FP32 [2, 4]')}")
    assert model.example_request() == {"instances": [[0.0] * 4] * 2}
    assert types(model.get_output_types()) == [("predictions", "FP32", [2, 4])]
    assert refused(model, x=ROWS[:1]) == 'input "x" has the shape [1, 4], expected [2, 4]'


def test_declared_dtypes_count_for_v1(served):
    model = served(
        "assert x.dtype is torch.uint8; return x.float().mean(1)", extra=f"inputs = {says(x='UINT8 [-1, 2]')}"
    )
    assert ask(model, [[0, 255]]) == [127.5]
    assert model.instances_dtype == np.uint8


def test_an_optional_input_of_zeros_may_be_what_fails(served):
    code = "x, mask=None:: assert mask is None or mask.any(); return x"
    model = served(code, extra=f"inputs = {says(x='FP32 [-1, 2]', mask='BOOL [-1, 2]')}")
    assert model.example_request() == {"instances": [[0.0, 0.0]]}


def test_outputs_may_be_declared_alone(served):
    model = served("return self.out(x)", LINEAR, f"outputs = {says(scores='FP32 [-1, 3]')}")
    assert list(infer(model, x=ROWS)) == ["scores"]
    assert list(tensors(model, x=ROWS)) == ["scores"]
    assert np.shape(ask(model, ROWS.tolist())) == (2, 3)


def test_attributes_that_mean_something_else_are_left_alone(served):
    model = served("return x * self.inputs", extra="inputs = 4\n    outputs = None")
    assert ask(model, [[2.0]]) == [[8.0]]


def test_declared_outputs_that_only_a_request_shows_to_be_wrong(served):
    model = served("return x, x", extra=f"outputs = {says(a='FP32 [-1, 2]')}")
    with pytest.raises(InferenceError) as caught:
        tensors(model, x=ROWS)
    said = "returned 2 outputs (output_0, output_1), and outputs in its class names 1: a"
    assert said in str(caught.value)


ONE = '{"name": "x", "datatype": "FP32", "shape": [-1, 4]}'


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            "inputs = {'name': 'x'}",
            "inputs in the model's class is {'name': 'x'}. Expected a list of objects",
        ),
        ("inputs = ['x']", "inputs in the model's class is ['x']. Expected a list of objects such as {"),
        (f"outputs = [{ONE}, 7]", "outputs in the model's class is [{"),
        ("inputs = [{'name': 'x'}]", "inputs[0] in the model's class is {'name': 'x'}. Expected {"),
        (f"inputs = [{ONE[:-1]}, 'dims': 2}}]", "inputs[0] in the model's class is {"),
        (f"inputs = [{ONE}, {ONE}]", 'inputs in the model\'s class names "x" twice'),
        (f"inputs = {says(y='FP32 [-1]')}", 'names "y", which is no argument of forward. It takes: x, [y2]'),
        (f"inputs = {says(y2='FP32 [-1]')}", 'inputs in the model\'s class lacks "x", which forward needs'),
        (
            f"inputs = {says(x='FLOAT [-1]')}",
            "has the datatype 'FLOAT' for \"x\". Expected one of: BOOL, UINT8",
        ),
        (f"inputs = {says(x='BYTES [-1]')}", "has the datatype 'BYTES' for \"x\". Expected one of"),
        (f"inputs = {says(x='FP32 []')}", 'has the shape [] for "x". Expected a list of sizes with the rows'),
        (f"inputs = {says(x='FP32 [-1, 0]')}", 'has the shape [-1, 0] for "x"'),
        (f"inputs = {says(x='FP32 [-1, -2]')}", 'has the shape [-1, -2] for "x"'),
        (f"inputs = {says(x='FP32 [true]')}", 'has the shape [True] for "x"'),
        (f"inputs = {says(x='FP32 4')}", 'has the shape 4 for "x"'),
        (
            f"inputs = {says(x='FP32 [-1]')}; input_dtype = 'int64'",
            'inputs in the model\'s class says FP32 for "x", and input_dtype says int64',
        ),
        (f"outputs = {says(y='BF16 [-1]')}", 'says BF16 for "y". bfloat16 is answered as FP32: say so'),
        (
            f"outputs = {says(a='FP32 [-1, 3]', b='FP32 [-1]')}",
            'names "a", "b", and forward returns 1 tensors: "predictions"',
        ),
        (
            f"outputs = {says(a='FP32 [-1, 4]')}",
            'says FP32 [-1, 4] for "a", and forward returns FP32 [-1, 3]',
        ),
        (
            f"outputs = {says(a='FP64 [-1, 3]')}",
            'says FP64 [-1, 3] for "a", and forward returns FP32 [-1, 3]',
        ),
        (f"outputs = {says(a='FP32 [-1]')}", 'says FP32 [-1] for "a", and forward returns FP32 [-1, 3]'),
    ],
)
def test_what_is_declared_wrongly_is_refused_at_load(folder, extra, said):
    folder.write("model.py", network("x, y2=None:: return self.out(x)", LINEAR, extra)).with_weights()
    assert said in folder.refused()


# -- learned from warmup.json


def learned(folder, code, *requests, init="pass", extra="pass"):
    folder.write("model.py", network(code, init, extra)).write("warmup.json", json.dumps(requests))
    return folder.load()


def test_metadata_is_learned_from_warm_up_requests(folder):
    model = learned(folder, "return x.reshape(len(x), 2, 3).sum(-1)", {"instances": [[1.5] * 6]})
    assert types(model.get_input_types()) == [("x", "FP32", [-1, 6])]
    assert types(model.get_output_types()) == [("predictions", "FP32", [-1, 2])]
    assert infer(model, x=np.ones((1, 6), np.float32))["predictions"].tolist() == [[3, 3]]
    model.stop()
    assert model.get_input_types() == model.get_output_types() == []


def test_sizes_that_differ_or_may_differ_are_free(folder):
    code = "a, b:: return {'a': a * 2, 'b': b[:, :3].sum(1)}"
    rows = [{"a": [1.0] * 2, "b": [1] * 3}, {"a": [1.0] * 2, "b": [1] * 3}]
    model = learned(folder, code, {"instances": rows}, {"instances": [{"a": [1.0] * 5, "b": [1] * 3}]})
    assert types(model.get_input_types()) == [("a", "FP32", [-1, -1]), ("b", "FP32", [-1, -1])]
    assert types(model.get_output_types()) == [("a", "FP32", [-1, -1]), ("b", "FP32", [-1])]


def test_a_size_may_be_free_downwards_only(folder):
    code = "assert x.shape[1] <= 6; return x.cumsum(1)"
    model = learned(folder, code, {"instances": [[1.5] * 6]})
    assert types(model.get_input_types()) == [("x", "FP32", [-1, -1])]


def test_inputs_of_one_size_that_change_alone(folder):
    code = "a, b:: return a.reshape(len(a), 3).sum(1) + b.sum(1)"
    model = learned(folder, code, {"instances": [{"a": [1.5] * 3, "b": [1.5] * 3}]})
    assert types(model.get_input_types()) == [("a", "FP32", [-1, 3]), ("b", "FP32", [-1, -1])]


def test_inputs_that_change_size_together(folder):
    code = "ids, mask:: return ids.mul(mask).reshape(len(ids), -1, 2).sum(-1)"
    model = learned(folder, code, {"instances": [{"ids": [1.5] * 4, "mask": [1.0] * 4}]})
    assert [shape for *_, shape in types(model.get_input_types())] == [[-1, -1], [-1, -1]]


def test_what_differs_in_more_than_sizes_is_not_learned(folder):
    model = learned(folder, "return x * 2", {"instances": [[1.0]]}, {"instances": [1.0]})
    assert model.get_input_types() == []


def test_outputs_are_learned_where_only_the_inputs_are_declared(folder):
    code = "assert x.min() > 0; return x / 2, x.sum(1)"
    model = learned(folder, code, {"instances": [[1.0, 2.0]]}, extra=f"inputs = {says(x='FP32 [-1, 2]')}")
    assert types(model.get_output_types()) == [("output_0", "FP32", [-1, 2]), ("output_1", "FP32", [-1])]


# -- batching


def test_requests_of_both_protocols_share_a_call(folder):
    folder.write("model.py", network("return self.out(x)", LINEAR, "batchable = True")).with_weights()
    model = folder.load()
    model.attach_runner(ModelThreads("m"))
    seen, entered, release = [], threading.Event(), threading.Event()
    loaded = model._loaded

    def forward(*args, **kwargs):
        seen.append(len(args[0]))
        entered.set()
        assert release.wait(60)
        return loaded.network.module(*args, **kwargs)

    model._loaded = replace(loaded, network=replace(loaded.network, call=forward))

    def v2(array):
        return v2_inference.to_payload(
            InferRequest("m", [InferInput("x", array.shape, "FP32", array)]), model
        )

    async def walk():
        first = asyncio.ensure_future(model({"instances": ROWS.tolist()}))
        await asyncio.to_thread(entered.wait, 60)
        read_only = ROWS.copy()
        read_only.flags.writeable = False
        payloads = [
            {"instances": ROWS.tolist()},
            {"instances": ROWS[:1].copy()},
            v2(ROWS.copy()),
            v2(read_only),
            {"instances": [[6.0, 2, 4, 1]]},
        ]
        rest = [asyncio.ensure_future(model(payload)) for payload in payloads]
        named = [TensorRequest({"x": ROWS.copy()}), TensorRequest({"x": ROWS[:1].copy()})]
        rest += [asyncio.ensure_future(model(payload)) for payload in named]
        await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(first, *rest)

    answers = asyncio.run(walk())
    assert seen == [2, 2 + 1 + 2 + 2 + 1, 2 + 1], "one call for all that waited, one for named arrays"
    wanted = loaded.network.module(torch.tensor(ROWS)).detach().numpy()
    assert [len(answer["predictions"]) for answer in answers[:6]] == [2, 2, 1, 2, 2, 1]
    np.testing.assert_allclose(answers[4]["predictions"], wanted, rtol=1e-5)
    np.testing.assert_allclose(answers[7].outputs["predictions"], wanted[:1], rtol=1e-5)


def test_named_arrays_of_a_network_that_is_not_batchable_stay_alone(iris):
    assert iris.may_join is None
    assert iris.max_batch_size == 0


# -- over the wire


def infer_body(**inputs):
    return {
        "inputs": [
            {
                "name": name,
                "datatype": v2_inference.datatypes.datatype_of(array.dtype),
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for name, array in inputs.items()
        ]
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two models: one with an input and an output, and one with several, declared."""
    root = tmp_path_factory.mktemp("v2")
    (root / "one").mkdir()
    code = network("return self.out(x)", LINEAR, "batchable = True")
    (root / "one" / "model.py").write_text(code)
    names = {"__name__": "author"}
    exec(code, names)
    torch.manual_seed(3)
    net = names["Net"]()
    torch.save(net.state_dict(), root / "one" / "model.pt")
    (root / "two").mkdir()
    extra = (
        f"inputs = {says(ids='INT64 [-1, -1]', scale='FP16 [-1]')}\n"
        f"    outputs = {says(scaled='FP16 [-1, -1]', count='INT64 [-1]', large='BOOL [-1]')}"
    )
    code = "ids, scale:: return ids * scale[:, None], ids.sum(1), ids.sum(1) > 9"
    (root / "two" / "model.py").write_text(network(code, extra=extra))
    torch.save({}, root / "two" / "model.pt")
    arguments = ["-m", "modelserver", f"one={root / 'one'}", f"two={root / 'two'}"]
    with serving([*arguments, "--enable_grpc=true", "--grpc_port=0"], root / "log") as running:
        running.net = net
        running.grpc_port = int(wait_until(lambda: GRPC.search(running.text()), what="gRPC")[1])
        yield running.wait_ready("one", "two")


def outputs(response):
    assert response.status == 200, response.body
    return {each["name"]: each for each in response.json()["outputs"]}


def test_json_and_binary_over_the_wire(server):
    wanted = server.net(torch.tensor(ROWS)).detach().numpy()
    got = outputs(server.post("/v2/models/one/infer", infer_body(x=ROWS)))["predictions"]
    assert (got["datatype"], got["shape"]) == ("FP32", [2, 3])
    np.testing.assert_allclose(np.reshape(got["data"], (2, 3)), wanted, rtol=1e-5)
    raw = ROWS.tobytes()
    head = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": len(raw)}}
        ],
        "outputs": [{"name": "predictions", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    response = server.post(
        "/v2/models/one/infer",
        text + raw,
        "application/octet-stream",
        Inference_Header_Content_Length=str(len(text)),
    )
    assert response.status == 200, response.body
    length = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(response.body[:length])["outputs"][0]["shape"] == [2, 3]
    answered = np.frombuffer(response.body[length:], np.float32).reshape(2, 3)
    np.testing.assert_allclose(answered, wanted, rtol=1e-5)


def test_several_inputs_and_outputs_over_the_wire(server):
    ids, scale = np.array([[1, 2], [3, 9]]), np.array([0.5, 2], np.float16)
    got = outputs(server.post("/v2/models/two/infer", infer_body(ids=ids, scale=scale)))
    assert {name: (each["datatype"], each["shape"]) for name, each in got.items()} == {
        "scaled": ("FP16", [2, 2]),
        "count": ("INT64", [2]),
        "large": ("BOOL", [2]),
    }
    assert got["scaled"]["data"] == [0.5, 1, 6, 18]
    body = {**infer_body(ids=ids, scale=scale), "outputs": [{"name": "large"}, {"name": "count"}]}
    got = outputs(server.post("/v2/models/two/infer", body))
    assert [(name, each["data"]) for name, each in got.items()] == [
        ("large", [False, True]),
        ("count", [3, 12]),
    ]


def test_metadata_over_the_wire(server):
    found = server.get("/v2/models/two").json()
    assert types(found["inputs"]) == [("ids", "INT64", [-1, -1]), ("scale", "FP16", [-1])]
    assert types(found["outputs"]) == [
        ("scaled", "FP16", [-1, -1]),
        ("count", "INT64", [-1]),
        ("large", "BOOL", [-1]),
    ]


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("one", infer_body(x=ROWS[:, :2]), 'input "x" has the shape [2, 2], expected [-1, 4]'),
        ("one", infer_body(x=ROWS.astype(float)), 'input "x" has the datatype FP64, expected FP32'),
        ("one", infer_body(y=ROWS), 'unexpected input "y"; the model takes "x" FP32 [-1, 4]'),
        ("two", infer_body(ids=np.array([[1]])), 'input "scale" is missing'),
        (
            "one",
            {**infer_body(x=ROWS), "outputs": [{"name": "p"}]},
            "Unexpected inference output 'p' for model 'one'",
        ),
        (
            "two",
            {**infer_body(ids=np.array([[1]]), scale=np.float16([1])), "outputs": [{"name": "p"}]},
            "Unexpected inference output 'p' for model 'two'",
        ),
    ],
)
def test_errors_over_the_wire(server, model, body, said):
    response = server.post(f"/v2/models/{model}/infer", body)
    assert response.status == 400
    assert said in response.json()["error"]


def test_a_v1_body_of_raw_rows(server):
    wanted = server.net(torch.tensor(ROWS)).detach().numpy()
    response = server.post("/v1/models/one:predict", ROWS.tobytes(), "application/octet-stream")
    assert response.status == 200, response.body
    np.testing.assert_allclose(response.json()["predictions"], wanted, rtol=1e-5)
    short = server.post("/v1/models/one:predict", ROWS.tobytes()[:-1], "application/octet-stream")
    assert short.status == 400
    assert "31 bytes, expected a multiple of 16" in short.json()["error"]


def test_a_v1_picture_for_a_network_of_numbers(server):
    response = server.post("/v1/models/one:predict", b"\x89PNG\r\n", "image/png")
    assert response.status == 415
    assert 'input "x", FP32 of shape [-1, 4]' in response.json()["error"]


def test_tensorflow_servings_predict_has_the_same_names_and_dtypes(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=tfs_messages.PredictRequest.SerializeToString,
            response_deserializer=tfs_messages.PredictResponse.FromString,
        )
        request = tfs_messages.PredictRequest()
        request.model_spec.name = "one"
        tensor_proto.set_array(request.inputs["x"], ROWS)
        answer = predict(request, timeout=60)
        assert list(answer.outputs) == ["predictions"]
        wanted = server.net(torch.tensor(ROWS)).detach().numpy()
        np.testing.assert_allclose(
            tensor_proto.to_array(answer.outputs["predictions"], "p"), wanted, rtol=1e-5
        )
        request.inputs["x"].CopyFrom(tensor_proto.from_array(ROWS.astype(np.float64)))
        with pytest.raises(grpc.RpcError) as caught:
            predict(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == 'input "x" has the datatype FP64, expected FP32'


def test_v2_by_grpc(server):
    ids, scale = np.array([[1, 2], [3, 9]]), np.array([0.5, 2], np.float16)
    tensors_sent = [
        v2_values.Tensor(
            name, v2_inference.datatypes.datatype_of(array.dtype), array.shape, array, is_binary=True
        )
        for name, array in (("scale", scale), ("ids", ids))
    ]
    request = v2_values.Request(tensors_sent, [v2_values.Wanted("scaled")], model_name="two")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer_call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = v2_grpc.decode_response(infer_call(v2_grpc.encode_request(request), timeout=60))
    assert [(each.name, each.datatype, each.array.tolist()) for each in answer.outputs] == [
        ("scaled", "FP16", [[0.5, 1], [6, 18]])
    ]
