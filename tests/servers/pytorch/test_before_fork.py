"""Which models may be loaded before a fork: those on the CPU, told without asking CUDA."""

import pytest
import torch

from pytorchserver import loading
from pytorchserver.model import PyTorchModel


@pytest.mark.parametrize(
    ("device", "cuda", "nodes", "expected"),
    [
        ("cpu", "13.0", ["/"], True),
        ("cuda", "13.0", ["/"], False),
        ("cuda:1", None, [], False),
        (None, None, ["/"], True),  # a CPU build
        (None, "13.0", [], True),
        (None, "13.0", ["/nowhere", "/"], False),
    ],
)
def test_only_what_certainly_runs_on_the_cpu(monkeypatch, device, cuda, nodes, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(loading, "_GPU_NODES", nodes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("CUDA was asked"))
    assert PyTorchModel("m", ".", device=device).loads_before_fork is expected
