"""pytorchserver: serves a folder of ``model.py`` + weights, a TorchScript program or a ``.pt2`` program.

    python -m pytorchserver --model_dir iris.tgz --model_name iris

Rules of the package: written on ``modelserver``'s public names, as any third-party predictor would be; this
file imports no torch, since it is imported on every start to look at folders. Rooms, in the order of use:

    at load     loading joins   folder (what lies there), user_module (import of model.py), model_class
                                (which class), weights (state_dict), programs + export_check (no model.py)
                a network is    network; what it takes is found out by probing; a short one is frozen,
                                or any is compiled
    a request   model: predict  instances (JSON to tensors), forward, outputs (tensors to predictions),
                                refusals (whose fault an error is)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelserver import Model, Predictor
from pytorchserver.folder import ModelFolder

__all__ = ["predictor"]


def _detect(folder: Path) -> bool:
    """Any top-level ``*.py`` or weights file: so a wrong folder gets this package's exact message."""
    if any(folder.glob("saved_model.pb")) or any(folder.glob("*/saved_model.pb")):
        return False
    files = ModelFolder.of(folder)
    return bool(files.scripts or files.weights)


def _build(name: str, model_dir: Path, options: argparse.Namespace) -> Model:
    from pytorchserver.model import PyTorchModel

    return PyTorchModel(
        name,
        model_dir,
        options.model_class_name,
        options.device,
        options.max_batch_size,
        compile=options.compile,
    )


def _add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--model_class_name",
        default=None,
        help="The torch.nn.Module subclass in model.py. Default: PyTorchModel, else the only class that can "
        "be built without arguments.",
    )
    parser.add_argument(
        "--device",
        default=None,
        help="Where the network runs: cpu, cuda, cuda:1. Default: cuda if there is one, else cpu.",
    )
    parser.add_argument(
        "--max_batch_size",
        type=int,
        default=None,
        metavar="N",
        help="Most rows of several requests in one call of the network; 0 keeps requests apart. Default: 256 "
        "for a class with `batchable = True`, else 0.",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="Compile the network of model.py with torch's AOTInductor at the start, for the CPU. Takes some "
        "10 seconds and needs a C++ compiler.",
    )


predictor = Predictor(
    framework="PyTorch",
    expects="model.py + model.pt (a state_dict: *.pt, *.pth, *.bin or *.safetensors), or one TorchScript or "
    "torch.export (*.pt2) program",
    detect=_detect,
    build=_build,
    add_arguments=_add_arguments,
)
"""What the command line loads from the entry point ``modelserver.predictors``."""
