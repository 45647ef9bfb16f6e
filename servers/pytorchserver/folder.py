"""What lies in a model folder: which file is the code, which one holds the weights, and of what kind it is.

Rules of the room: looks at names and at the first bytes or the zip directory of a file; imports no torch and
reads no weights. Messages name files, never the folder's path.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from modelserver import ModelLoadError

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".pt2")
MODEL_FILE = "model.py"
WEIGHTS_FILE = "model.pt"
SAVE_LINE = 'torch.save(model.state_dict(), "model.pt")'

_SHOWN = 12


class FileKind(Enum):
    """What a weights file is, in words for a message."""

    TORCH_ZIP = "a torch.save file"
    TORCH_LEGACY = "a torch.save file in the format before torch 1.6"
    SAFETENSORS = "a safetensors file"
    TORCHSCRIPT = "a TorchScript program"
    EXPORTED = "a torch.export program"
    AOT_COMPILED = "a package compiled by AOTInductor, which holds native code"
    PICKLE = "a Python pickle that torch.save did not write"
    ZIP = "a zip archive that torch did not write"
    DAMAGED_ZIP = "a damaged or truncated zip file"
    HDF5 = "an HDF5 file, as Keras writes"
    LFS_POINTER = "a Git LFS pointer, not the file itself (run: git lfs pull)"
    MARKUP = "a web page, not weights: the download failed"
    EMPTY = "empty (0 bytes)"
    UNKNOWN = "no weights format that is known here"

    @property
    def is_state_dict(self) -> bool:
        """Whether it may hold a state_dict, to be loaded into a class of ``model.py``."""
        return self in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY, FileKind.SAFETENSORS)

    @property
    def is_program(self) -> bool:
        """Whether it is a network by itself, without ``model.py``."""
        return self in (FileKind.TORCHSCRIPT, FileKind.EXPORTED)


@dataclass(frozen=True)
class ModelFolder:
    """The files at the top level of a model folder, sorted by name."""

    path: Path
    names: tuple[str, ...]
    scripts: tuple[str, ...]
    """``*.py``, without ``__init__.py``."""
    weights: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> ModelFolder:
        """Look at ``path``. Hidden files do not count: macOS's tar adds a ``._model.py`` to an archive."""
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [entry.name for entry in entries if entry.is_file()]
        return cls(
            path,
            names=tuple(entry.name + "/" * entry.is_dir() for entry in entries),
            scripts=tuple(name for name in files if name.endswith(".py") and name != "__init__.py"),
            weights=tuple(name for name in files if name.endswith(WEIGHT_SUFFIXES)),
        )

    def model_file(self) -> Path | None:
        """The file that defines the class: the only ``*.py``, or ``model.py`` among several.

        Raises:
            ModelLoadError: several and none is called ``model.py``.
        """
        if not self.scripts:
            return None
        if MODEL_FILE in self.scripts:
            return self.path / MODEL_FILE
        if len(self.scripts) > 1:
            raise ModelLoadError(
                f"More than one Python file is there and none is {MODEL_FILE}: {', '.join(self.scripts)}. "
                f"Rename the one that defines the network to {MODEL_FILE}; the others may stay as helpers."
            )
        return self.path / self.scripts[0]

    def weights_file(self) -> Path | None:
        """``model.pt``, or the only file with a suffix of weights.

        Raises:
            ModelLoadError: several and none is called ``model.pt``.
        """
        if not self.weights:
            return None
        if WEIGHTS_FILE in self.weights:
            return self.path / WEIGHTS_FILE
        if len(self.weights) > 1:
            raise ModelLoadError(
                f"More than one weights file is there and none is {WEIGHTS_FILE}: "
                f"{', '.join(self.weights)}. Keep one of them, or rename the right one to {WEIGHTS_FILE}."
            )
        return self.path / self.weights[0]

    def found(self) -> str:
        """The names there, for a message."""
        if not self.names:
            return "Found: nothing, the folder is empty."
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return f"Found: {', '.join(self.names[:_SHOWN])}{more}."


_TORCH_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled serialization.MAGIC_NUMBER, then STOP


def kind_of(path: Path) -> FileKind:
    """Tell a weights file by its content; its name is believed only for ``.safetensors``."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return FileKind.EMPTY
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if _TORCH_LEGACY_MAGIC in head:
        return FileKind.TORCH_LEGACY
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return FileKind.SAFETENSORS
    signatures = {
        b"\x89HDF\r\n": FileKind.HDF5,
        b"version https://git-lfs": FileKind.LFS_POINTER,
        b"<": FileKind.MARKUP,
        b"\x80": FileKind.PICKLE,
    }
    return next((kind for start, kind in signatures.items() if head.startswith(start)), FileKind.UNKNOWN)


def _kind_of_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            # Every torch format puts its members under one folder, named after the file or `archive`.
            members = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return FileKind.DAMAGED_ZIP
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        return FileKind.TORCHSCRIPT
    if any(name.startswith("data/aotinductor/") for name in members):
        return FileKind.AOT_COMPILED
    if any(name.startswith("models/") for name in members) or "serialized_exported_program.json" in members:
        return FileKind.EXPORTED
    return FileKind.TORCH_ZIP if "data.pkl" in members else FileKind.ZIP
