"""Archives are unpacked whole or not at all, and nothing is ever written outside the target."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelserver.errors import ArchiveError, ModelLoadError
from modelserver.repository.archive_members import Refused
from modelserver.repository.archives import UnpackLimits, is_archive, is_junk, model_root, unpack
from modelserver.repository.zip_members import zip_names

MIB = 1024 * 1024
FILES = {
    "model.py": b"class Net: ...\n",
    "model.pt": bytes(range(256)) * 40,
    "helpers/text.py": b"",
    "assets/": None,
}
TREE = {
    "model.py": FILES["model.py"],
    "model.pt": FILES["model.pt"],
    "helpers/": None,
    "helpers/text.py": b"",
    "assets/": None,
}

Entry = tuple[str, bytes | None]


def tar_header(
    name: str,
    *,
    type: bytes = tarfile.REGTYPE,
    size: int = 0,
    linkname: str = "",
    fmt: int = tarfile.GNU_FORMAT,
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = type, size, linkname
    return info.tobuf(fmt, "utf-8", "surrogateescape")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def tar_of(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(1024)


def tar_file(name: str, data: bytes = b"data", fmt: int = tarfile.GNU_FORMAT) -> bytes:
    return tar_header(name, size=len(data), fmt=fmt) + padded(data)


def make_tar(files: dict[str, bytes | None], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o4777
            if data is None:
                info.type = tarfile.DIRTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def make_zip(files: dict[str, bytes | None], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data or b"")
    return buffer.getvalue()


def zip_entry(name: str, mode: int = 0o100644, data: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name  # the constructor would tidy it
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, data)
    return buffer.getvalue()


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder; what is no plain file or folder is an error."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
        name = path.relative_to(folder).as_posix()
        found[name + "/" * stat.S_ISDIR(mode)] = path.read_bytes() if stat.S_ISREG(mode) else None
    return found


class Place:
    """A folder for the archive and its target, and a canary outside of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside = root / "outside"
        self.work = root / "work"
        self.outside.mkdir()
        self.work.mkdir()
        (self.outside / "canary").write_text("untouched")
        self.target = self.work / "model"

    def archive(self, data: bytes, name: str = "0001.tar.gz") -> Path:
        path = self.work / name
        path.write_bytes(data)
        return path

    def unpack(self, data: bytes, limits: UnpackLimits | None = None) -> dict[str, bytes | None]:
        unpack(self.archive(data), self.target, limits or UnpackLimits())
        return tree_of(self.target)

    def refuses(self, data: bytes, limits: UnpackLimits | None = None, name: str = "iris.tgz") -> str:
        """The text of the refusal. Nothing may have changed on the disk."""
        archive = self.archive(data, name)
        before = tree_of(self.root)
        with pytest.raises(ArchiveError) as caught:
            unpack(archive, self.target, limits or UnpackLimits())
        assert tree_of(self.root) == before
        text = str(caught.value)
        assert text.startswith(f"{name} was not unpacked: ")
        assert text.endswith((".", ")"))
        assert text.isprintable()
        assert len(text) < 400
        assert str(self.root) not in text.replace(repr(str(self.outside))[1:-1], "")
        return text


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# What is taken


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars(place: Place, compression: str, fmt: int) -> None:
    assert place.unpack(COMPRESSIONS[compression](make_tar(FILES, fmt))) == TREE


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips(place: Place, method: int) -> None:
    assert place.unpack(make_zip(FILES, method)) == TREE


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(place: Place, fmt: int) -> None:
    files: dict[str, bytes | None] = {f"{'long' * 30}/{'name' * 40}.pb": b"1", "模型/权重.pt": b"2"}
    assert set(files) < set(place.unpack(make_tar(files, fmt)))


def test_ustar_prefix(place: Place) -> None:
    name = f"{'a' * 90}/{'b' * 60}"
    assert name in place.unpack(make_tar({name: b""}, tarfile.USTAR_FORMAT))


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
@pytest.mark.parametrize(
    "arguments", [["czf", "../iris.tgz", "."], ["cf", "../iris.tgz", "model.py", "0001"]]
)
def test_what_the_tar_command_makes(place: Place, arguments: list[str]) -> None:
    source = place.outside / "frozen"
    (source / "0001").mkdir(parents=True)
    (source / "0001/saved_model.pb").write_bytes(b"graph")
    (source / "model.py").write_bytes(b"")
    subprocess.run(["tar", *arguments], cwd=source, check=True)
    unpack(place.outside / "iris.tgz", place.target)
    assert tree_of(place.target) == tree_of(source)


def test_a_gzip_of_several_parts(place: Place) -> None:
    data = make_tar(FILES)
    assert place.unpack(gzip.compress(data[:700]) + gzip.compress(data[700:])) == TREE


def test_modes_are_the_servers_own(place: Place) -> None:
    old = os.umask(0o077)
    try:
        place.unpack(make_tar(FILES))
    finally:
        os.umask(old)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [place.target, *place.target.rglob("*")]
    }
    assert modes == {
        "model": 0o755,
        "helpers": 0o755,
        "assets": 0o755,
        "model.py": 0o644,
        "model.pt": 0o644,
        "text.py": 0o644,
    }


def test_an_empty_target_is_replaced(place: Place) -> None:
    place.target.mkdir(mode=0o700)
    assert place.unpack(make_tar(FILES)) == TREE
    assert stat.S_IMODE(place.target.stat().st_mode) == 0o755


def test_a_folder_may_come_after_its_files(place: Place) -> None:
    data = tar_of(
        tar_file("a/b"), tar_header("a/", type=tarfile.DIRTYPE), tar_header("./", type=tarfile.DIRTYPE)
    )
    assert place.unpack(data) == {"a/": None, "a/b": b"data"}


def test_git_archives_global_comment_is_no_member(place: Place) -> None:
    record = b"52 comment=" + b"a" * 40 + b"\n"
    head = tar_header("pax_global_header", type=tarfile.XGLTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert place.unpack(tar_of(head, padded(record), tar_file("model.py"))) == {"model.py": b"data"}


def test_a_small_text_that_packs_very_well_is_taken(place: Place) -> None:
    zeros = make_tar({"model.pt": bytes(8 * MIB)})
    data = COMPRESSIONS["xz"](zeros)
    assert len(zeros) / len(data) > 1000
    assert place.unpack(data) == {"model.pt": bytes(8 * MIB)}


# What is refused: names


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("../evil", ".. in its path"),
        ("a/../../evil", ".. in its path"),
        ("a/..", ".. in its path"),
        ("/etc/evil", "an absolute path"),
        ("//evil", "an absolute path"),
        ("OUTSIDE/evil", "an absolute path"),
        ("C:/evil", "a drive letter"),
        ("C:evil", "a drive letter"),
        ("a/c:evil", "a drive letter"),
        ("model.pt:evil", "a colon"),
        (":evil", "a colon"),
        ("..\\evil", "a backslash"),
        ("\\\\host\\share", "a backslash"),
        ("a\nb", "a control character"),
        ("a\x1b[2Jb", "a control character"),
        ("a\u2028b", "a control character"),
        ("a\x85b", "a control character"),
        ("n" * 256, "too long"),
        ("/".join(["n" * 200] * 6), "too long"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["tar", "pax", "zip"])
def test_hostile_names(place: Place, name: str, cause: str, kind: str) -> None:
    name = name.replace("OUTSIDE", str(place.outside))
    if kind == "zip":
        data = zip_entry(name)
    else:
        fmt = tarfile.PAX_FORMAT if kind == "pax" else tarfile.GNU_FORMAT
        data = gzip.compress(tar_of(tar_file("good"), tar_file(name, fmt=fmt)))
    assert cause in place.refuses(data)


def test_nul_in_a_name(place: Place) -> None:
    header = bytearray(tar_header("model.py"))
    header[2] = 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "control character" in place.refuses(tar_of(bytes(header)))
    record = b"15 path=a\0evil\n"
    pax = tar_header("x", type=tarfile.XHDTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert "control character" in place.refuses(tar_of(pax, padded(record), tar_file("a")))
    assert "control character" in place.refuses(zip_entry("a\0evil"))


def test_a_name_that_is_not_utf8(place: Place) -> None:
    text = place.refuses(tar_of(tar_file("权重.pt".encode("gbk").decode("utf-8", "surrogateescape"))))
    assert "not UTF-8" in text


def test_a_pax_header_may_not_rename_into_the_open(place: Place) -> None:
    record = b"17 path=../evil\n" + b""
    record = f"{len(record)} path=../evil\n".encode()
    head = tar_header("x", type=tarfile.XHDTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert ".. in its path" in place.refuses(tar_of(head, padded(record), tar_file("good")))
    head = tar_header("x", type=tarfile.XGLTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert "renames every member" in place.refuses(tar_of(head, padded(record), tar_file("good")))


@pytest.mark.parametrize(
    "names",
    [["a", "a"], ["a", "./a"], ["a/b", "a//b"], ["a", "a/b"], ["a/b", "a"], ["a", "a/"], ["a/b/c", "a/b"]],
)
def test_a_path_twice_or_a_file_as_a_folder(place: Place, names: list[str]) -> None:
    parts = [tar_header(n, type=tarfile.DIRTYPE) if n.endswith("/") else tar_file(n) for n in names]
    text = place.refuses(tar_of(*parts))
    assert "twice" in text or "both a file and a folder" in text


def test_a_file_named_as_a_folder(place: Place) -> None:
    header = tar_header("a/", type=tarfile.CONTTYPE)  # tobuf would not write it as a file
    header = header[:156] + b"0" + header[157:]
    header = header[:148] + b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:])) + header[156:]
    assert "folder's name" in place.refuses(tar_of(header))
    assert "folder's name" in place.refuses(tar_of(tar_file(".")))


# What is refused: types


@pytest.mark.parametrize(
    ("type", "cause"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (tarfile.CONTTYPE, "a contiguous file"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.GNUTYPE_LONGLINK, "a link"),
        (b"Z", "of the unknown tar type b'Z'"),
    ],
)
def test_tar_types(place: Place, type: bytes, cause: str) -> None:
    data = tar_of(tar_file("good"), tar_header("bad", type=type, linkname="good"))
    text = place.refuses(gzip.compress(data))
    assert f"member 'bad' is {cause}" in text
    assert "expected only regular files and folders" in text


def test_a_chain_of_links_writes_nothing(place: Place) -> None:
    data = tar_of(
        tar_header("out", type=tarfile.SYMTYPE, linkname=str(place.outside)),
        tar_header("in", type=tarfile.SYMTYPE, linkname="out/."),
        tar_file("in/canary", b"overwritten"),
    )
    assert "symbolic link" in place.refuses(data)


@pytest.mark.parametrize("key", ["GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name", "GNU.sparse.size"])
@pytest.mark.parametrize("type", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_pax_sparse_files(place: Place, key: str, type: bytes) -> None:
    body = f" {key}=1\n"
    record = f"{len(body) + 2}{body}".encode()
    head = tar_header("x", type=type, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert "sparse" in place.refuses(tar_of(head, padded(record), tar_file("good")))


@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        (stat.S_IFLNK | 0o777, "a symbolic link"),
        (stat.S_IFIFO | 0o644, "a FIFO"),
        (stat.S_IFCHR | 0o644, "a character device"),
        (stat.S_IFBLK | 0o644, "a block device"),
        (stat.S_IFSOCK | 0o644, "a socket"),
        (stat.S_IFDIR | 0o755, "of another type (40000)"),
    ],
)
def test_zip_types(place: Place, mode: int, cause: str) -> None:
    assert f"member 'bad' is {cause}" in place.refuses(zip_entry("bad", mode, b"/etc/passwd"))


def with_zip_flag(data: bytes, flag: int) -> bytes:
    central = data.index(b"PK\x01\x02")
    return (
        data[:6]
        + struct.pack("<H", flag)
        + data[8 : central + 8]
        + struct.pack("<H", flag)
        + data[central + 10 :]
    )


def test_an_encrypted_zip(place: Place) -> None:
    assert "'bad' is encrypted" in place.refuses(with_zip_flag(zip_entry("bad"), 0x1))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_without_a_bound(place: Place, method: int) -> None:
    assert f"zip method {method}" in place.refuses(make_zip(FILES, method))


def test_zip_folder_with_content(place: Place) -> None:
    assert "a folder with 4 bytes" in place.refuses(make_zip({"folder/": b"evil"}))


# Limits


def test_too_many_bytes(place: Place) -> None:
    limits = UnpackLimits(max_unpacked_bytes=50_000)
    for data in (gzip.compress(make_tar({"a": bytes(60_000)})), make_zip({"a": bytes(60_000)})):
        assert "50000 bytes. If you trust the archive, raise --max_unpacked_bytes." in place.refuses(
            data, limits
        )


def test_the_sum_counts_and_not_each_member(place: Place) -> None:
    files: dict[str, bytes | None] = {name: bytes(20_000) for name in "abc"}
    limits = UnpackLimits(max_unpacked_bytes=50_000)
    assert "--max_unpacked_bytes" in place.refuses(gzip.compress(make_tar(files)), limits)
    assert "--max_unpacked_bytes" in place.refuses(make_zip(files), limits)


def test_ten_gigabytes_of_zeros_are_refused_at_the_header(place: Place) -> None:
    data = gzip.compress(tar_header("zeros", size=10 * 1024**3) + bytes(MIB))
    assert "more than 1000 times" in place.refuses(data)
    assert "--max_archive_ratio" in place.refuses(data)


def test_ratio_of_a_zip(place: Place) -> None:
    data = make_zip({"zeros": bytes(70 * MIB)})
    assert "more than 900 times" in place.refuses(data, UnpackLimits(max_archive_ratio=900))


def test_too_many_members(place: Place) -> None:
    files: dict[str, bytes | None] = {f"file{n}": b"" for n in range(11)}
    for data in (make_tar(files), make_zip(files)):
        shutil.rmtree(place.target, ignore_errors=True)
        text = place.refuses(data, UnpackLimits(max_archive_members=10))
        assert "10 files and folders. If you trust the archive, raise --max_archive_members." in text
        assert len(place.unpack(data, UnpackLimits(max_archive_members=11))) == 11


def test_folders_that_only_a_path_names_count(place: Place) -> None:
    files: dict[str, bytes | None] = {f"a{n}/b/c": b"" for n in range(4)}
    assert "--max_archive_members" in place.refuses(make_tar(files), UnpackLimits(max_archive_members=11))
    assert len(place.unpack(make_tar(files), UnpackLimits(max_archive_members=12))) == 12


def test_one_folder_again_and_again_counts(place: Place) -> None:
    data = tar_of(tar_file("f"), tar_header("a", type=tarfile.DIRTYPE) * 20)
    assert "--max_archive_members" in place.refuses(data, UnpackLimits(max_archive_members=20))


def test_too_deep(place: Place) -> None:
    for depth in (65, 4000):
        name = "/".join("d" * depth)
        for data in (make_tar({name: b""}), make_zip({name: b""})):
            text = place.refuses(data)
            assert f"is {depth} folders deep, the limit is 64." in text
            assert text.endswith("raise --max_archive_depth.")
    assert "/".join("d" * 64) in place.unpack(make_tar({"/".join("d" * 64): b""}))


def test_a_long_name_of_a_gigabyte_is_not_read(place: Place) -> None:
    data = tar_header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1024**3)
    assert "an extension of 1073741824 bytes" in place.refuses(data + bytes(2 * MIB))


def test_extension_headers_without_end(place: Place) -> None:
    record = b"7 a=bc\n"
    head = tar_header("x", type=tarfile.XHDTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT) + padded(record)
    assert "extension headers" in place.refuses(head * 1000 + tar_file("a"))


# Damage


def test_no_bytes(place: Place) -> None:
    assert "it is empty (0 bytes); expected a .tar.gz, .tgz, .tar or .zip" in place.refuses(b"")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"hello", "it starts with b'hello'"),
        (b"\x00" * 600, "it starts with b'\\x00"),
        (b"<!DOCTYPE html><title>404</title>", "an error page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"(\xb5/\xfd\x00", "Zstandard"),
        (b"7z\xbc\xaf'\x1c", "7-Zip"),
        (b"Rar!\x1a\x07", "RAR"),
        (b"\x89HDF\r\n", "HDF5"),
        (gzip.compress(b"no tar"), "it is cut off: the tar stops at byte 6"),
        (gzip.compress(b"no tar" * 200), "its gzip data is not a tar archive"),
        (gzip.compress(b""), "it is cut off: the tar stops at byte 0"),
        (b"\x1f\x8bhello", "cut off"),
        (b"PK\x03\x04hello", "no directory at its end"),
        (tar_of(), "it starts with"),
        (gzip.compress(tar_of()), "it holds no files"),
        (gzip.compress(tar_of(tar_header("a", type=tarfile.DIRTYPE))), "it holds no files"),
        (make_zip({}), "it holds no files"),
        (gzip.compress(tar_of(tar_file("a"), tar_file("b"))[:1500]), "the tar stops at byte 1500"),
        (tar_of(tar_file("a"))[:-1024], "without an end mark"),
        (tar_of(tar_file("a")) + b"more", "data after the end of the tar"),
        (gzip.compress(tar_of(tar_file("a"))) + b"garbage", "its gzip data is damaged near byte"),
    ],
)
def test_what_is_no_archive(place: Place, data: bytes, cause: str) -> None:
    assert cause in place.refuses(data)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_padding_is_taken_up_to_a_limit(place: Place, compress: Callable[[bytes], bytes]) -> None:
    data = make_tar({"good": b""})
    assert "data after the end of the tar" in place.refuses(compress(data + bytes(18 * MIB)))
    assert place.unpack(compress(data + bytes(15 * MIB))) == {"good": b""}


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "tar"])
def test_cut_off_anywhere(place: Place, compression: str) -> None:
    data = COMPRESSIONS[compression](tar_of(tar_file("model.pt", random.Random(0).randbytes(2000))))
    last = len(data) - (1023 if compression == "tar" else 1)  # a tar's second empty block adds nothing
    for size in [*range(1, last, 97), last - 1]:
        text = place.refuses(data[:size])
        assert "cut off" in text or "no archive" in text, size
    if compression == "gzip":
        assert f"its gzip data stops at byte {len(data) - 1} without an end mark" in place.refuses(data[:-1])


def test_a_zip_cut_off_anywhere(place: Place) -> None:
    data = make_zip(FILES)
    for size in [*range(4, len(data), 31), len(data) - 1]:
        assert "cut off" in place.refuses(data[:size])


@pytest.mark.parametrize(("compression", "at"), [("gzip", 2500), ("bzip2", 12), ("xz", 2500)])
def test_a_flipped_byte_is_found_by_the_checksum(place: Place, compression: str, at: int) -> None:
    content = random.Random(0).randbytes(5000)
    data = bytearray(COMPRESSIONS[compression](tar_of(tar_file("model.pt", content))))
    data[at] ^= 0x10
    assert f"its {compression} data is damaged near byte" in place.refuses(bytes(data))


def test_a_wrong_crc_after_the_tars_end_is_found(place: Place) -> None:
    data = bytearray(gzip.compress(make_tar(FILES)))
    data[-8] ^= 1
    assert "CRC check failed" in place.refuses(bytes(data))


def test_a_flipped_byte_in_a_zip(place: Place) -> None:
    data = bytearray(make_zip({"model.pt": random.Random(0).randbytes(5000)}, zipfile.ZIP_STORED))
    data[2500] ^= 1
    text = place.refuses(bytes(data))
    assert "Bad CRC-32 for file 'model.pt'" in text


def test_a_zip_whose_header_lies_about_the_size(place: Place) -> None:
    data = bytearray(make_zip({"zeros": bytes(100_000)}))
    central = data.index(b"PK\x01\x02")
    for size in (10, 200_000):
        data[central + 24 : central + 28] = struct.pack("<L", size)
        assert "damaged" in (text := place.refuses(bytes(data))) or "as its header says" in text


def test_zip_entries_that_overlap(place: Place) -> None:
    """David Fifield's bomb: many directory entries, one body."""
    data = make_zip({"zeros": bytes(3 * MIB)})
    central, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[central:end]
    forged = data[:central] + entry * 200 + data[end : end + 8]
    forged += struct.pack("<HHLLH", 200, 200, len(entry) * 200, central, 0)
    assert "overlap" in place.refuses(forged)


def test_a_zip_comment_that_swallows_an_entry(place: Place) -> None:
    """Readers that go by the directory's size see one file, readers that go by its count three."""
    data = bytearray(make_zip({"model.py": b"", "b": b"", "c": b""}))
    central, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    rest = end - central - 46 - len("model.py")
    data[central + 32 : central + 34] = struct.pack("<H", rest)
    assert "its zip directory is damaged" in place.refuses(bytes(data))


def test_a_zip_directory_is_counted_before_it_is_in_memory() -> None:
    data = make_zip({f"file{n}": b"" for n in range(11)})
    assert len(zip_names(io.BytesIO(data), len(data), UnpackLimits(max_archive_members=11))) == 11
    for most in (10, 0):
        with pytest.raises(Refused, match="--max_archive_members"):
            zip_names(io.BytesIO(data), len(data), UnpackLimits(max_archive_members=most))


def test_a_zip_directory_of_damage(place: Place) -> None:
    data = bytearray(make_zip(FILES))
    data[data.index(b"PK\x01\x02")] ^= 1
    assert "its zip directory is damaged at byte" in place.refuses(bytes(data))


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from modelserver.errors import ArchiveError
from modelserver.repository.archives import unpack
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    unpack(Path(sys.argv[1]), Path("model"))
except ArchiveError as error:
    print(error)
"""


def test_an_xz_that_asks_for_4_gib(place: Place) -> None:
    data = bytearray(lzma.compress(make_tar(FILES)))
    end = 12 + (data[12] + 1) * 4  # of the block header (the .xz format, section 3.1)
    data[16] = 40  # dictionary size of LZMA2: 4 GiB - 1
    data[end - 4 : end] = struct.pack("<L", zlib.crc32(data[12 : end - 4]))
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, place.archive(bytes(data))]
    result = subprocess.run(command, cwd=place.work, stdout=subprocess.PIPE, text=True)
    assert "its xz data asks for more memory than there is" in result.stdout
    assert tree_of(place.work).keys() == {"0001.tar.gz"}


@pytest.mark.parametrize(
    "record", [b"", b"x", b"99 a=b\n", b"0 a=b\n", b"6 a=b\n", b"5 ab\n", b"99999999999 a=b\n", b"1 a=b\n"]
)
def test_pax_damage(place: Place, record: bytes) -> None:
    head = tar_header("x", type=tarfile.XHDTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    data = tar_of(head, padded(record), tar_file("a"))
    if record in (b"", b"6 a=b\n"):
        assert place.unpack(data) == {"a": b"data"}
    else:
        assert "pax header at byte 0 is damaged" in place.refuses(data)


def test_a_size_that_is_negative_or_no_number(place: Place) -> None:
    assert "negative size" in place.refuses(tar_of(tar_header("a", size=-512)))
    record = b"12 size=-10\n"
    head = tar_header("x", type=tarfile.XHDTYPE, size=len(record), fmt=tarfile.USTAR_FORMAT)
    assert "no number" in place.refuses(tar_of(head, padded(record), tar_file("a")))


# The disk and the target


def test_files_that_cannot_be_read(place: Place) -> None:
    with pytest.raises(ArchiveError, match=r"^none was not unpacked: it cannot be read: No such file"):
        unpack(place.work / "none", place.target)
    with pytest.raises(ArchiveError, match="it is a folder"):
        unpack(place.outside, place.target)
    os.mkfifo(place.work / "pipe")
    with pytest.raises(ArchiveError, match="not a regular file"):
        unpack(place.work / "pipe", place.target)


def test_a_target_that_is_taken(place: Place) -> None:
    place.target.mkdir()
    (place.target / "old").write_text("stays")
    assert "already something at 'model'" in place.refuses(make_tar(FILES))
    shutil.rmtree(place.target)
    place.target.write_text("a file")
    assert "already something" in place.refuses(make_tar(FILES))


def test_a_target_that_is_a_link_is_not_followed(place: Place) -> None:
    archive = place.archive(make_tar(FILES))
    for destination in (place.outside, place.root / "nowhere"):
        place.target.symlink_to(destination)
        with pytest.raises(ArchiveError, match="already something"):
            unpack(archive, place.target)
        place.target.unlink()
    assert tree_of(place.outside) == {"canary": b"untouched"}


def test_a_target_in_no_folder(place: Place) -> None:
    archive = place.archive(make_tar(FILES))
    with pytest.raises(ArchiveError, match="'nowhere' to unpack into does not exist"):
        unpack(archive, place.root / "nowhere" / "model")
    assert not (place.root / "nowhere").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Stands for a full disk: a write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way(place: Place) -> None:
    data = gzip.compress(make_tar({"small": b"1", "large": random.Random(0).randbytes(300_000)}))
    archive = place.archive(data)
    before = tree_of(place.root)
    with largest_file(100_000), pytest.raises(ArchiveError) as caught:
        unpack(archive, place.target)
    assert str(caught.value) == (
        "0001.tar.gz was not unpacked: the disk does not take it: File too large. "
        "Free some space there, or set TMPDIR to a folder that can be written and has room."
    )
    assert tree_of(place.root) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files(place: Place) -> None:
    with pytest.raises(ArchiveError, match=r"the disk does not take it: [A-Z][a-z ]+\. Free"):
        unpack(place.archive(make_tar(FILES)), Path("/proc/self/model"))


def test_the_file_name_is_made_printable(place: Place) -> None:
    archive = place.work / "a\nb"
    archive.write_bytes(b"")
    with pytest.raises(ArchiveError) as caught:
        unpack(archive, place.target)
    assert str(caught.value).startswith("'a\\nb' was not unpacked: ")
    assert isinstance(caught.value, ModelLoadError)


# is_archive, model_root


@pytest.mark.parametrize("name", ["0001.tar.gz", "model", "iris.txt", "iris.zip"])
@pytest.mark.parametrize("kind", [*COMPRESSIONS, "zip"])
def test_archives_are_told_by_content(place: Place, name: str, kind: str) -> None:
    data = make_zip(FILES) if kind == "zip" else COMPRESSIONS[kind](make_tar(FILES))
    archive = place.archive(data, name)
    assert is_archive(archive)
    unpack(archive, place.work / "unpacked")
    assert tree_of(place.work / "unpacked") == TREE


def test_what_is_no_archive_whatever_its_name(place: Place) -> None:
    assert not is_archive(place.archive(b""))
    assert not is_archive(place.archive(b"text"))
    assert not is_archive(place.work)
    assert not is_archive(place.work / "none")
    os.mkfifo(place.work / "pipe.tgz")
    assert not is_archive(place.work / "pipe.tgz")


def test_pytorchs_own_zips_are_no_archives(place: Place) -> None:
    data = make_zip({"model/data.pkl": b"", "model/version": b"3\n", "model/data/0": b""}, zipfile.ZIP_STORED)
    assert not is_archive(place.archive(data, "model.pt"))
    assert "a file of PyTorch's (torch.save) and no archive of a model" in place.refuses(data)


def laid_out(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["model.py", "model.pt"], ""),
        (["0001/saved_model.pb"], ""),
        (["iris/model.py", "iris/model.pt"], "iris"),
        (["iris/0001/saved_model.pb"], "iris"),
        (["a/b/model.py"], "a"),
        (["v1/saved_model.pb"], "v1"),
        (["iris/model.py", "__MACOSX/iris/._model.py", ".DS_Store", "._iris"], "iris"),
        (["iris/model.py", "other/model.py"], ""),
        (["iris/model.py", "README.md"], ""),
        (["²/model.py"], "²"),
        (["only_file"], ""),
        ([], ""),
    ],
)
def test_model_root(tmp_path: Path, names: list[str], root: str) -> None:
    assert model_root(laid_out(tmp_path, *names)) == tmp_path / root


def test_a_link_is_no_top_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path)
    assert model_root(tmp_path / "folder") == tmp_path / "folder"


def test_junk() -> None:
    assert all(
        is_junk(name)
        for name in ("__MACOSX", ".DS_Store", "._x", "__pycache__", ".git", ".ipynb_checkpoints")
    )
    assert not any(is_junk(name) for name in ("model.py", ".config", "_x", "0001"))
