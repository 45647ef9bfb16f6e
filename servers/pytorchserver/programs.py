"""Networks that need no ``model.py``: TorchScript and ``torch.export`` programs.

Rules of the room: the only user of ``torch.jit`` and ``torch.export``. Both formats are programs of their own
small languages, not pickles; what else a ``.pt2`` may carry is refused by ``export_check``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from modelserver import ModelLoadError
from pytorchserver.folder import FileKind
from pytorchserver.network import ANY, Arguments, Network, TensorInfo


def load_program(path: Path, kind: FileKind, device: torch.device) -> Network:
    """Load the program that ``path`` holds.

    Raises:
        ModelLoadError: damaged, of another torch, or carrying code.
    """
    load = _load_torchscript if kind is FileKind.TORCHSCRIPT else _load_exported
    try:
        return load(path, device)
    except ModelLoadError:
        raise
    except Exception as error:  # whatever reading a damaged file ends in
        first_line = str(error).partition("\n")[0].replace(f"{path.parent}/", "")
        raise ModelLoadError(
            f"{path.name} is {kind.value} that torch {torch.__version__} cannot load: "
            f"{type(error).__name__}: {first_line}. Save it again with this version of torch."
        ) from error


def _load_torchscript(path: Path, device: torch.device) -> Network:
    with warnings.catch_warnings():
        # torch 2.13 advises torch.export to authors. Who serves a file that exists cannot follow.
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]  # untyped in torch
    module.eval()
    declared = module.forward.schema.arguments[1:]  # without self
    arguments = Arguments(
        names=tuple(argument.name for argument in declared),
        required=tuple(argument.name for argument in declared if not argument.has_default_value()),
    )

    def call(*args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        try:
            return module(*args, **kwargs)
        except (torch.jit.Error, RuntimeError) as error:
            # The text is a listing with the paths of the author's machine; its last line is the error.
            lines = [line for line in str(error).splitlines() if line.strip()]
            if len(lines) < 2:
                raise
            raise RuntimeError(lines[-1].removeprefix("RuntimeError: ")) from error

    return Network(call, arguments, f"TorchScript program in {path.name}", module)


def _load_exported(path: Path, device: torch.device) -> Network:
    from pytorchserver.export_check import refuse_code

    refuse_code(path)
    if path.suffix == ".pt2":
        program = torch.export.load(path)
    else:  # torch wants the suffix of a path, and does not ask an open file for one
        with path.open("rb") as file:
            program = torch.export.load(file)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    names, keywords = _argument_names(program, path.name)
    inputs = _inputs(program, names)
    constants = {
        name: spec.arg.value
        for name, spec in zip(names, _user_inputs(program), strict=True)
        if isinstance(spec.arg, torch.export.graph_signature.ConstantArgument)
    }
    positional = [name for name in names if name not in keywords]
    graph = program.module()

    def call(*args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        # A program takes its arguments as it was exported with: these by place, those by name.
        given = {**constants, **dict(zip(inputs, args, strict=False)), **kwargs}
        return graph(*(given[name] for name in positional), **{name: given[name] for name in keywords})

    arguments = Arguments(names=tuple(inputs), required=tuple(inputs))
    by_place, by_name = program.example_inputs or ((), {})
    examples = {**dict(zip(names, by_place, strict=False)), **by_name}
    sizes = {name: tuple(value.shape) for name, value in examples.items() if isinstance(value, torch.Tensor)}
    return Network(call, arguments, f"torch.export program in {path.name}", inputs=inputs, sizes=sizes)


def _user_inputs(program: torch.export.ExportedProgram) -> list[torch.export.graph_signature.InputSpec]:
    kind = torch.export.graph_signature.InputKind.USER_INPUT
    return [spec for spec in program.graph_signature.input_specs if spec.kind is kind]


def _argument_names(program: torch.export.ExportedProgram, file_name: str) -> tuple[list[str], list[str]]:
    """All arguments in order, and those of them that go by keyword."""
    by_place, by_keyword = program.call_spec.in_spec.children()
    if any(not spec.is_leaf() for spec in (*by_place.children(), *by_keyword.children())):
        raise ModelLoadError(
            f"{file_name} takes lists or dicts of tensors, which JSON rows cannot be turned into. Export it "
            f"with tensors as its arguments, or serve it from a modelserver.Model of your own."
        )
    signature = program.module_call_graph[0].signature
    names = list(signature.forward_arg_names or ()) if signature else []
    return names or [spec.arg.name for spec in _user_inputs(program)], list(by_keyword.context or ())


def _inputs(program: torch.export.ExportedProgram, names: list[str]) -> dict[str, TensorInfo]:
    """The tensors that the program takes, with dtype and shape, as it states them."""
    stated = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    infos = {}
    for name, spec in zip(names, _user_inputs(program), strict=True):
        value = stated.get(spec.arg.name)
        if isinstance(value, torch.Tensor):
            shape = tuple(size if isinstance(size, int) else ANY for size in value.shape)
            infos[name] = TensorInfo(value.dtype, shape)
    return infos
