"""Which part of a folder is the model: junk left out, one redundant top folder left out.

Rules of the room: looks at names, changes nothing. The same rules for what is unpacked and what is packed.
"""

from __future__ import annotations

from pathlib import Path

_JUNK = frozenset(
    ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__", ".ipynb_checkpoints", ".git")
)


def is_junk(name: str) -> bool:
    """Whether a file or folder of that name is an operating system's or a tool's, and no part of a model.

    >>> is_junk("._model.py"), is_junk("model.py")
    (True, False)
    """
    return name in _JUNK or name.startswith("._")


def is_version(name: str) -> bool:
    """Whether a folder of that name is a model's version: digits only.

    >>> is_version("0001"), is_version("v1")
    (True, False)
    """
    return name.isascii() and name.isdigit()


def model_root(folder: Path) -> Path:
    """The folder that holds the model: one redundant top folder is left out.

    ``iris/0001/saved_model.pb`` gives ``iris``, and so does ``iris/model.py``. A top folder that is a
    version (``0001``) is not redundant. Junk such as ``__MACOSX`` beside it does not count.
    """
    entries = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
    if len(entries) != 1:
        return folder
    only = entries[0]
    return folder if is_version(only.name) or only.is_symlink() or not only.is_dir() else only
