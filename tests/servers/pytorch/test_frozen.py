"""A short network is frozen only where nothing but the time changes."""

import numpy as np
import pytest
import torch

from pytorchserver import frozen as room
from pytorchserver.network import Network, arguments_of

from .conftest import MLP, ask, refusal

HEAD = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
            self.calls = 0
"""


def network_of(module):
    return Network(module, arguments_of(module.forward), "a network", module=module.eval())


def is_frozen(model):
    return model._loaded.network.call is not model._loaded.network.module


def test_a_short_network_is_frozen_and_answers_the_same(folder):
    folder.write("model.py", MLP).with_weights()
    model = folder.load()
    assert is_frozen(model)
    rows = np.random.default_rng(0).normal(size=(33, 4)).tolist()
    with torch.inference_mode():
        expected = model._loaded.network.module(torch.tensor(rows))
    assert np.array_equal(model.predict({"instances": rows})["predictions"], expected.numpy())


@pytest.mark.parametrize(
    "forward",
    [
        "return self.b(self.a(x)) + self.calls if [c for c in 'ab'] else (yield)",  # not scriptable
        "return self.b(self.a(x)) + torch.rand(1)",  # another answer each time
        "return self.b(self.a(x)) + (1 if torch.jit.is_scripting() else 0)",  # another answer as a script
        "return self.b(self.a(x)).double() if torch.jit.is_scripting() else self.b(self.a(x))",
    ],
)
def test_a_network_that_would_answer_otherwise_stays_as_it_is(folder, forward):
    folder.write("model.py", f"{HEAD}\n        def forward(self, x):\n            {forward}\n").with_weights()
    model = folder.model()
    model.load()
    assert not is_frozen(model)


def test_one_that_gets_no_faster_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(room, "_fastest", lambda *_: (10e-6, 9.5e-6))
    network = network_of(torch.nn.Linear(4, 3))
    assert room.frozen(network, {"input": torch.zeros(1, 4)}) is network


def test_a_large_one_is_not_tried(monkeypatch):
    monkeypatch.setattr(room, "_MOST_LAYERS", 2)
    network = network_of(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    assert room.frozen(network, {"input": torch.zeros(1, 4)}) is network


def test_weights_that_would_stay_in_memory_are_not_frozen(monkeypatch):
    monkeypatch.setattr(room, "_fastest", lambda *_: (10e-6, 1e-6))
    network = network_of(torch.nn.Linear(4, 3))  # 60 bytes
    monkeypatch.setattr(room, "_MOST_BYTES", 60)
    assert room.frozen(network, {"input": torch.zeros(1, 4)}) is not network
    monkeypatch.setattr(room, "_MOST_BYTES", 59)
    assert room.frozen(network, {"input": torch.zeros(1, 4)}) is network


def test_an_error_is_the_networks_own(folder):
    """TorchScript's would be a listing of the script, and a ``raise`` of the user's a ``torch.jit.Error``."""
    folder.write(
        "model.py",
        HEAD
        + """
        def forward(self, x):
            if bool((x > 100).any()):
                raise ValueError("too large")
            return self.b(torch.relu(self.a(x)))
        """,
    ).with_weights()
    model = folder.load()
    assert is_frozen(model)
    assert len(ask(model, [[1.0, 2.0, 3.0, 4.0]])) == 1
    with pytest.raises(ValueError, match=r"^too large$"):
        model.predict({"instances": [[101.0, 2.0, 3.0, 4.0]]})
    assert refusal(model, [[1.0, 2.0]]).startswith('"instances" have shape [1, 2], expected [rows, 4]')


def test_several_inputs_and_outputs_by_name(folder):
    folder.write(
        "model.py",
        """
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = torch.nn.Linear(4, 3), torch.nn.Linear(2, 3)

            def forward(self, left, right):
                return {"sum": self.one(left) + self.two(right), "left": self.one(left)}
        """,
    ).with_weights()
    model = folder.load()
    assert is_frozen(model)
    (row,) = ask(model, [{"left": [1.0, 2.0, 3.0, 4.0], "right": [1.0, 2.0]}])
    assert list(row) == ["sum", "left"]


def test_indices_are_tried_with_values_in_their_range(folder):
    folder.write(
        "model.py",
        """
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(11, 4)

            def forward(self, x):
                return self.words(x).mean(1)
        """,
    ).with_weights()
    model = folder.load()
    assert is_frozen(model)
    assert "11" in refusal(model, [[11, 0]]) or "0 to 10" in refusal(model, [[11, 0]])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), True),
        (torch.tensor([0.0]), torch.tensor([torch.nan]), False),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        ({"a": torch.ones(1)}, {"a": torch.ones(1)}, True),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, False),
        ((torch.ones(1), 2), (torch.ones(1), 2), True),
        ((torch.ones(1), 2), (torch.ones(1), 3), False),
        ((torch.ones(1),), [torch.ones(1)], False),
    ],
)
def test_what_counts_as_the_same(one, other, same):
    assert room._equal(one, other) is same
