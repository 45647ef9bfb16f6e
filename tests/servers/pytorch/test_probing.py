"""What is found out about a network at load: types, an example that works, and never a failed load."""

import asyncio
import logging

import pytest
import torch

from pytorchserver import probing

from .conftest import MLP, ask, plain, scripted

NET_OF_X = "return self.net(x)"
LAYERS = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"


def load(folder, init, forward="return self.net(x)", arguments="x", extra="pass"):
    folder.write(
        "model.py",
        f"{LAYERS}class Net(nn.Module):\n    {extra}\n    def __init__(self):\n        super().__init__()\n"
        f"        {init}\n    def forward(self, {arguments}):\n        {forward}\n",
    ).with_weights()
    return folder.load()


def check_example(model, rows=1):
    example = model.example_request()
    answer = plain(asyncio.run(model(example))["predictions"])
    assert len(answer) == len(example["instances"]) == rows
    return example["instances"][0]


def types(infos):
    return [(info["name"], info["datatype"], info["shape"]) for info in infos]


def test_the_iris_network(folder):
    model = folder.write("model.py", MLP).with_weights().load()
    assert model.example_request() == {"instances": [[0.0, 0.0, 0.0, 0.0]]}
    assert model.get_input_types() == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model.get_output_types() == [{"name": "predictions", "datatype": "FP32", "shape": [-1, 3]}]
    check_example(model)


@pytest.mark.parametrize(
    ("init", "forward", "inputs", "outputs"),
    [
        (
            "self.net = nn.Conv2d(4, 4, 3, groups=4)",
            "return self.net(x).mean((2, 3))",
            [-1, 4, -1, -1],
            [-1, 4],
        ),
        ("self.net = nn.Conv2d(3, 4, 3)", "return self.net(x).mean((2, 3))", [-1, 3, -1, -1], [-1, 4]),
        ("self.net = nn.Conv2d(3, 4, 3, padding=1)", NET_OF_X, [-1, 3, -1, -1], [-1, 4, -1, -1]),
        (
            "self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))",
            "return self.net(x)",
            [-1, 1, 28, 28],
            [-1, 10],
        ),
        (
            "self.net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.Flatten(2))",
            "return self.net(x).mean(2)",
            [-1, 3, -1, -1],
            [-1, 2],
        ),
        ("self.net = nn.Conv1d(2, 3, 3)", "return self.net(x).amax(2)", [-1, 2, -1], [-1, 3]),
        ("self.net = nn.Conv3d(1, 2, 3)", "return self.net(x).amax((2, 3, 4))", [-1, 1, -1, -1, -1], [-1, 2]),
        (
            "self.net = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2))",
            "return self.net(x)",
            [-1, 5],
            [-1, 2],
        ),
        (
            "self.net = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2))",
            "return self.net(x)",
            [-1, 5],
            [-1, 2],
        ),
        ("self.net = nn.GRU(3, 4, batch_first=True)", "return self.net(x)[0]", [-1, -1, 3], [-1, -1, 4]),
        (
            "self.net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)",
            "return self.net(x)",
            [-1, -1, 8],
            [-1, -1, 8],
        ),
        ("self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))", NET_OF_X, [-1, 12], [-1, 2]),
        ("self.net = nn.Linear(12, 2); self.double()", NET_OF_X, [-1, 12], [-1, 2]),
    ],
)
def test_the_first_layer_tells(folder, init, forward, inputs, outputs):
    model = load(folder, init, forward)
    (_, datatype, shape), *others = types(model.get_input_types())
    assert not others
    assert shape == inputs
    assert datatype == ("FP64" if "double" in init else "FP32")
    assert [info["shape"] for info in model.get_output_types()] == [outputs]
    check_example(model)


def test_an_embedding_over_any_length(folder):
    model = load(folder, "self.net = nn.Embedding(10, 4)", "return self.net(x).mean(1)")
    assert types(model.get_input_types()) == [("x", "INT64", [-1, -1])]
    assert types(model.get_output_types()) == [("predictions", "FP32", [-1, 4])]
    assert check_example(model) == [0] * 8


def test_an_embedding_over_one_length(folder):
    model = load(folder, "self.net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(80, 2))")
    assert types(model.get_input_types()) == [("x", "INT64", [-1, 20])]
    check_example(model)


def test_several_inputs_in_the_order_of_their_layers(folder):
    init = "self.p, self.q = nn.Linear(3, 2), nn.Embedding(5, 2)"
    model = load(folder, init, "return {'sum': self.p(a) + self.q(b).sum(1), 'a': a}", "a, b")
    assert types(model.get_input_types()) == [("a", "FP32", [-1, 3]), ("b", "INT64", [-1, -1])]
    assert types(model.get_output_types()) == [("sum", "FP32", [-1, 2]), ("a", "FP32", [-1, 3])]
    assert check_example(model) == {"a": [0.0] * 3, "b": [0] * 8}


def test_several_inputs_to_one_layer(folder):
    model = load(folder, "self.net = nn.Linear(3, 2)", "return self.net(a), self.net(b)", "a, b")
    assert [name for name, *_ in types(model.get_output_types())] == ["output_0", "output_1"]
    assert check_example(model) == {"a": [0.0] * 3, "b": [0.0] * 3}


def test_optional_inputs_are_left_out(folder):
    model = load(folder, "self.net = nn.Linear(3, 2)", "return self.net(a)", "a, b=None")
    assert check_example(model) == [0.0] * 3


def test_a_declared_dtype_shows(folder):
    model = load(
        folder, "self.net = nn.Linear(3, 2)", "return self.net(x / 255)", extra="input_dtype = 'uint8'"
    )
    assert types(model.get_input_types()) == [("x", "UINT8", [-1, 3])]
    assert check_example(model) == [0, 0, 0]


def test_a_script(folder):
    torch.manual_seed(0)
    scripted(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(2)), folder.path / "model.pt")
    model = folder.load()
    assert types(model.get_input_types()) == [("input", "FP32", [-1, 3, -1, -1])]
    check_example(model)


@pytest.mark.parametrize(
    ("init", "forward", "arguments"),
    [
        ("pass", "return x", "x"),
        ("self.net = nn.Linear(4, 3)", "raise RuntimeError('not now')", "x"),
        ("self.net = nn.Linear(4, 3)", "import sys; sys.exit('no')", "x"),
        ("self.net = nn.Linear(4, 3)", "return self.net(x).sum()", "x"),
        ("self.net = nn.Linear(4, 3)", "return self.net(x['odd'])", "x"),
        ("self.net = nn.Linear(4, 3)", "return self.net(torch.stack(xs))", "*xs"),
        ("self.net = nn.Linear(4, 3)", "return a", "a, b, c, d, e"),
    ],
)
def test_a_network_that_answers_no_guess_loads_all_the_same(folder, init, forward, arguments):
    model = load(folder, init, forward, arguments)
    assert model.ready
    assert model.example_request() is None
    assert model.get_input_types() == []
    assert model.get_output_types() == []


def test_odd_layers_do_not_fail_the_load(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Conv2d(torch.nn.Module):
            groups = "many"
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(1, 1, 1, 1))
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = Conv2d()
            def forward(self, x):
                return x * self.conv.weight[0, 0, 0]
        """,
    ).with_weights()
    assert ask(folder.load(), [[2.0]]) == [[2.0]]


def test_before_load_nothing_is_known(folder):
    model = folder.write("model.py", MLP).with_weights().model()
    assert model.example_request() is None
    assert model.get_input_types() == []


def test_the_guesses_have_a_time_limit(folder, monkeypatch):
    monkeypatch.setattr(probing, "BUDGET_S", 0.2)
    slow = "self.calls += 1; import time; time.sleep(0.15); raise ValueError('slow and wrong')"
    model = load(folder, "self.net = nn.Embedding(10, 4); self.calls = 0", slow)
    assert model.ready
    assert model.example_request() is None
    assert model._loaded.network.module.calls == 2, "of a dozen guesses"


def test_the_log_says_what_is_served(folder, caplog):
    caplog.set_level(logging.INFO, "modelserver.model")
    folder.write("model.py", MLP).with_weights().load(device="cpu")
    assert "m: class Net of model.py + model.pt on cpu" in caplog.messages


def test_a_probed_network_answers_what_the_probe_did_not_try(folder):
    model = load(folder, "self.net = nn.Linear(4, 3)")
    assert len(ask(model, [[[1.0] * 4] * 5] * 2)[0]) == 5  # Linear takes more dimensions
