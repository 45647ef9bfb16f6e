"""What is computed before a PyTorch model is ready."""

import json

import torch

from .conftest import MLP, ask

ODD = """
    import torch

    class Net(torch.nn.Module):
        rows_seen = []

        def forward(self, x):  # no layer tells what it takes
            self.rows_seen.append(len(x))
            return x.reshape(len(x), 2, 3).sum(-1)
"""


def test_the_requests_beside_the_model_are_answered_before_it_is_ready(folder):
    folder.write("model.py", ODD).write("warmup.json", json.dumps({"instances": [[1.0] * 6] * 5}))
    model = folder.load()
    assert type(model._loaded.network.module).rows_seen.count(5) >= 3


def test_the_first_of_them_is_the_example_where_none_can_be_made_up(folder):
    folder.write("model.py", ODD)
    assert folder.load().example_request() is None
    request = {"instances": [[1.0] * 6]}
    folder.write("warmup.json", json.dumps([request, {"instances": [[2.0] * 6]}]))
    model = folder.load()
    assert model.example_request() == request
    assert model._loaded.threads == 1  # settled with it


def test_a_request_that_fails_keeps_the_model_from_loading(folder):
    folder.write("model.py", MLP).with_weights().write("warmup.json", '{"instances": [[1.0, 2.0]]}')
    text = folder.refused()
    assert text.startswith('Request 1 of 1 in warmup.json fails: InvalidInput: "instances" have shape [1, 2]')


def test_the_file_is_no_part_of_the_model(folder):
    folder.write("model.py", MLP).with_weights().write("warmup.json", '{"instances": [[1, 2, 3, 4]]}')
    model = folder.load()
    assert model.example_request() == {"instances": [[0.0, 0.0, 0.0, 0.0]]}
    assert len(ask(model, [[1.0, 2.0, 3.0, 4.0]])) == 1


def test_a_batchable_network_has_seen_several_numbers_of_rows(folder):
    folder.write(
        "model.py",
        """
        import torch

        class Net(torch.nn.Module):
            batchable = True
            rows_seen = []

            def __init__(self):
                super().__init__()
                self.a = torch.nn.Linear(4, 3)

            def forward(self, x):
                self.rows_seen.append(len(x))
                return self.a(x)
        """,
    ).with_weights()
    model = folder.load()
    assert {1, 2, 256} <= set(type(model._loaded.network.module).rows_seen)
    assert torch.is_tensor(model._loaded.network.module.a.weight)
