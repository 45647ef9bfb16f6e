"""Members of a zip.

Rules of the room: bytes in, ``Member``s out, nothing written. The directory is counted here before
``zipfile`` reads it, since that makes an object for each of a million entries; then ``zipfile`` opens one
entry after the other. What an entry's header says of its size is checked against what came out.
"""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from modelserver.repository.archive_members import (
    CHUNK,
    FIX_COPY,
    FIX_REPACK,
    Budget,
    Member,
    Refused,
    UnpackLimits,
    checked_path,
    not_a_file,
    over_members,
    shown,
)

_UNIX_TYPES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_MAX_ENTRY_BYTES = 1024  # of the directory, on average: name, extra fields and comment could be 192 KiB
_ZIP_ENCRYPTED = 0x1 | 0x40 | 0x2000


def zip_names(file: BinaryIO, archive_bytes: int, limits: UnpackLimits) -> list[bytes]:
    """The names in a zip's central directory, read one by one, so that a million of them cost no memory.

    Raises:
        Refused: there is no directory, it is damaged, or it has too many entries.
    """
    tail_at = max(0, archive_bytes - 22 - 65535)
    file.seek(tail_at)
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise Refused(
            f"it is cut off: the zip of {archive_bytes} bytes has no directory at its end", fix=FIX_COPY
        )
    count, size = struct.unpack_from("<HL", tail, end + 10)
    directory_end = tail_at + end
    if (
        end >= 76
        and tail[end - 20 : end - 16] == b"PK\x06\x07"
        and tail[end - 76 : end - 72] == b"PK\x06\x06"
    ):
        count, size = struct.unpack_from("<QQ", tail, end - 76 + 32)  # zip64
        directory_end -= 76
    if size > _MAX_ENTRY_BYTES * limits.max_archive_members:
        raise over_members(limits)
    at = directory_end - size
    names: list[bytes] = []
    while at < directory_end:
        file.seek(max(at, 0))
        entry = file.read(46)
        if at < 0 or len(entry) < 46 or not entry.startswith(b"PK\x01\x02"):
            raise Refused(f"its zip directory is damaged at byte {max(at, 0)}", fix=FIX_COPY)
        lengths = struct.unpack_from("<3H", entry, 28)
        names.append(file.read(min(lengths[0], _MAX_ENTRY_BYTES)))
        if len(names) > limits.max_archive_members:
            raise over_members(limits)
        at += 46 + sum(lengths)
    if at != directory_end or (len(names) - count) % 65536:  # old writers count past 65,535 from 0 again
        raise Refused(f"its zip directory is damaged: it ends at byte {at}", fix=FIX_COPY)
    return names


@contextmanager
def _damage(where: str = "") -> Iterator[None]:
    """``zipfile`` tells damage by many exceptions; make them one."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError) as error:
        raise Refused(f"its zip data is damaged{where}: {_plain(error)}", fix=FIX_COPY) from None
    except (NotImplementedError, RuntimeError) as error:
        raise Refused(f"its zip data cannot be read{where}: {_plain(error)}", fix=FIX_REPACK) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: an offset before the file's start
            raise
        raise Refused(
            f"its zip data is damaged{where}: an offset leads out of the file", fix=FIX_COPY
        ) from None


def _plain(error: Exception) -> str:
    text = str(error)[:100]
    return text if text.isprintable() else ascii(text)


def zip_members(file: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Every member of an open zip, in its directory's order.

    Raises:
        Refused: something in the zip is damaged, hostile or over a limit.
    """
    count = len(zip_names(file, budget.archive_bytes, budget.limits))
    with _damage():
        archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if len(entries) != count:
        raise Refused("its zip directory can be read in two ways", "one directory", FIX_REPACK)
    if sum(entry.compress_size for entry in entries) > budget.archive_bytes:
        raise Refused("its zip entries overlap", "entries one after the other", FIX_REPACK)
    budget.announced(sum(entry.file_size for entry in entries))
    for entry in entries:
        name = entry.orig_filename  # ``filename`` is cut at a NUL
        is_folder = name.endswith("/")
        _check_entry(entry, name, is_folder)
        budget.add_member()
        path = checked_path(name, is_folder, budget.limits)
        chunks = _chunks(archive, entry, name, budget)
        yield Member(path, is_folder, chunks)
        for _ in chunks:  # what the caller left; a folder's local header is compared here
            pass


def _check_entry(entry: zipfile.ZipInfo, name: str, is_folder: bool) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
        raise not_a_file(name, _UNIX_TYPES.get(kind, f"of another type ({kind:o}) than its name"))
    if is_folder and entry.file_size:
        raise Refused(f"member {shown(name)} is a folder with {entry.file_size} bytes", "none")
    if entry.flag_bits & _ZIP_ENCRYPTED:
        raise Refused(f"member {shown(name)} is encrypted", "a zip without a password", FIX_REPACK)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile unpacks bzip2 and lzma without a bound: a few kilobytes could fill the memory
        raise Refused(
            f"member {shown(name)} is packed with zip method {entry.compress_type}",
            "method 0 (stored) or 8 (deflate)",
            FIX_REPACK,
        )


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, budget: Budget) -> Iterator[bytes]:
    written = 0
    where = f" in the member at byte {entry.header_offset}"
    with _damage(where):
        source = archive.open(entry)
    with source:
        while True:
            with _damage(where):
                chunk = source.read(CHUNK)
            if not chunk:
                break
            written += len(chunk)
            budget.add_bytes(len(chunk))
            yield chunk
    if written != entry.file_size:
        raise Refused(
            f"member {shown(name)} unpacks to {written} bytes",
            f"{entry.file_size}, as its header says",
            FIX_COPY,
        )
