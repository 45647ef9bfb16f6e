"""Which folder is served: TensorFlow Serving's version folders, or a SavedModel at the top.

Rules of the room: looks at names only, imports no TensorFlow. Every refusal says what was found, the layout
wanted and the command that makes it so; paths in it are relative to the model folder.

    iris/0001/saved_model.pb       a version folder: its name is a whole number, 0001 is version 1
    iris/0002/saved_model.pb       the highest number is served
    iris/saved_model.pb            no versions
"""

from __future__ import annotations

import logging
from pathlib import Path

from modelserver import ModelLoadError

_GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
_WANTED = "Wanted: 0001/saved_model.pb, the folder named by a whole number, or saved_model.pb at the top."
_SHOWN = 8
_log = logging.getLogger("modelserver.model")


def looks_like_saved_model(folder: Path) -> bool:
    """Whether the folder is TensorFlow's to load.

    Also true for a layout that cannot be served but was plainly meant to be (``v1/saved_model.pb``, an empty
    ``0001/``), so that loading can say what is wrong with it. A version's own folder holds the graph, or
    nothing that can be loaded: it may not be whole yet.
    """
    if _holds_graph(folder) or _version(folder) is not None:
        return _holds_graph(folder)
    return any(
        _holds_graph(child) or (_version(child) is not None and not any(child.glob("*.py")))
        for child in _folders(folder)
    )


def find_saved_model(model_dir: Path) -> tuple[Path, int | None]:
    """Find the SavedModel to serve.

    Returns:
        Its folder, and its version number (``None`` when it lies at the top).

    Raises:
        ModelLoadError: there is none; the text says how to make one of what is there.
    """
    if not model_dir.is_dir():
        raise ModelLoadError(f"The model folder {model_dir} does not exist.")
    # Sorted by name before number: of 1/ and 0001/ the last wins, as in TensorFlow Serving.
    numbered = sorted(
        ((number, child) for child in _folders(model_dir) if (number := _version(child)) is not None),
        key=lambda item: (item[0], item[1].name),
    )
    complete = [(number, child) for number, child in numbered if _holds_graph(child)]
    if complete:
        number, folder = complete[-1]
        for higher, skipped in numbered:
            if higher > number:
                _log.warning("version folder %s/ holds no saved_model.pb and is left out", skipped.name)
        return folder, number
    if _holds_graph(model_dir):
        return model_dir, None
    raise ModelLoadError(_explain(model_dir, [child for _, child in numbered]))


def _version(folder: Path) -> int | None:
    """The version a folder's name stands for, or ``None``: digits only, leading zeros dropped."""
    name = folder.name
    return int(name) if name.isascii() and name.isdigit() else None


def _holds_graph(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _GRAPH_FILES)


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _explain(model_dir: Path, numbered: list[Path]) -> str:
    found = f"No SavedModel to serve. Found: {_listing(model_dir)}. {_WANTED}"
    misnamed = [child.name for child in _folders(model_dir) if _holds_graph(child)]
    if misnamed:
        return (
            f'{found} "{misnamed[-1]}" is not a whole number. '
            f"Fix, in the model folder: mv {misnamed[-1]} {_next_number(numbered)}"
        )
    inner = next((c for c in _folders(model_dir) if _version(c) is None and looks_like_saved_model(c)), None)
    if inner is not None:
        return f"{found} It lies one folder deeper. Fix: --model_dir {model_dir.name}/{inner.name}"
    if not numbered:
        return f"{found} Fix: export with model.export(path) or tf.saved_model.save(module, path)."
    folder = numbered[-1]
    inner = next((child for child in _folders(folder) if _holds_graph(child)), None)
    if inner is not None:
        return f"{found} Fix, in the model folder: mv {folder.name}/{inner.name}/* {folder.name}/"
    return (
        f"{found} {folder.name}/ has no saved_model.pb: it holds {_listing(folder)}. Copy the whole "
        f"SavedModel into it. Fix, in the model folder: cp -r SAVED_MODEL/. {folder.name}/"
    )


def _next_number(numbered: list[Path]) -> int:
    return 1 + max((_version(child) or 0 for child in numbered), default=0)


def _listing(folder: Path) -> str:
    names = [
        f"{child.name}/" if child.is_dir() else child.name
        for child in sorted(folder.iterdir())
        if not child.name.startswith(".")
    ]
    shown = ", ".join(names[:_SHOWN]) or "nothing"
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
