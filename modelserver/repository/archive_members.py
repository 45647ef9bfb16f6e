"""What every archive's reader needs: members, limits, and which names and sizes are let through.

Rules of the room: no archive is read here and nothing is written. ``tar_members`` and ``zip_members`` turn
bytes into ``Member``s, ``archives`` writes those; the three meet only in these classes. Whatever is wrong
with an archive is a ``Refused``; ``archives`` makes an ``ArchiveError`` of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 1024 * 1024
"""Bytes that are in memory at a time."""

HEAD = 512
"""Bytes at the start of a file that tell its kind."""

RATIO_FREE_BYTES = 64 * 1024 * 1024
"""The ratio is looked at only beyond this: a small folder of repetitive text may pack very well."""

_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255  # a file system's limit for one name

FIX_COPY = "Copy or download the file again, or pack it again."
_FIX_INSIDE = "Pack from inside the folder: `cd FOLDER && tar czvf ../model.tgz *`."
FIX_REPACK = "Pack it again with `python -m modelserver pack FOLDER -o model.tgz`."

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),  # a zip without entries
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)


class Refused(Exception):
    """Why an archive is not unpacked: what was found, what was expected, what helps."""

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.found}; expected {self.expected}." if self.expected else f"{self.found}."
        return f"{text} {self.fix}" if self.fix else text


@dataclass(frozen=True)
class UnpackLimits:
    """How much an archive may be. Each limit's flag has the limit's name."""

    max_unpacked_bytes: int = 16 * 1024**3
    """Bytes that come out of the archive, a tar's headers and padding included."""

    max_archive_members: int = 100_000
    """Files and folders, also folders that only a longer path names."""

    max_archive_ratio: int = 1000
    """Unpacked bytes for each byte of the archive; looked at beyond 64 MiB."""

    max_archive_depth: int = 64
    """Names in one path."""


@dataclass(frozen=True)
class Member:
    """One file or folder of an archive. ``chunks`` is read, or left, before the next member is asked for."""

    path: str
    """Checked: relative, no ``..``, parts joined by ``/``. Empty: the archive's own ``./``."""

    is_folder: bool
    chunks: Iterator[bytes]


class Budget:
    """Counts what comes out of one archive and stops it at the limits."""

    def __init__(self, limits: UnpackLimits, archive_bytes: int) -> None:
        self.limits = limits
        self.archive_bytes = archive_bytes
        self._bytes = 0
        self._members = 0

    def announced(self, size: int) -> None:
        """Stop before ``size`` more bytes are read that a header speaks of."""
        self._check(self._bytes + size)

    def add_bytes(self, size: int) -> None:
        """Count bytes that came out."""
        self._bytes += size
        self._check(self._bytes)

    def add_member(self) -> None:
        """Count a file or folder."""
        self._members += 1
        if self._members > self.limits.max_archive_members:
            raise over_members(self.limits)

    def _check(self, total: int) -> None:
        limits = self.limits
        if total > limits.max_unpacked_bytes:
            raise Refused(
                f"it unpacks to more than {limits.max_unpacked_bytes} bytes",
                fix="If you trust the archive, raise --max_unpacked_bytes.",
            )
        if total > max(RATIO_FREE_BYTES, limits.max_archive_ratio * self.archive_bytes):
            raise Refused(
                f"it unpacks to more than {limits.max_archive_ratio} times its {self.archive_bytes} bytes",
                fix="If you trust the archive, raise --max_archive_ratio.",
            )


def over_members(limits: UnpackLimits) -> Refused:
    """The refusal of an archive with too many members."""
    return Refused(
        f"it holds more than {limits.max_archive_members} files and folders",
        fix="If you trust the archive, raise --max_archive_members.",
    )


def shown(name: str) -> str:
    """A member's name as an error may show it: quoted, escaped, cut."""
    return repr(name if len(name) <= 80 else f"{name[:60]}...{name[-17:]}")


def archive_kind(head: bytes) -> str | None:
    """``gzip``, ``zip``, ``bzip2``, ``xz`` or ``tar`` by a file's first ``HEAD`` bytes; else ``None``."""
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


# Names


def safe_path(name: str, limits: UnpackLimits) -> str:
    """A member's name as a relative path without ``.``; empty for ``./`` itself.

    Raises:
        Refused: the name leads out of the folder, or is none that every file system takes.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not name:
        raise Refused("a member has no name", "a path", FIX_REPACK)
    if len(parts) > limits.max_archive_depth:
        raise Refused(
            f"member {shown(name)} is {len(parts)} folders deep, the limit is {limits.max_archive_depth}",
            fix="If you trust the archive, raise --max_archive_depth.",
        )
    encoded = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    if sum(encoded) + len(encoded) > _MAX_PATH_BYTES or max(encoded, default=0) > _MAX_NAME_BYTES:
        raise Refused(
            f"member {shown(name)} has a name that is too long",
            f"at most {_MAX_NAME_BYTES} bytes for a name and {_MAX_PATH_BYTES} for a path",
        )
    categories = {unicodedata.category(character) for character in name}
    if "Cs" in categories:
        raise Refused(f"member {shown(name)} has a name that is not UTF-8", "UTF-8 names", FIX_REPACK)
    if categories & {"Cc", "Zl", "Zp"}:
        raise Refused(f"member {shown(name)} has a control character in its name", "plain names")
    if "\\" in name:
        raise Refused(f"member {shown(name)} has a backslash in its name", "names parted by /", FIX_REPACK)
    if name.startswith("/"):
        raise Refused(f"member {shown(name)} has an absolute path", "relative paths", _FIX_INSIDE)
    if ".." in parts:
        raise Refused(f"member {shown(name)} has .. in its path", "paths inside the archive", _FIX_INSIDE)
    if any(re.match("[A-Za-z]:", part) for part in parts):
        raise Refused(f"member {shown(name)} has a drive letter", "relative paths", _FIX_INSIDE)
    if ":" in name:  # on Windows a second stream of the file before it
        raise Refused(f"member {shown(name)} has a colon in its name", "names without one")
    return "/".join(parts)


def checked_path(name: str, is_folder: bool, limits: UnpackLimits) -> str:
    """``safe_path`` of a member of a known type; a file needs a name of its own."""
    path = safe_path(name, limits)
    if not is_folder and (not path or name.endswith("/")):
        raise Refused(f"member {shown(name)} is a file with a folder's name", "a file's name")
    return path


def not_a_file(name: str, found: str) -> Refused:
    """The refusal of a link, a device or the like."""
    fix = "Pack what it points to: `tar chzvf model.tgz *`." if "link" in found else FIX_REPACK
    return Refused(f"member {shown(name)} is {found}", "only regular files and folders", fix)
