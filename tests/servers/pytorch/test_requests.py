"""Requests to real networks: dtypes, objects as rows, and the text of every 400."""

import asyncio
import json

import numpy as np
import pytest
import torch

import modelserver
from modelserver.protocols.v1_json import decode_request

from .conftest import MLP, ask, network, plain, refusal

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


@pytest.fixture
def mlp(folder):
    return folder.write("model.py", MLP).with_weights()


@pytest.fixture
def iris(mlp):
    return mlp.load()


# -- what works


def test_rows_give_the_networks_own_numbers(mlp, iris):
    with torch.inference_mode():
        wanted = mlp.network()(torch.tensor(ROWS))
    assert ask(iris, ROWS) == wanted.tolist()


def test_predictions_stay_an_array(iris):
    predictions = asyncio.run(iris({"instances": ROWS}))["predictions"]
    assert isinstance(predictions, np.ndarray)
    assert predictions.dtype == np.float32
    assert predictions.flags.c_contiguous


def test_integers_reach_a_float_network_as_floats(iris):
    assert ask(iris, [[6, 2, 4, 1]]) == ask(iris, [[6.0, 2.0, 4.0, 1.0]])


def test_a_mix_of_integers_and_floats(iris):
    assert ask(iris, [[6, 2.0, 4, 1], [1, 2, 3, 4]]) == ask(iris, [[6.0, 2, 4, 1.0], [1.0, 2, 3, 4]])


def test_other_keys_beside_instances_are_ignored(iris):
    answer = asyncio.run(iris({"instances": ROWS, "signature_name": "serving_default"}))
    assert answer["predictions"].shape == (2, 3)


def test_a_value_that_would_be_broadcast_over_a_row_is_refused(served):
    model = served(
        "return self.net((x - self.mean) / 2)", "self.net = nn.Linear(4, 3); self.mean = torch.ones(4)"
    )
    assert len(ask(model, [[1.0, 2.0, 3.0, 4.0]])) == 1
    assert refusal(model, [[1.0]]) == '"instances" have shape [1, 1], expected [rows, 4]'


def test_no_rows_are_refused_without_a_call(served):
    model = served("raise ValueError('called')")
    assert refusal(model, []) == 'No values in "instances": expected one row at least'


def test_dropout_and_batch_norm_are_in_eval_mode(served):
    model = served("return self.net(x)", "self.net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3))")
    first = ask(model, [[1.0, 2.0, 3.0]])
    torch.testing.assert_close(torch.tensor(first), torch.tensor([[1.0, 2.0, 3.0]]), atol=1e-4, rtol=0)
    assert ask(model, [[1.0, 2.0, 3.0]]) == first


def test_forward_runs_in_inference_mode(served):
    model = served("return x * float(torch.is_inference_mode_enabled())")
    assert ask(model, [[2.0]]) == [[2.0]]


def test_a_network_may_write_into_its_input(served):
    model = served("return x.add_(1)")
    rows = [[1.0], [2.0]]
    assert ask(model, rows) == [[2.0], [3.0]]
    assert rows == [[1.0], [2.0]]


def test_a_read_only_array_is_taken(iris):
    array = np.frombuffer(np.array(ROWS, np.float32).tobytes(), np.float32).reshape(2, 4)
    assert not array.flags.writeable
    assert iris.predict({"instances": array})["predictions"].tolist() == ask(iris, ROWS)


def test_an_array_is_not_copied(served):
    model = served("return x")
    array = np.ones((2, 4), np.float32)
    assert np.shares_memory(model.predict({"instances": array})["predictions"], array)


# -- dtypes


def test_integers_stay_integers_for_an_embedding(served):
    model = served("return self.embed(x).sum(1)", "self.embed = nn.Embedding(10, 4)")
    assert len(ask(model, [[1, 2, 3], [4, 5, 6]])[0]) == 4
    assert ask(model, [[1.0, 2.0]]) == ask(model, [[1, 2]])  # JavaScript writes 1.0 as 1, others the reverse
    assert "fractions" in refusal(model, [[1.5, 2.0]])


def test_an_embedding_bag(served):
    model = served("return self.embed(x)", "self.embed = nn.EmbeddingBag(10, 4)")
    assert len(ask(model, [[1, 2, 3], [4, 5, 6]])) == 2


def test_one_id_per_row(served):
    model = served("return self.embed(x).flatten(1)", "self.embed = nn.Embedding(10, 4)")
    assert len(ask(model, [1, 2, 3])) == 3


def test_large_ids_stay_exact_where_no_guess_worked(served):
    code = "assert x.ne(0).any(); return self.embed(x.long() % 2).sum() * 0 + x % 1000"
    assert ask(served(code, "self.embed = nn.Embedding(2, 4)"), [[2**40 + 1]]) == [[(2**40 + 1) % 1000]]


def test_a_recommender_of_one_id_per_row(served):
    model = served(
        "return self.out(self.embed(x)).view(-1)",
        "self.embed, self.out = nn.Embedding(10, 4), nn.Linear(4, 1)",
    )
    assert len(ask(model, [1, 2, 3])) == 3


def test_a_transformer_over_ids_with_positions(served):
    model = served(
        "return self.layer(self.embed(x) + self.place[: x.shape[1]]).mean(1)",
        "self.embed = nn.Embedding(10, 8); self.place = nn.Parameter(torch.zeros(16, 8)); "
        "self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)",
    )
    assert len(ask(model, [[1, 2, 3]])[0]) == 8
    assert "The model refuses the input" in refusal(model, [[1] * 17])


@pytest.mark.parametrize(
    ("dtype", "numbers"), [("double", "float64"), ("half", "float16"), ("bfloat16", "float32")]
)
def test_the_input_has_the_dtype_of_the_parameters(served, dtype, numbers):
    init = f"self.out = nn.Linear(2, 2); self.{dtype}()"
    model = served("assert x.dtype == self.out.weight.dtype; return self.out(x)", init)
    for rows in ([[0.1, 0.2]], [[1, 2]]):
        assert asyncio.run(model({"instances": rows}))["predictions"].dtype == numbers


def test_float64_is_not_read_by_way_of_float32(served):
    model = served("return self.w * x", "self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))")
    assert ask(model, [[0.1]]) == [[0.1]]


def test_a_network_that_wants_integers_without_an_embedding_learns_it_once(served):
    model = served(
        "self.calls += 1; return F.one_hot(x, 4).float() + 0 * self.w",
        "self.w = nn.Parameter(torch.zeros(1)); self.calls = 0",
    )
    module = model._loaded.network.module
    assert ask(model, [1, 3]) == [[0, 1, 0, 0], [0, 0, 0, 1]]
    calls = module.calls
    assert ask(model, [2]) == [[0, 0, 1, 0]]
    assert module.calls == calls + 1, "the second request is not tried twice"


def test_an_embedding_somewhere_does_not_make_every_input_one(served):
    model = served(
        "return self.out(x) + self.embed.weight.sum()",
        "self.embed, self.out = nn.Embedding(5, 2), nn.Linear(3, 2)",
    )
    assert ask(model, [[1, 2, 3]]) == ask(model, [[1.0, 2.0, 3.0]])


def test_two_inputs_of_two_kinds(served):
    model = served(
        "ids, values:: return self.embed(ids) + self.out(values)",
        "self.embed, self.out = nn.Embedding(5, 2), nn.Linear(3, 2)",
    )
    integers = [{"ids": 1, "values": [1, 2, 3]}, {"ids": 4, "values": [4, 5, 6]}]
    floats = [{"values": [1.0, 2.0, 3.0], "ids": 1}, {"values": [4.0, 5.0, 6.0], "ids": 4}]
    assert ask(model, integers) == ask(model, floats)
    assert len(ask(model, integers)) == 2


def test_a_mask_of_booleans(served):
    model = served("x, mask:: return self.out(x).masked_fill(mask, 0)", "self.out = nn.Linear(2, 2)")
    got = ask(model, [{"x": [1, 2], "mask": [True, False]}, {"x": [1, 2], "mask": [False, True]}])
    assert got[0][0] == 0
    assert got[1][1] == 0
    assert got[0][1] != 0


@pytest.mark.parametrize("declared", ["'uint8'", "'torch.uint8'", "torch.uint8", "{'x': 'uint8'}"])
def test_a_declared_dtype(served, declared):
    model = served(
        "assert x.dtype is torch.uint8; return x.float().mean(1)", extra=f"input_dtype = {declared}"
    )
    assert ask(model, [[0, 255], [10, 20]]) == [127.5, 15]
    assert "range of uint8" in refusal(model, [[0, 256]])


@pytest.mark.parametrize("declared", ["'float31'", "7", "{'x': 'complex64'}"])
def test_a_wrong_declared_dtype_is_refused_at_load(folder, declared):
    folder.write("model.py", network("return x", extra=f"input_dtype = {declared}"))
    text = folder.refused()
    assert "input_dtype is" in text
    assert "float32" in text


# -- images and sequences


def test_an_image_network(served):
    model = served(
        "return self.out(self.conv(x).relu().mean((2, 3)))",
        "self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)",
    )
    assert len(ask(model, np.ones((2, 3, 20, 30)).tolist())[1]) == 5
    assert '"instances" have shape [3, 20, 30], expected [rows, 3, any, any]' in refusal(
        model, np.ones((3, 20, 30)).tolist()
    )
    assert "expected [rows, 3, any, any]" in refusal(model, np.ones((1, 20, 30, 3)).tolist())


def test_an_image_network_of_one_size(served):
    model = served(
        "return self.out(self.conv(x).flatten(1))",
        "self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(2 * 26 * 26, 10)",
    )
    assert len(ask(model, np.ones((1, 1, 28, 28)).tolist())[0]) == 10
    assert "expected [rows, 1, 28, 28]" in refusal(model, np.ones((1, 1, 32, 32)).tolist())


def test_rows_that_the_network_flattens_itself(served):
    model = served("return self.net(x)", "self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))")
    assert ask(model, np.ones((2, 3, 4)).tolist()) == ask(model, np.ones((2, 12)).tolist())


def test_a_recurrent_network(served):
    model = served(
        "return self.out(self.net(x)[0][:, -1])",
        "self.net, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)",
    )
    assert len(ask(model, np.ones((2, 7, 3)).tolist())) == 2
    assert "expected [rows, any, 3]" in refusal(model, np.ones((2, 7, 4)).tolist())


def test_one_row_without_its_list_is_not_taken_for_several(served):
    square = served("return self.out(x)", "self.out = nn.Linear(4, 4)")
    assert "shape [4], expected [rows, 4]" in refusal(square, [1.0, 2.0, 3.0, 4.0])


def test_one_row_without_its_list_is_told_by_the_answer(served):
    model = served("return self.out(x + 0)", "self.out = nn.Linear(4, 3)")
    assert "shape [4], expected [rows, 4]" in refusal(model, [1.0, 2.0, 3.0, 4.0])


def test_scalars_that_the_network_widens(served):
    model = served(
        "return self.out((x[:, None] * torch.arange(8)).sin())",  # a time embedding
        "self.out = nn.Linear(8, 2)",
    )
    assert len(ask(model, [0.1, 0.2, 0.3])) == 3


def test_scalars_as_rows(served):
    model = served("return self.out(x[:, None])", "self.out = nn.Linear(1, 2)")
    assert len(ask(model, [1, 2.5, 3])) == 3


# -- objects as rows


def test_one_input_by_name(iris):
    assert ask(iris, [{"x": row} for row in ROWS]) == ask(iris, ROWS)


def test_an_input_with_a_default_may_be_left_out(served):
    model = served("a, b=None:: return a if b is None else a + b")
    assert ask(model, [{"a": [1.0]}]) == [[1.0]]
    assert ask(model, [{"b": [2.0], "a": [1.0]}]) == [[3.0]]
    assert ask(model, [[1.0]]) == [[1.0]]


def test_keywords(served):
    model = served("**inputs:: return sum(inputs.values())")
    assert ask(model, [{"p": [1.0], "q": [2.0]}, {"p": [3.0], "q": [4.0]}]) == [[3.0], [7.0]]


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ([{"a": [1.0]}], '"instances"[0] lacks "b"; the model takes: a, b, [c]'),
        (
            [{"a": [1.0], "b": [1.0], "z": 1, "y": 2}],
            'has the unknown key "z", "y"; the model takes: a, b, [c]',
        ),
        ([{"a": [1.0], "b": [1.0]}, {"a": [1.0]}], '"instances"[1] has the keys "a", expected "a", "b"'),
        ([{"a": [1.0], "b": [1.0]}, [1.0]], '"instances"[1] is no object'),
        ([[1.0], {"a": [1.0], "b": [1.0]}], "takes several inputs (a, b, [c])"),
        (
            [{"a": [1.0], "b": [1.0]}, {"a": [1.0, 2.0], "b": [1.0]}],
            '"a" of "instances"[1] has shape [2], expected [1]',
        ),
        ([{"a": ["x"], "b": [1.0]}], '"a" of "instances"[0][0] is a string \'x\''),
        ([[1.0]], 'Send one object per row: {"a": ..., "b": ...}'),
        ([{}], 'lacks "a", "b"'),
        ([{"b64": "aGk="}], 'unknown key "b64"'),
    ],
)
def test_objects_that_are_wrong(served, instances, said):
    assert said in refusal(served("a, b, c=None:: return a + b"), instances)


# -- every wrong input is a 400 that says what is wrong, and does not harm the next request


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], '"instances" have shape [2, 3], expected [rows, 4]'),
        ([1.0, 2.0, 3.0, 4.0], '"instances" have shape [4], expected [rows, 4]'),
        (5, 'Expected "instances" to be a list'),
        ("text", 'Expected "instances" to be a list'),
        (None, 'Expected "instances" to be a list'),
        ({"x": [1]}, 'Expected "instances" to be a list'),
        ([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]], '"instances"[1] has shape [2], expected [4]'),
        ([[1.0, 2.0, 3.0, 4.0], 7.0], '"instances"[1] is a number, expected a list as in "instances"[0]'),
        ([["1", "2", "3", "4"]], "\"instances\"[0][0] is a string '1', expected a number"),
        ([[1.0, None, 3.0, 4.0]], '"instances"[0][1] is null, expected a number'),
        ([[1.0, 2.0, 3.0, {"b64": "aGk="}]], '"instances"[0][3] is an object, expected a number'),
        ([None], '"instances"[0] is null'),
        ([[]], '"instances" have shape [1, 0], expected [rows, 4]'),
        ([[[[[1.0]]]]], "expected [rows, 4]"),
        ([[True, False, True, False]], "holds booleans, expected float32 numbers"),
        ([[2**70, 1, 1, 1]], "does not fit into 64 bits"),
    ],
)
def test_wrong_rows(iris, instances, said):
    assert said in refusal(iris, instances)
    assert len(ask(iris, ROWS)) == 2


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, '"instances" is missing; the body has no keys'),
        ({"inputs": [[1]], "id": 7}, '"instances" is missing; the body has "inputs", "id"'),
        (b"\x89PNG", "got 4 bytes"),
        ([[1.0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_wrong_bodies(iris, payload, said):
    with pytest.raises(modelserver.InvalidInput) as caught:
        asyncio.run(iris(payload))
    assert said in str(caught.value)


@pytest.mark.parametrize("index", [10, 11, -1, 2**40])
def test_an_index_that_an_embedding_has_not(served, index):
    model = served("return self.embed(x).sum(1)", "self.embed = nn.Embedding(10, 4)")
    assert f"index {index}, expected 0 to 9" in refusal(model, [[1, index]])
    assert len(ask(model, [[1, 9]])) == 1


def test_an_index_out_of_range_deeper_inside(served):
    model = served("return self.embed(x + 5).sum(1)", "self.embed = nn.Embedding(10, 4)")
    assert "index out of range" in refusal(model, [[1, 6]])


@pytest.mark.parametrize(
    ("code", "init", "rows"),
    [
        ("return x.view(-1, 7)", "pass", [[1.0] * 5]),
        ("return x @ self.w", "self.w = nn.Parameter(torch.zeros(1, 4, 4, 3))", [[1.0] * 5]),
        ("return torch.cat([x, self.w], 1)", "self.w = nn.Parameter(torch.zeros(9, 2))", [[1.0] * 5]),
        ("return x[:, 7]", "pass", [[1.0] * 5]),
        ("b, c, h, w = x.shape; return x", "pass", [[1.0] * 5]),
        ("return x.permute(0, 2, 1)", "pass", [[1.0] * 5]),
        ("return F.max_pool2d(x, 9)", "pass", [[[[1.0]]]]),
        ("return F.group_norm(x, 4)", "pass", [[1.0] * 5]),
        (
            "return torch.einsum('bi,ij->bj', x, self.w)",
            "self.w = nn.Parameter(torch.zeros(4, 3))",
            [[1.0] * 5],
        ),
    ],
)
def test_a_shape_that_only_torch_knows_to_be_wrong(served, code, init, rows):
    text = refusal(served(code, init), rows)
    assert text.startswith("The model refuses the input: ")
    assert "x has shape [1, " in text
    assert "dtype float32" in text


# -- the model's own errors are not the client's


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ValueError('the shape of the tables does not match')", ValueError),
        ("raise RuntimeError('boom')", RuntimeError),
        ("assert False, 'size'", AssertionError),
        ("return self.gone(x)", AttributeError),
        ("return x / [1]", TypeError),
        ("return {}['shape']", KeyError),
        ("raise KeyError('dtype')", KeyError),
        ("return [x][9]", IndexError),
    ],
)
def test_an_error_of_the_users_code_is_passed_on(served, code, error):
    model = served(code)
    with pytest.raises(error) as caught:
        ask(model, [[1.0, 2.0]])
    assert not isinstance(caught.value, modelserver.ModelServerError)


def test_a_shape_error_for_an_input_like_the_one_that_worked_is_the_models(served):
    model = served("y = self.out(x); return y if x.sum() == 0 else y @ y", "self.out = nn.Linear(4, 3)")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ask(model, ROWS)


def test_the_users_own_invalid_input_is_a_400(served):
    code = "import modelserver; raise modelserver.InvalidInput('too dark')"
    assert refusal(served(code), [[1.0]]) == "too dark"


def test_a_user_check_of_a_wrong_width_is_a_400(served):
    model = served(
        "torch._assert(x.shape[1] == 4, 'four please')\n        return self.out(x)",
        "self.out = nn.Linear(4, 3)",
    )
    assert "expected [rows, 4] (four please)" in refusal(model, [[1.0, 2.0]])


def test_a_request_before_load_and_after_stop_is_a_503(mlp):
    model = mlp.model()
    for _ in range(2):
        with pytest.raises(modelserver.ModelNotReady):
            ask(model, ROWS)
        model.load()
        ask(model, ROWS)
        model.stop()
        assert not model.ready


# -- rows that come as one array, because the body is large or .npy

EMBEDDING = "self.out = nn.Embedding(5, 3)"
LINEAR = "self.out = nn.Linear(4, 3)"


@pytest.mark.parametrize(
    ("code", "init", "dtype"),
    [
        ("return self.out(x)", LINEAR, np.float32),
        ("return self.out(x)", f"{LINEAR}; self.double()", np.float64),
        ("return self.out(x.to(torch.bfloat16)).float()", f"{LINEAR}; self.bfloat16()", np.float32),
        ("return self.out(x)", EMBEDDING, np.int64),
        ("a, b:: return self.out(a) + self.out(b)", LINEAR, None),
        ("a, b=None:: return self.out(a)", LINEAR, np.float32),
        ("return x * 2.5", "pass", "number"),
        ("return x * self.out", "self.out = nn.Parameter(torch.ones(1).double())", None),
    ],
)
def test_the_dtype_that_rows_may_be_read_as(served, code, init, dtype):
    assert served(code, init).instances_dtype == dtype


@pytest.mark.parametrize(
    ("code", "init", "row"),
    [
        ("return self.out(x)", LINEAR, [0.1, 2, 3, 4]),
        ("return self.out(x)", f"{LINEAR}; self.double()", [0.1, 2, 3, 4]),
        ("return self.out(x)", LINEAR, [1, 2, 3, 4]),
        ("return self.out(x).sum(1)", EMBEDDING, [0, 1, 2, 3]),
        ("return self.out(x).sum(1)", EMBEDDING, [0.0, 1.0]),
        ("return x * 2.5", "pass", [1, 2]),
        ("return x / 3", "pass", [0.1, 16777217]),
        ("return torch.bincount(x.flatten())[x]", "pass", [1, 2, 3]),
        ("return x / 3 * self.out", "self.out = nn.Parameter(torch.ones(1).double())", [0.1, 16777217]),
        ("x.zero_(); return x", "pass", [1.5, 2.5]),
    ],
)
def test_a_large_body_is_answered_as_its_lists_are(served, code, init, row):
    model = served(code, init)
    rows = [row] * 2000
    body = json.dumps({"instances": rows}).encode()
    payload = decode_request(body, "", model.instances_dtype)
    assert plain(asyncio.run(model(payload))["predictions"]) == ask(served(code, init), rows)


@pytest.mark.parametrize(
    ("code", "init", "row"),
    [
        ("return self.out(x)", LINEAR, [1.5, 2]),
        ("return self.out(x).sum(1)", EMBEDDING, [1.5, 2]),
        ("return self.out(x).sum(1)", EMBEDDING, [1, 9]),
        ("return self.out(x)", LINEAR, [None, 2]),
        ("return self.out(x)", LINEAR, {"wrong": 1}),
    ],
)
def test_a_large_body_is_refused_as_its_lists_are(served, code, init, row):
    model = served(code, init)
    rows = [row] * 2000
    payload = decode_request(json.dumps({"instances": rows}).encode(), "", model.instances_dtype)
    with pytest.raises(modelserver.InvalidInput) as caught:
        asyncio.run(model(payload))
    assert str(caught.value) == refusal(model, rows)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64"])
def test_arrays_of_any_dtype(iris, dtype):
    rows = np.array(ROWS).astype(dtype)
    rows.flags.writeable = False
    assert ask(iris, rows) == ask(iris, rows.astype(float).tolist())


def test_an_array_of_another_kind_is_refused_in_words(iris):
    assert refusal(iris, np.zeros((1, 4), bool)) == '"instances" holds booleans, expected float32 numbers'
    assert refusal(iris, np.zeros((0, 4))) == 'No values in "instances": expected one row at least'


def test_objects_are_still_taken(iris):
    assert ask(iris, [{"x": row} for row in ROWS]) == ask(iris, ROWS)


@pytest.mark.parametrize("instances", [7, None, "rows", {"a": 1}, True])
def test_instances_that_are_no_list(iris, instances):
    assert refusal(iris, instances) == 'Expected "instances" to be a list'
