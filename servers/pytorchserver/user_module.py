"""Import of a user's ``model.py`` and its helpers, so that nothing of it shows in the rest of the program.

Two models in one process may both have a ``model.py`` that says ``import helpers``, at the top of the file or
inside ``forward`` an hour later, and each must get its own. So each model folder becomes a package with a
name that nobody else uses (``_pytorchserver_model_7``), and its modules live in ``sys.modules`` under that
name only (they must be there: dataclasses, pickling and ``inspect`` look a class's module up).

How a plain ``import helpers`` finds them: CPython takes ``__import__`` from the ``__builtins__`` of the
module that the importing *function was defined in*. The modules of a folder get builtins of their own, whose
``__import__`` looks into the folder first and asks the real one otherwise. It needs no lock, works at any
time and on any thread, and other modules never see it. The usual way, the folder on ``sys.path`` during the
import, would fail for an import inside ``forward`` and for two threads that load at once.

Not covered: ``importlib.import_module("helpers")``, which bypasses ``__import__``; ``from . import helpers``
and plain imports work. No ``.pyc`` is written or read: a model folder may be read-only, and a file that was
replaced within a second must not run as its old self.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from modelserver import ModelLoadError

_numbers = itertools.count(1)


class UserModules:
    """The Python modules of one model folder. ``close`` forgets them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = f"_pytorchserver_model_{next(_numbers)}"
        self._own_names = _top_level_modules(folder)
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._finder = _FolderFinder(self.package, self._builtins)
        package = ModuleType(self.package, "Modules of one model folder.")
        package.__spec__ = ModuleSpec(self.package, None, is_package=True)
        package.__path__ = [str(folder)]
        sys.modules[self.package] = package
        # First: the standard finder would load sub-packages with the ordinary builtins.
        sys.meta_path.insert(0, self._finder)

    def import_file(self, path: Path) -> ModuleType:
        """Run a file of the folder as a module.

        Raises:
            ModelLoadError: the file raised; names its line in the user's code. The cause is chained.
        """
        name = f"{self.package}.{path.stem.replace('.', '_')}"
        loader = _UserLoader(name, str(path), user_builtins=self._builtins)
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        if spec is None:
            raise ImportError(f"cannot import {path.name}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise self.error(error, f"{path.name} cannot be imported") from error
        return module

    def error(self, error: BaseException, what: str) -> ModelLoadError:
        """An error of the user's code, told by file and line of that code and free of paths."""
        text = str(error).replace(f"{self.package}.", "").replace(f"{self.folder}/", "")
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{Path(error.filename).name} line {error.lineno}"
            text = error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if Path(frame.filename).is_relative_to(self.folder)]
            where = f"{Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name:
            missing = error.name.removeprefix(f"{self.package}.")
            hint = f" Install {missing} where the server runs, or put {missing}.py beside it."
        told = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return ModelLoadError(f"{what}: {where and where + ': '}{told}.{hint}".replace("..", "."))

    def close(self) -> None:
        """Take the folder's modules out of the program."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == self.package]:
            del sys.modules[name]

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """``__import__`` as the folder's modules see it."""
        top = name.partition(".")[0]
        if level or top not in self._own_names:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist, 0)
        # `import a.b` binds `a`: without a fromlist the real one answers with the outermost package.
        return module if fromlist else sys.modules[f"{self.package}.{top}"]


def _top_level_modules(folder: Path) -> frozenset[str]:
    """What ``import NAME`` may find in the folder. As in Python, a folder without ``__init__.py`` counts
    only if nothing else is called so: ``numpy/`` with data in it must not hide numpy."""
    names = set()
    for entry in folder.iterdir():
        if entry.is_dir():
            if not entry.name.isidentifier() or not any(entry.rglob("*.py")):
                continue
            if (entry / "__init__.py").is_file() or not _is_installed(entry.name):
                names.add(entry.name)
        elif entry.suffix == ".py" or entry.name.endswith(tuple(EXTENSION_SUFFIXES)):
            names.add(entry.name.partition(".")[0])
    return frozenset(names)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # loaded without a spec, as __main__ is
        return True


class _FolderFinder(MetaPathFinder):
    """Finds modules below one package name, on the ``__path__`` of their parent."""

    def __init__(self, package: str, user_builtins: dict[str, Any]) -> None:
        self._prefix = f"{package}."
        self._loaders: Any = (  # FileFinder calls what is declared as a class: a partial will do
            (functools.partial(_UserLoader, user_builtins=user_builtins), [".py"]),
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
        )

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        for folder in path or ():
            spec = FileFinder(folder, *self._loaders).find_spec(fullname, target)
            if spec is not None:
                return spec
        return None


class _UserLoader(SourceFileLoader):
    """Runs a source file with its folder's builtins, always from the source."""

    def __init__(self, fullname: str, path: str, *, user_builtins: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._user_builtins = user_builtins

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._user_builtins
        super().exec_module(module)
