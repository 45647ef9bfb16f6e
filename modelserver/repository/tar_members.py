"""Members of a tar, plain or compressed, in one pass over its bytes.

Rules of the room: bytes in, ``Member``s out, nothing written. The headers are walked here and not by
``tarfile.TarFile``: its ``filter="data"`` was bypassed (CVE-2025-4517, -4330, -4138), its loop over headers
ran for ever (CVE-2019-20907, CVE-2025-8194), its pax parser could be kept busy (CVE-2024-6232), and it
reads a long name of any length into memory. Python versions that we support still have some of these. Only
``TarInfo.frombuf``, which reads one header of 512 bytes, is used of it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from modelserver.repository.archive_members import (
    CHUNK,
    FIX_COPY,
    FIX_REPACK,
    Budget,
    Member,
    Refused,
    checked_path,
    not_a_file,
    shown,
)

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENSION_BYTES = 1024 * 1024  # a pax header with access lists can be long; a name cannot
_MAX_PADDING_BYTES = 16 * 1024 * 1024  # zeros behind the end mark: tar fills up its last record
_MAX_EXTENSIONS = 8  # headers before one member: pax, global pax, GNU long name

_TAR_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CONTTYPE: "a contiguous file",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGLINK: "a link",
}


def tar_members(file: BinaryIO, kind: str, budget: Budget) -> Iterator[Member]:
    """Every member of an open tar, in its order.

    Args:
        file: at its start.
        kind: ``tar``, or what it is compressed with: ``gzip``, ``bzip2``, ``xz``.
        budget: counts every byte that comes out.

    Raises:
        Refused: something in the tar is damaged, hostile or over a limit.
    """
    return _members(_TarStream(file, kind, budget))


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


_DECOMPRESSED: Mapping[str, Callable[[BinaryIO], _Readable]] = {
    "tar": lambda file: file,
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


class _TarStream:
    """A tar's bytes, decompressed as they are read, each one counted."""

    def __init__(self, file: BinaryIO, kind: str, budget: Budget) -> None:
        self.position = 0
        self.kind = kind
        self.budget = budget
        self._file = file
        self._stream = _DECOMPRESSED[kind](file)

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end of the tar."""
        try:
            data = self._stream.read(size)
        except EOFError:
            raise Refused(
                f"it is cut off: its {self.kind} data stops at byte {self.budget.archive_bytes} "
                f"without an end mark",
                fix=FIX_COPY,
            ) from None
        except MemoryError:  # an xz header may ask for 4 GiB
            raise Refused(
                f"its {self.kind} data asks for more memory than there is", fix=FIX_REPACK
            ) from None
        except (zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise Refused(
                f"its {self.kind} data is damaged near byte {self._file.tell()}: {error}", fix=FIX_COPY
            ) from None
        self.position += len(data)
        self.budget.add_bytes(len(data))
        return data

    def read_exactly(self, size: int) -> bytes:
        """``size`` bytes, or ``Refused``."""
        data = self.read(size)
        if len(data) < size:
            raise self.cut_off()
        return data

    def cut_off(self) -> Refused:
        """The refusal of a tar that stops too early."""
        return Refused(
            f"it is cut off: the tar stops at byte {self.position} without an end mark", fix=FIX_COPY
        )


@dataclass(frozen=True)
class _TarHeader:
    name: str
    type: bytes
    size: int


def _members(stream: _TarStream) -> Iterator[Member]:
    while (header := _next_header(stream)) is not None:
        is_folder = header.type == tarfile.DIRTYPE
        if is_folder and header.size:
            raise Refused(f"member {shown(header.name)} is a folder with {header.size} bytes", "none")
        path = checked_path(header.name, is_folder, stream.budget.limits)
        stream.budget.announced(header.size)
        chunks = _chunks(stream, header.size)
        yield Member(path, is_folder, chunks)
        for _ in chunks:  # what the caller left
            pass
    end = stream.position
    while rest := stream.read(CHUNK):
        if rest.strip(b"\0") or stream.position - end > _MAX_PADDING_BYTES:
            raise Refused(f"there is data after the end of the tar, near byte {stream.position}", "none")


def _chunks(stream: _TarStream, size: int) -> Iterator[bytes]:
    padding = -size % _BLOCK
    while size:
        chunk = stream.read_exactly(min(size, CHUNK))
        size -= len(chunk)
        yield chunk
    stream.read_exactly(padding)


def _next_header(stream: _TarStream) -> _TarHeader | None:
    """The next member's header, with what extension headers say in front of it; ``None`` at the end mark."""
    long_name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    for _ in range(_MAX_EXTENSIONS):
        at = stream.position
        block = stream.read_exactly(_BLOCK)
        if not block.strip(b"\0"):
            return None
        info = _parsed(block, at, stream.kind)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _extension(stream, info.size, at).rstrip(b"\0")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _pax_records(_extension(stream, info.size, at), at)
            if any(key.startswith(b"GNU.sparse") for key in records):
                raise Refused(f"the tar header at byte {at} makes a sparse file", "only regular files")
            if info.type != tarfile.XGLTYPE:
                pax.update(records)
            elif {b"path", b"size", b"linkpath"} & records.keys():
                raise Refused(f"the tar header at byte {at} renames every member", "none that does")
        else:
            stream.budget.add_member()
            return _with_extensions(block, info, long_name, pax, at)
    raise Refused(f"more than {_MAX_EXTENSIONS} extension headers before byte {stream.position}", "a member")


def _parsed(block: bytes, at: int, kind: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        if at == 0 and kind != "tar":
            raise Refused(f"its {kind} data is not a tar archive", "a tar inside", FIX_REPACK) from None
        raise Refused(f"its tar header at byte {at} is damaged", fix=FIX_COPY) from None
    if info.size < 0:
        raise Refused(f"its tar header at byte {at} has a negative size", fix=FIX_COPY)
    return info


def _extension(stream: _TarStream, size: int, at: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise Refused(
            f"the tar header at byte {at} has an extension of {size} bytes", f"at most {_MAX_EXTENSION_BYTES}"
        )
    return stream.read_exactly(size + -size % _BLOCK)[:size]


def _pax_records(data: bytes, at: int) -> dict[bytes, bytes]:
    """``b"17 path=iris.pb\\n"`` and so on (POSIX pax, "Extended Header") as a dictionary; one pass."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 10)
        digits = data[start:space] if space > 0 else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise Refused(f"its pax header at byte {at} is damaged", fix=FIX_COPY)
        records[key] = value
        start = end
    return records


def _with_extensions(
    block: bytes, info: tarfile.TarInfo, long_name: bytes | None, pax: dict[bytes, bytes], at: int
) -> _TarHeader:
    raw_name = block[:100].rstrip(b"\0")
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].rstrip(b"\0")):
        raw_name = prefix + b"/" + raw_name
    raw_name = pax.get(b"path", raw_name if long_name is None else long_name)
    name = raw_name.decode("utf-8", "surrogateescape")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise not_a_file(name, _TAR_TYPES.get(info.type, f"of the unknown tar type {info.type!r}"))
    size = info.size
    if b"size" in pax:
        if not re.fullmatch(rb"[0-9]{1,19}", pax[b"size"]):
            raise Refused(f"its pax header before byte {at} has a size that is no number", fix=FIX_COPY)
        size = int(pax[b"size"])
    return _TarHeader(name, info.type, size)
