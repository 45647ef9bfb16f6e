"""Weights files: read a state_dict without running code, and put it into a network.

Rules of the room: ``torch.load`` is called in one place, with ``weights_only=True`` and no other way to try:
a pickle is a program. (``export_check`` tries the values of a ``.pt2`` in the same way.) Even so torch must
be 2.10 or newer (CVE-2025-32434, CVE-2026-24747). Files whose format allows it are memory-mapped and become
the parameters as they are, so N worker processes hold one copy of the pages. A mapped file must not be
overwritten in place while it is served: rename a new one over it.
"""

from __future__ import annotations

import itertools
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from modelserver import ModelLoadError
from pytorchserver.folder import SAVE_LINE, FileKind

StateDict = dict[str, Any]

_WRAPPERS = ("state_dict", "model_state_dict")
_PARALLEL_PREFIX = "module."
_SHOWN = 5


def refuse_old_torch() -> None:
    """Refuse a torch whose ``torch.load`` is unsafe with ``weights_only=True``, too.

    Raises:
        ModelLoadError: it is older than 2.10.
    """
    if torch.torch_version.TorchVersion(torch.__version__) < "2.10":
        raise ModelLoadError(
            f"torch {torch.__version__} cannot load weights safely (CVE-2026-24747). "
            f"Run: pip install 'torch>=2.10'"
        )


def read_state_dict(path: Path, kind: FileKind) -> StateDict:
    """Read ``path`` as a state_dict, on the CPU. A checkpoint that holds one is unwrapped.

    Raises:
        ModelLoadError: the file holds something else, or torch is too old; says what.
    """
    refuse_old_torch()
    if not kind.is_state_dict:
        raise ModelLoadError(f"{path.name} is {kind.value}. Expected a state_dict: {SAVE_LINE}")
    if path.suffix == ".safetensors" and kind is not FileKind.SAFETENSORS:
        raise ModelLoadError(f"{path.name} is {kind.value}, not safetensors. Rename it to model.pt.")
    if kind is FileKind.SAFETENSORS:
        return _read_safetensors(path)
    return _unwrap(_read_torch(path, mapped=kind is FileKind.TORCH_ZIP), path.name)


def _read_safetensors(path: Path) -> StateDict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelLoadError(
            f"{path.name} needs a package that is not installed: pip install safetensors"
        ) from error
    try:
        return dict(load_file(path))  # maps the file by itself
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} is a damaged safetensors file: {error}") from error


def _read_torch(path: Path, *, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            # Of pickle protocols other than 2: a note to torch's developers.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(_refusal(path.name, str(error))) from error
    except Exception as error:  # whatever reading a damaged file ends in
        first_line = str(error).partition("\n")[0]
        raise ModelLoadError(
            f"{path.name} is damaged or truncated: {type(error).__name__}: {first_line}"
        ) from error


def _refusal(name: str, text: str) -> str:
    """Say what the pickle wanted to run: ``torch.load`` names it among much advice to run it."""
    if "Unsupported operand" in text:  # pickle_protocol=4, or a pickle that torch.save did not write
        return (
            f"{name} is written in a pickle protocol that cannot be read without running code. "
            f"Save it again, where it was trained, without pickle_protocol: {SAVE_LINE}"
        )
    match = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    held = f" It holds {match[1]}." if match else ""
    return (
        f"{name} is a pickle of Python objects, such as a whole module, and not a state_dict.{held} "
        f"Loading it could run any code, so it is refused. Save the weights alone, where it was trained:\n"
        f'    model = torch.load("{name}", weights_only=False)\n'
        f"    {SAVE_LINE}"
    )


def _unwrap(loaded: Any, name: str) -> StateDict:
    """The state_dict in what the file held."""
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
        # An empty one is right for a network without parameters.
        if all(isinstance(key, str) for key in loaded) and (not loaded or _has_tensor(loaded.values())):
            state_dict: StateDict = loaded
            return state_dict
        keys = ", ".join(str(key)[:40] for key in itertools.islice(loaded, _SHOWN))
        found = f"a dict with the keys {keys}"
    else:
        found = f"a {type(loaded).__name__}"
    raise ModelLoadError(f"{name} holds {found}. Expected a state_dict: {SAVE_LINE}")


def _has_tensor(values: Iterable[Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in values)


def put_into(module: torch.nn.Module, state_dict: StateDict, name: str) -> None:
    """Make the tensors of ``state_dict`` the parameters and buffers of ``module``, without a copy.

    The network keeps the dtypes that its author gave it: a tensor of another dtype is converted (and then
    is this process's own). Tied parameters stay tied. No parameter wants a gradient afterwards.

    Raises:
        ModelLoadError: keys are missing or left over, or shapes differ; lists them.
    """
    own = dict(module.state_dict(keep_vars=True))
    _strip_parallel_prefix(state_dict, own)
    groups = _tied_parameters(module)
    for group in groups:
        stored = [state_dict[key] for key in group if key in state_dict]
        for key in group if stored else ():  # safetensors stores one of them
            state_dict.setdefault(key, stored[0])
    for key, value in state_dict.items():
        if isinstance(value, torch.Tensor) and isinstance(own.get(key), torch.Tensor):
            state_dict[key] = value.to(own[key].dtype)
    try:
        module.load_state_dict(state_dict, strict=True, assign=True)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelLoadError(_mismatch(state_dict, own, type(module).__name__, name, error)) from error
    for group in groups:
        _tie(module, group)
    module.requires_grad_(False)


def _strip_parallel_prefix(state_dict: StateDict, own: StateDict) -> None:
    """Take off the ``module.`` that DataParallel puts before every key."""
    wrapped = all(key.startswith(_PARALLEL_PREFIX) for key in state_dict)
    if wrapped and not any(key.startswith(_PARALLEL_PREFIX) for key in own):
        consume_prefix_in_state_dict_if_present(state_dict, _PARALLEL_PREFIX)


def _tied_parameters(module: torch.nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(module: torch.nn.Module, group: list[str]) -> None:
    """Let all names of the group be the last one's parameter: a copying load would end with its values."""
    shared = module.get_parameter(group[-1])
    for name in group[:-1]:
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, shared)


def _mismatch(state_dict: StateDict, own: StateDict, class_name: str, name: str, error: Exception) -> str:
    parts = list(_differences(state_dict, own))
    if not parts:  # the module's own check
        parts = [str(error).partition("\n")[2].strip() or str(error)]
    return (
        f"{name} does not fit {class_name}: {'; '.join(parts)}. Use the model.py that the weights were "
        f"trained with, and save them with {SAVE_LINE}"
    )


def _differences(state_dict: StateDict, own: StateDict) -> Iterator[str]:
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    shapes = [
        f"{key} is {list(state_dict[key].shape)} in the file and {list(own[key].shape)} in the class"
        for key in own
        if key in state_dict and not _same_shape(state_dict[key], own[key])
    ]
    if missing:
        yield f"missing in the file: {_cut(missing)}"
    if unexpected:
        yield f"unexpected in the file: {_cut(unexpected)}"
    if shapes:
        yield f"other shapes: {_cut(shapes)}"


def _same_shape(one: Any, other: Any) -> bool:
    lazy = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return True
    return isinstance(one, lazy) or isinstance(other, lazy) or one.shape == other.shape


def _cut(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
