"""Which class of ``model.py`` is the network, and building it.

Rules of the room: reads the module that ``user_module`` imported; knows no weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

import torch

from modelserver import ModelLoadError
from pytorchserver.user_module import UserModules

DEFAULT_CLASS = "PyTorchModel"
"""KServe's default for ``--model_class_name``."""

ModuleClass = type[torch.nn.Module]


def find_class(module: ModuleType, file_name: str, wanted: str | None) -> ModuleClass:
    """The class to build.

    In this order: the one asked for; ``PyTorchModel``; the only ``nn.Module`` subclass that the file defines
    and that can be built without arguments; of several, the only one that no other uses as a part.

    Raises:
        ModelLoadError: none or several; lists them and names the option.
    """
    here = _classes(module)
    if wanted:
        return _class_called(wanted, here, file_name)
    if DEFAULT_CLASS in here:
        return here[DEFAULT_CLASS]
    defined = [cls for cls in here.values() if cls.__module__ == module.__name__ and _has_forward(cls)]
    candidates = [cls for cls in defined if not _required_arguments(cls)]
    whole = candidates if len(candidates) == 1 else _used_by_no_other(candidates, defined, module)
    if len(whole) == 1:
        return whole[0]
    if candidates:
        raise ModelLoadError(
            f"{file_name} defines {len(candidates)} classes that could be the network: "
            f"{_names(candidates)}. Choose one with --model_class_name."
        )
    others = [cls for cls in here.values() if cls not in defined]
    raise ModelLoadError(
        f"{file_name} defines no torch.nn.Module subclass that can be built without arguments"
        + (f"; it defines {_listed(defined)}" if defined else "")
        + (f"; it imports {_names(others)}" if others else "")
        + (
            ". Give the parameters of __init__ default values, or choose a class with --model_class_name."
            if here
            else ". Define the network in it: class Net(torch.nn.Module), built by Net()."
        )
    )


def build(cls: ModuleClass, file_name: str, user_modules: UserModules) -> torch.nn.Module:
    """Build the network as its author does, with random weights.

    Raises:
        ModelLoadError: ``__init__`` wants arguments, or raised.
    """
    required = _required_arguments(cls)
    if required:
        raise ModelLoadError(
            f"{cls.__name__} in {file_name} needs arguments: {', '.join(required)}. "
            f"Give the parameters of __init__ default values."
        )
    try:
        return cls()
    except (Exception, SystemExit) as error:
        raise user_modules.error(error, f"{cls.__name__}() of {file_name} failed") from error


def _classes(module: ModuleType) -> dict[str, ModuleClass]:
    """Every ``nn.Module`` subclass in the file's names, torch's own left out."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and value.__module__.partition(".")[0] != "torch"
    }


def _class_called(wanted: str, here: dict[str, ModuleClass], file_name: str) -> ModuleClass:
    if wanted in here:
        return here[wanted]
    known = f"It has {_names(here.values())}." if here else "It has no torch.nn.Module subclass."
    raise ModelLoadError(
        f"{file_name} has no torch.nn.Module subclass called {wanted}. {known} "
        f"Set --model_class_name to the right one, or leave it out."
    )


def _has_forward(cls: ModuleClass) -> bool:
    return cls.forward is not torch.nn.Module.forward


def _required_arguments(cls: ModuleClass) -> list[str]:
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):  # no signature: let the call itself tell
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _used_by_no_other(
    candidates: list[ModuleClass], defined: list[ModuleClass], module: ModuleType
) -> list[ModuleClass]:
    """The candidates that no other class of the file builds, calls or inherits from, directly or through
    the file's functions. Told by the names in the compiled code: nothing is run."""
    reach = {cls: _reached_names(cls, module) for cls in defined}
    return [
        cls
        for cls in candidates
        if not any(cls.__name__ in reach[other] for other in defined if other is not cls)
    ]


def _reached_names(start: ModuleClass, module: ModuleType) -> set[str]:
    reached: set[str] = set()
    todo: list[Any] = [start]
    while todo:
        for name in _names_used(todo.pop()):
            if name in reached:
                continue
            reached.add(name)
            target = getattr(module, name, None)
            if getattr(target, "__module__", None) == module.__name__:
                todo.append(target)
    return reached


def _names_used(target: Any) -> Iterator[str]:
    if isinstance(target, type):
        yield from (base.__name__ for base in target.__mro__[1:])
        for member in vars(target).values():
            if isinstance(member, type):
                yield member.__name__
            else:
                yield from _names_used(inspect.unwrap(getattr(member, "__func__", member)))
    elif isinstance(code := getattr(target, "__code__", None), CodeType):
        yield from _names_in(code)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _names(classes: Iterable[ModuleClass]) -> str:
    return ", ".join(cls.__name__ for cls in classes)


def _listed(classes: Iterable[ModuleClass]) -> str:
    """``Net (needs hidden, depth), Block``."""
    return ", ".join(
        f"{cls.__name__} (needs {', '.join(required)})"
        if (required := _required_arguments(cls))
        else cls.__name__
        for cls in classes
    )
