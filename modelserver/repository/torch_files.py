"""Tell PyTorch's own files apart without PyTorch: what ``torch.save`` and its relatives write is a zip.

Rules of the room: looks at names in a zip's directory, reads no pickle, imports no torch. ``archives``
asks so that ``model.pt`` is not taken for an archive of a model, ``packing`` to know what needs a model.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

from modelserver.repository.archive_members import HEAD, Refused, UnpackLimits, archive_kind
from modelserver.repository.zip_members import zip_names

TorchFile = Literal["TorchScript", "torch.export", "torch.save"]


def torch_file(path: Path) -> TorchFile | None:
    """What wrote the file: ``TorchScript`` and ``torch.export`` hold a program, ``torch.save`` only values.

    ``None``: none of them, or the old format of ``torch.save`` (before PyTorch 1.6), which is no zip.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return torch_file_of(file, path.stat().st_size)


def torch_file_of(file: BinaryIO, size: int) -> TorchFile | None:
    """``torch_file`` of a file that is open. Moves its position."""
    file.seek(0)
    if archive_kind(file.read(HEAD)) != "zip":
        return None
    try:
        names = zip_names(file, size, UnpackLimits())
    except Refused:
        return None
    tops = {name.split(b"/")[0] for name in names}
    inside = {name.partition(b"/")[2] for name in names}
    if b"serialized_exported_program.json" in tops | inside:  # torch.export before PyTorch 2.7
        return "torch.export"
    if len(tops) != 1:  # they put everything into one folder, named after the file
        return None
    if {b"archive_format", b"models/model.json"} <= inside:
        return "torch.export"
    if not {b"data.pkl", b"version"} <= inside:
        return None
    has_code = b"constants.pkl" in inside and any(name.startswith(b"code/") for name in inside)
    return "TorchScript" if has_code else "torch.save"
