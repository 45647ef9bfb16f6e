"""A model folder to a ``Network``: the rules of what may lie there together.

Rules of the room: joins ``folder``, ``user_module``, ``model_class``, ``weights`` and ``programs``; answers
no request. Every failure is a ``ModelLoadError`` that names files, not paths, and ends with what to do.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from modelserver import ModelLoadError
from pytorchserver import model_class, weights
from pytorchserver.folder import SAVE_LINE, FileKind, ModelFolder, kind_of
from pytorchserver.network import Network, arguments_of
from pytorchserver.programs import load_program
from pytorchserver.user_module import UserModules

_GPU_NODES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg", "/dev/kfd")
"""Devices of NVIDIA's driver, on Jetson and in WSL too, and of ROCm, whose torch calls itself CUDA."""


def choose_device(wanted: str | None) -> torch.device:
    """The device of ``--device``; by default CUDA if there is one.

    Raises:
        ModelLoadError: there is no such device.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ModelLoadError(f"--device {wanted} is no device. Expected cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"--device {wanted}: torch sees {torch.cuda.device_count()} CUDA devices here. Use --device cpu"
        )
    return device


def is_certainly_cpu(wanted: str | None) -> bool:
    """Whether the device will be the CPU, told without a word to CUDA, which does not survive a fork.

    To count its devices may initialise CUDA's driver, so by default there must not be any to be seen.
    """
    if wanted is not None:
        return wanted == "cpu"
    built_for_cpu = torch.version.cuda is None and torch.version.hip is None
    return built_for_cpu or not any(map(os.path.exists, _GPU_NODES))


def load_network(model_dir: Path, class_name: str | None, device: torch.device) -> Network:
    """Load what the folder holds: ``model.py`` with a state_dict, or one program.

    Raises:
        ModelLoadError: says what was found, what was expected, and what to do.
    """
    if not model_dir.is_dir():
        raise ModelLoadError(f"{model_dir.name} is no folder. Expected one with model.py and model.pt.")
    folder = ModelFolder.of(model_dir)
    model_file, weights_file = folder.model_file(), folder.weights_file()
    kind = kind_of(weights_file) if weights_file else None
    if model_file is None:
        return _load_program(folder, weights_file, kind, device)
    if weights_file and kind and kind.is_program:
        raise ModelLoadError(
            f"{weights_file.name} is {kind.value}, which is served without a Python file. {folder.found()} "
            f"Remove {', '.join(folder.scripts)}, or save the weights alone: {SAVE_LINE}"
        )
    user_modules = UserModules(model_dir)
    try:
        module = _load_module(folder, model_file, weights_file, class_name, user_modules)
    except BaseException:
        user_modules.close()
        raise
    module.eval()
    module.to(device)
    source = f"{model_file.name} + {weights_file.name}" if weights_file else model_file.name
    return Network(
        module,
        arguments_of(module.forward),
        f"class {type(module).__name__} of {source}",
        module=module,
        close=user_modules.close,
    )


def _load_program(
    folder: ModelFolder, weights_file: Path | None, kind: FileKind | None, device: torch.device
) -> Network:
    if weights_file is None or kind is None:
        raise ModelLoadError(
            f"No model here. {folder.found()} Expected model.py and model.pt (a state_dict), or one "
            f"TorchScript or .pt2 program."
        )
    if kind.is_program:
        return load_program(weights_file, kind, device)
    expected = (
        "Expected a model.py beside it that defines the network."
        if kind.is_state_dict
        else "Expected model.py and model.pt (a state_dict), or one TorchScript or .pt2 program."
    )
    raise ModelLoadError(
        f"{weights_file.name} is {kind.value}, and there is no Python file. {folder.found()} {expected}"
    )


def _load_module(
    folder: ModelFolder,
    model_file: Path,
    weights_file: Path | None,
    class_name: str | None,
    user_modules: UserModules,
) -> torch.nn.Module:
    user_module = user_modules.import_file(model_file)
    cls = model_class.find_class(user_module, model_file.name, class_name)
    module = model_class.build(cls, model_file.name, user_modules)
    if weights_file:
        state_dict = weights.read_state_dict(weights_file, kind_of(weights_file))
        weights.put_into(module, state_dict, weights_file.name)
    elif module.state_dict():
        raise ModelLoadError(
            f"No weights for {cls.__name__}. {folder.found()} Expected model.pt, or one file *.pt, *.pth, "
            f"*.bin or *.safetensors: {SAVE_LINE}"
        )
    return module
