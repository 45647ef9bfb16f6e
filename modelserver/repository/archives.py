"""Archives of models on the disk: tell them from other files, unpack them whole or not at all.

This is the door of the house's archives: ``pack`` and ``model_root`` are to be had here, too. Rules of the
room: everything that is written goes into a new folder beside the target, which is renamed into place when
the last byte is right. Files and folders are made here, one by one, from checked paths; no link is ever made
or followed. A file's name says nothing about what it is. Called by the command line and the repository;
every failure is an ``ArchiveError`` that a user can act on.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelserver.errors import ArchiveError
from modelserver.repository.archive_members import (
    HEAD,
    Budget,
    Member,
    Refused,
    UnpackLimits,
    archive_kind,
    shown,
)
from modelserver.repository.model_folder import is_junk, model_root
from modelserver.repository.packing import pack
from modelserver.repository.tar_members import tar_members
from modelserver.repository.torch_files import torch_file_of
from modelserver.repository.zip_members import zip_members

__all__ = ["DEFAULT_LIMITS", "UnpackLimits", "is_archive", "is_junk", "model_root", "pack", "unpack"]

DEFAULT_LIMITS = UnpackLimits()

_ACCEPTED = "a .tar.gz, .tgz, .tar or .zip"
_FIX_PACK = "Make one with `python -m modelserver pack FOLDER -o model.tgz`."
_FIX_DISK = "Free some space there, or set TMPDIR to a folder that can be written and has room."
_OTHER_FILES = (
    (b"(\xb5/\xfd", "a Zstandard file"),
    (b"7z\xbc\xaf", "a 7-Zip file"),
    (b"Rar!", "a RAR file"),
    (b"\x89HDF", "an HDF5 (Keras) file"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself"),
    (b"<", "HTML or XML, perhaps an error page that was downloaded in its place"),
)


def is_archive(path: Path) -> bool:
    """Whether the file is an archive to unpack, by its first bytes; the name is not looked at.

    PyTorch's own files (``model.pt``) are zips, too, but nothing to unpack: ``False``.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            kind = archive_kind(file.read(HEAD))
            return kind is not None and torch_file_of(file, path.stat().st_size) is None
    except OSError:
        return False


def unpack(archive: Path, target: Path, limits: UnpackLimits = DEFAULT_LIMITS) -> None:
    """Unpack a tar (plain, gzip, bzip2 or xz) or a zip into a folder that does not exist yet.

    Files get mode 0644 and folders 0755, whatever the archive says; owners and times are not kept.

    Args:
        archive: the file. Its name means nothing.
        target: the folder to make, in a folder that exists. An empty folder is replaced.
        limits: how much the archive may be.

    Raises:
        ArchiveError: the archive is damaged, no archive, over a limit, or holds anything but files and
            folders inside it; or the disk does not take it. ``target`` is then as it was, and nothing else
            is left behind.
    """
    name = archive.name if archive.name.isprintable() else ascii(archive.name)
    try:
        with _opened(archive) as (file, size):
            kind = _kind(file, size)
            with _filled_then_renamed(target) as folder:
                budget = Budget(limits, size)
                tree = _Tree(folder, budget)
                found = zip_members(file, budget) if kind == "zip" else tar_members(file, kind, budget)
                for member in found:
                    tree.add(member)
                if not tree.has_files:
                    raise Refused("it holds no files", "a model", _FIX_PACK)
    except Refused as refused:
        raise ArchiveError(f"{name} was not unpacked: {refused}") from refused.__cause__
    except OSError as error:
        # Not str(error): that shows where on this machine the models are.
        told = error.strerror or type(error).__name__
        raise ArchiveError(f"{name} was not unpacked: it cannot be read: {told}.") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[BinaryIO, int]]:
    if archive.is_dir():
        raise Refused("it is a folder", f"{_ACCEPTED} file")
    status = archive.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
        raise Refused("it is not a regular file", _ACCEPTED)
    with archive.open("rb") as file:
        yield file, status.st_size


def _kind(file: BinaryIO, size: int) -> str:
    head = file.read(HEAD)
    if not head:
        raise Refused("it is empty (0 bytes)", _ACCEPTED, "Copy or download the file again.")
    kind = archive_kind(head)
    if kind is None:
        known = next((what for magic, what in _OTHER_FILES if head.startswith(magic)), None)
        raise Refused(
            f"it is {known}" if known else f"it is no archive: it starts with {head[:8]!r}",
            _ACCEPTED,
            _FIX_PACK,
        )
    wrote = torch_file_of(file, size)
    if wrote is not None:
        raise Refused(f"it is a file of PyTorch's ({wrote}) and no archive of a model", _ACCEPTED, _FIX_PACK)
    file.seek(0)
    return kind


@contextmanager
def _filled_then_renamed(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that becomes ``target`` if the block ends well, and else nothing."""
    if target.is_symlink() or (target.exists() and not _is_empty_folder(target)):
        raise Refused(f"there is already something at {shown(target.name)}", "a new folder")
    if not target.parent.is_dir():
        raise Refused(f"the folder {shown(target.parent.name)} to unpack into does not exist")
    with _writing():
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    try:
        yield folder
        with _writing():
            folder.chmod(0o755)
            folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _writing() -> Iterator[None]:
    """Tell a disk that is full or read-only from an archive that cannot be read."""
    try:
        yield
    except OSError as error:
        raise Refused(f"the disk does not take it: {error.strerror}", fix=_FIX_DISK) from error


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


class _Tree:
    """The folder being filled. Knows each path in it, so that none is written twice."""

    def __init__(self, root: Path, budget: Budget) -> None:
        self.root = root
        self.budget = budget
        self._folders = {""}
        self._files: set[str] = set()

    @property
    def has_files(self) -> bool:
        return bool(self._files)

    def add(self, member: Member) -> None:
        """Write one member."""
        parent = member.path.rpartition("/")[0]
        if parent not in self._folders:
            self._make_parents(parent)
        if member.is_folder:
            self._make_folder(member.path)
            return
        if member.path in self._files or member.path in self._folders:
            raise Refused(f"member {shown(member.path)} is there twice", "each path once")
        self._files.add(member.path)
        with _writing():
            file = (self.root / member.path).open("xb")
        try:
            with _writing():
                os.fchmod(file.fileno(), 0o644)
            for chunk in member.chunks:
                with _writing():
                    file.write(chunk)
        finally:
            with _writing():  # the last bytes are written here
                file.close()

    def _make_parents(self, path: str) -> None:
        """Folders that are named only by a longer path; they count as members, too."""
        made = ""
        for part in path.split("/"):
            made = f"{made}/{part}" if made else part
            if made not in self._folders:
                self.budget.add_member()
                self._make_folder(made)

    def _make_folder(self, path: str) -> None:
        if path in self._folders:
            return
        if path in self._files:
            raise Refused(f"member {shown(path)} is both a file and a folder", "one of them")
        folder = self.root / path
        with _writing():
            folder.mkdir()
            folder.chmod(0o755)
        self._folders.add(path)
