"""Hostile and damaged archives, served by the real command line: refused whole, in one line, nothing left.

The cases of every kind are in tests/unit/repository and tests/property; here is what must hold for the
server: exit status, message, time, memory, and what is on the disk afterwards.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import re
import stat
import struct
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import serving
from refusals import refused

MIB = 1024 * 1024
MODEL = {"model.py": b"class Net: ...\n", "model.pt": random.Random(0).randbytes(40_000)}


def tar_of(files: dict[str, bytes], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for name, data in files.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def member(name: str, type: bytes = tarfile.REGTYPE, linkname: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, linkname, size
    return info


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# row 42

TGZ = gzip.compress(tar_of(MODEL), mtime=0)
ZIP = zip_of(MODEL)
OFFSETS = [*random.Random(42).sample(range(20, len(TGZ)), 6), len(TGZ) - 1]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"hello" * 100, "it is no archive: it starts with b'hello"),
        (b"<html>404", "HTML or XML"),
        (gzip.compress(b"hello" * 200), "its gzip data is not a tar archive"),
        (gzip.compress(tar_of({})), "it holds no files"),
        (TGZ[:1], "it is no archive"),
        (TGZ[:-1], rf"it is cut off: its gzip data stops at byte {len(TGZ) - 1} "),
        (TGZ[: len(TGZ) // 2], rf"it is cut off: its gzip data stops at byte {len(TGZ) // 2} "),
        (gzip.compress(tar_of(MODEL)[:20_000]), "it is cut off: the tar stops at byte 20000"),
        (tar_of(MODEL)[:20_000], "it is cut off: the tar stops at byte 20000"),
        (ZIP[: len(ZIP) // 2], rf"it is cut off: the zip of {len(ZIP) // 2} bytes"),
        (flipped(ZIP, len(ZIP) // 2), "its zip data is damaged in the member at byte [0-9]+: "),
    ],
    ids=[
        *("0 bytes", "no archive", "a web page", "gzip of something else", "empty tar", "one byte"),
        *("last byte missing", "half", "half a tar in gzip", "half a tar", "half a zip", "flipped in a zip"),
    ],
)  # fmt: skip
def test_a_damaged_archive_is_told_by_file_place_and_cause(tmp_path: Path, data: bytes, says: str) -> None:
    told = refused(write(tmp_path / "iris.tgz", data)).text
    assert told.startswith("iris.tgz was not unpacked: ")
    assert re.search(says, told), told


@pytest.mark.parametrize("at", OFFSETS)
def test_a_flipped_byte_anywhere_is_found(tmp_path: Path, at: int) -> None:
    told = refused(write(tmp_path / "iris.tgz", flipped(TGZ, at))).text
    assert "iris.tgz was not unpacked: " in told
    assert " byte " in told


# row 43


def with_name(name: str, fmt: int) -> bytes:
    return tar_of({**MODEL, name: b"evil"}, fmt)


def with_member(type: bytes, linkname: str = "", fmt: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for name, data in MODEL.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        tar.addfile(member("evil", type, linkname))
    return buffer.getvalue()


def link_chain(outside: Path) -> bytes:
    """Each link leads to a place that is harmless by itself; together they lead out (CVE-2025-4517)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member("model.py", size=1), io.BytesIO(b"#"))
        tar.addfile(member("a", tarfile.SYMTYPE, "b/.."))
        tar.addfile(member("b", tarfile.SYMTYPE, "."))
        tar.addfile(member("out", tarfile.SYMTYPE, f"a/../../../../../../../..{outside}"))
        tar.addfile(member("out/canary", size=4), io.BytesIO(b"evil"))
    return buffer.getvalue()


def pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    size = len(body) + len(str(len(body) + 2))
    return f"{size}{body}".encode()


def with_pax(key: str, value: str) -> bytes:
    """A member whose pax header says something else than the plain one."""
    record = pax_record(key, value)
    head = member("pax", tarfile.XHDTYPE, size=len(record)).tobuf(tarfile.USTAR_FORMAT)
    plain = member("model.py").tobuf(tarfile.USTAR_FORMAT)
    return head + record + bytes(-len(record) % 512) + plain + bytes(1024)


def zip_entry(name: str, mode: int = stat.S_IFREG | 0o644, data: bytes = b"evil") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for good, content in MODEL.items():
            archive.writestr(good, content)
        info = zipfile.ZipInfo("placeholder")
        info.filename = name  # the constructor would tidy it
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, data)
    return buffer.getvalue()


USTAR, GNU, PAX = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
LONG = f"{'d' * 100}/"  # more than a plain header takes: a GNU long name, a pax path
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "dots ustar": (lambda _: with_name("../../evil", USTAR), "has .. in its path"),
    "dots gnu long name": (lambda _: with_name(f"{LONG}../../evil", GNU), "has .. in its path"),
    "dots pax": (lambda _: with_name(f"{LONG}../../evil", PAX), "has .. in its path"),
    "dots only in pax": (lambda _: with_pax("path", "../evil"), "has .. in its path"),
    "absolute": (lambda out: with_name(f"{out}/canary", GNU), "has an absolute path"),
    "absolute pax": (lambda out: with_pax("path", f"{out}/canary"), "has an absolute path"),
    "symlink": (lambda out: with_member(tarfile.SYMTYPE, str(out)), "is a symbolic link"),
    "symlink gnu": (lambda out: with_member(tarfile.SYMTYPE, f"{out}/" * 20, GNU), "symbolic link|a link"),
    "hardlink": (lambda out: with_member(tarfile.LNKTYPE, f"{out}/canary"), "is a hard link"),
    "link chain": (link_chain, "is a symbolic link"),
    "device": (lambda _: with_member(tarfile.CHRTYPE), "is a character device"),
    "block device": (lambda _: with_member(tarfile.BLKTYPE), "is a block device"),
    "fifo": (lambda _: with_member(tarfile.FIFOTYPE), "is a FIFO"),
    "sparse": (lambda _: with_member(tarfile.GNUTYPE_SPARSE, fmt=GNU), "is a sparse file"),
    "sparse pax": (lambda _: with_pax("GNU.sparse.size", "1000000000000"), "sparse file"),
    "twice": (lambda _: with_name("./model.pt", GNU), "is there twice"),
    "file as folder": (lambda _: with_name("model.pt/evil", GNU), "is both a file and a folder"),
    "drive": (lambda _: with_name("C:/evil", GNU), "has a drive letter"),
    "colon": (lambda _: with_name("model.pt:evil", GNU), "has a colon in its name"),
    "nul": (lambda _: with_pax("path", "model.py\0/../evil"), "has a control character in its name"),
    "zip dots": (lambda _: zip_entry("../../evil"), "has .. in its path"),
    "zip absolute": (lambda out: zip_entry(f"{out}/canary"), "has an absolute path"),
    "zip symlink": (lambda out: zip_entry("evil", stat.S_IFLNK | 0o777, os.fsencode(out)), "a symbolic link"),
    "zip fifo": (lambda _: zip_entry("evil", stat.S_IFIFO | 0o644), "is a FIFO"),
    "zip backslash": (lambda _: zip_entry("..\\evil"), "has a backslash in its name"),
    "zip drive": (lambda _: zip_entry("C:evil"), "has a drive letter"),
    "zip colon": (lambda _: zip_entry("model.pt:evil"), "has a colon in its name"),
    "zip nul": (lambda _: zip_entry("evil\0.txt"), "has a control character in its name"),
    "zip twice": (lambda _: zip_entry("model.pt"), "is there twice"),
}


def tree_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: mode, links and content."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_nlink, content)
    return found


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_hostile_member_is_refused_before_anything_is_outside(tmp_path: Path, case: str) -> None:
    make, says = HOSTILE[case]
    outside, place, scratch = tmp_path / "outside", tmp_path / "place", tmp_path / "place/scratch"
    outside.mkdir()
    scratch.mkdir(parents=True)
    (outside / "canary").write_text("untouched")
    data = make(outside)
    archive = write(place / "iris.tgz", data if case.startswith("zip") else gzip.compress(data))
    before = tree_of(tmp_path)
    told = refused(archive, scratch=scratch).text
    assert re.match(r"iris\.tgz was not unpacked: .*(" + says + ")", told), told
    assert tree_of(tmp_path) == before


# row 44

GIB = 1024 * MIB


def zeros(compress: Callable[[bytes], bytes], size: int) -> bytes:
    """A compressed tar with a file of zeros: parts joined, so that it takes no time to make."""
    part = compress(bytes(64 * MIB))
    head = compress(member("model.pt", size=size).tobuf(GNU))
    return head + part * (size // (64 * MIB)) + compress(bytes(1024))


def zeros_behind(compress: Callable[[bytes], bytes], size: int) -> bytes:
    """The same with the zeros behind the end mark, where no header tells how many there are."""
    return compress(tar_of(MODEL)) + compress(bytes(64 * MIB)) * (size // (64 * MIB))


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    write(folder / "zeros.tgz", zeros(gzip.compress, 10 * GIB))
    write(folder / "zeros.txz", zeros(lzma.compress, 10 * GIB))
    write(folder / "behind.tgz", zeros_behind(gzip.compress, 10 * GIB))
    return folder


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("zeros.tgz", (), "it unpacks to more than 1000 times its [0-9]+ bytes.*raise --max_archive_ratio"),
        ("zeros.txz", (), "it unpacks to more than 1000 times its [0-9]+ bytes.*raise --max_archive_ratio"),
        ("behind.tgz", (), "there is data after the end of the tar, near byte [0-9]+"),
        (
            "zeros.tgz",
            ("--max_archive_ratio", "100000", "--max_unpacked_bytes", "10000000000"),
            "it unpacks to more than 10000000000 bytes.*raise --max_unpacked_bytes",
        ),
    ],
)
def test_ten_gib_of_zeros(bombs: Path, name: str, flags: tuple[str, ...], says: str) -> None:
    refusal = refused(bombs / name, *flags)
    assert re.search(says, refusal.text), refusal.text
    assert refusal.peak_bytes < 200 * MIB
    assert refusal.cpu_s < 10


def million_headers() -> Iterator[bytes]:
    """Tar headers of a million empty files, d000000 to d999999."""
    template = np.frombuffer(member("f000000").tobuf(USTAR), np.uint8)
    for start in range(0, 1_000_000, 50_000):
        block = np.tile(template, (50_000, 1))
        numbers = np.arange(start, start + 50_000)
        for place in range(6):
            block[:, 6 - place] = ord("0") + numbers // 10**place % 10
        block[:, 148:156] = ord(" ")
        sums = block.sum(axis=1)
        for place in range(6):
            block[:, 153 - place] = ord("0") + sums // 8**place % 8
        block[:, 154] = 0
        yield block.tobytes()


def test_a_million_files(tmp_path: Path) -> None:
    archive = tmp_path / "files.tgz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        for block in million_headers():
            file.write(block)
        file.write(bytes(1024))
    with gzip.open(archive) as file:
        assert tarfile.TarInfo.frombuf(file.read(512), "utf-8", "strict").name == "f000000"
    refusal = refused(archive)
    assert "it holds more than 100000 files and folders. " in refusal.text
    assert "raise --max_archive_members" in refusal.text
    assert refusal.peak_bytes < 200 * MIB
    assert refusal.cpu_s < 60


def test_a_zip_of_a_million_files_is_refused_by_its_directory(tmp_path: Path) -> None:
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 7, 0)
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    names = [b"f%06d" % number for number in range(1_000_000)]
    directory = b"".join(central + name for name in names)
    entries = b"".join(local + name for name in names)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 1_000_000 % 65536, len(directory), len(entries), 0)
    refusal = refused(write(tmp_path / "files.zip", entries + directory + end))
    assert "it holds more than 100000 files and folders. " in refusal.text
    assert "raise --max_archive_members" in refusal.text
    assert refusal.peak_bytes < 200 * MIB
    assert refusal.cpu_s < 10


@pytest.mark.parametrize("kind", ["gnu", "pax", "zip", "one by one"])
def test_a_path_of_4000_folders(tmp_path: Path, kind: str) -> None:
    deep = "d/" * 4000 + "model.py"
    if kind == "zip":
        data = zip_of({deep: b""})
    elif kind == "one by one":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for depth in range(1, 4001):
                tar.addfile(member("d/" * depth, tarfile.DIRTYPE))
        data = buffer.getvalue()
    else:
        data = tar_of({deep: b""}, GNU if kind == "gnu" else PAX)
    refusal = refused(write(tmp_path / "deep.tgz", data))
    assert "folders deep, the limit is 64. " in refusal.text
    assert "raise --max_archive_depth" in refusal.text
    assert refusal.cpu_s < 10


# row 49

PROGRAM = textwrap.dedent(
    """
    import torch

    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x
    """
).encode()


def test_the_archives_name_means_nothing_and_one_folder_on_top_is_left_out(tmp_path: Path) -> None:
    models = {
        "0001.tar.gz": gzip.compress(tar_of({"model.py": PROGRAM})),
        "names.txt": zip_of({"model.py": PROGRAM}),
        "bare": lzma.compress(tar_of({"model.py": PROGRAM})),
        "archive.zip": tar_of({"model.py": PROGRAM}),
        "deep.tgz": gzip.compress(tar_of({"iris/model.py": PROGRAM, "__MACOSX/x": b"", "._iris": b""})),
    }
    paths = [f"m{i}={write(tmp_path / name, data)}" for i, (name, data) in enumerate(models.items())]
    with serving(["-m", "modelserver", *paths], tmp_path / "log") as server:
        for i in range(len(models)):
            answer = server.wait_ready(f"m{i}").predict({"instances": [[1.5]]}, f"m{i}")
            assert answer.json() == {"predictions": [[3.0]]}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["v1/saved_model.pb", "v2/saved_model.pb"], ['"v2" is not a whole number', "mv v2 1"]),
        (["iris/0.1/saved_model.pb"], ['"0.1" is not a whole number', "mv 0.1 1"]),
        (["1/model/saved_model.pb"], ["Found: 1/.", "mv 1/model/* 1/"]),
        (["a/b/1/saved_model.pb"], ["holds b/. Expected one of: ", "in a folder named by a whole number"]),
    ],
)
def test_another_layout_is_refused_with_the_one_that_is_wanted(
    tmp_path: Path, names: list[str], says: list[str]
) -> None:
    told = refused(write(tmp_path / "iris.tgz", gzip.compress(tar_of(dict.fromkeys(names, b"x"))))).text
    assert [part for part in says if part not in told] == [], told
    assert "0001" in told
    assert str(tmp_path) not in told
