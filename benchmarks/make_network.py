"""Writes a folder with one of the networks of `models/`, weights included.

python benchmarks/make_network.py NAME FOLDER
"""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

NETWORKS = Path(__file__).resolve().parent / "models"


def main(name: str, folder: Path) -> None:
    source = NETWORKS / name / "model.py"
    (network_class,) = (
        value
        for value in runpy.run_path(str(source)).values()
        if isinstance(value, type) and issubclass(value, nn.Module)
    )
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / "model.py")
    torch.save(network_class().state_dict(), folder / "model.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
