"""Loads a network as its author does: the class in `model.py`, the weights in `model.pt`.

For the servers that bring no loader of their own. One thread for each forward, as everywhere here
(`OMP_NUM_THREADS=1` is set for every server).
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


def load(folder: str) -> nn.Module:
    """The network of a folder, ready to predict."""
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    module = importlib.import_module("model")
    (network_class,) = (
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, nn.Module)
    )
    network = network_class()
    network.load_state_dict(torch.load(Path(folder) / "model.pt", weights_only=True))
    return network.eval()


def rows_of(instances: list) -> torch.Tensor:
    """JSON rows as float32. By numpy: `torch.tensor` takes several times as long for a long list."""
    return torch.from_numpy(np.asarray(instances, dtype=np.float32))
