"""Whatever an archive holds: it is unpacked whole or not at all, and nothing is written elsewhere."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from modelserver.errors import ArchiveError
from modelserver.repository.archives import pack, unpack

Tree = dict[str, bytes | None]
Entry = tuple[str, bytes, str, bytes]
"""Name, tar type, link target, content."""

EXAMPLES = settings(max_examples=250, deadline=None)

parts = st.sampled_from(
    [
        "a",
        "b",
        "model.py",
        "0001",
        "..",
        ".",
        "",
        "C:",
        "a\\b",
        "..\\a",
        "é",
        "模",
        "n\0n",
        "\n",
        "\udcff",
        "x" * 120,
    ]
)
hostile_names = st.builds("/".join, st.lists(parts, min_size=1, max_size=5))
plain_names = st.builds("/".join, st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
names = hostile_names | plain_names | st.text(max_size=8)
types = st.sampled_from([b"0", b"0", b"0", b"\0", b"5", b"1", b"2", b"3", b"6", b"7", b"S", b"K", b"Q"])
links = st.sampled_from(["", "a", "..", "../outside", "../outside/canary", "/", "/tmp"])
hostile = st.tuples(names, types, links, st.binary(max_size=20))
harmless = st.tuples(plain_names, st.sampled_from([b"0", b"0", b"5"]), st.just(""), st.binary(max_size=20))


def as_tar(entries: list[Entry], fmt: int) -> bytes:
    out = bytearray()
    for name, type, link, data in entries:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = type, link, 0o7777
        info.size = 0 if type == b"5" else len(data)
        out += info.tobuf(fmt, "utf-8", "surrogateescape")
        out += b"" if type == b"5" else data + bytes(-len(data) % 512)
    return bytes(out) + bytes(1024)


def as_zip(entries: list[Entry]) -> bytes:
    """A zip with these very names; ``zipfile`` would tidy them."""
    modes = {b"0": stat.S_IFREG, b"\0": 0, b"5": stat.S_IFDIR, b"2": stat.S_IFLNK, b"6": stat.S_IFIFO}
    out, directory = bytearray(), bytearray()
    for name, type, link, data in entries:
        raw = (name + "/" * (type == b"5")).encode("utf-8", "surrogateescape")
        data = {b"5": b"", b"2": link.encode()}.get(type, data)
        fields = struct.pack(
            "<HHHHHLLLHH", 20, 0x800, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(raw), 0
        )
        mode = modes.get(type, stat.S_IFCHR) << 16
        directory += b"PK\x01\x02\x14\x03" + fields + struct.pack("<HHHLL", 0, 0, 0, mode, len(out)) + raw
        out += b"PK\x03\x04" + fields + raw + data
    end = struct.pack("<HHHHLLH", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return bytes(out + directory) + b"PK\x05\x06" + end


def tree_of(folder: Path) -> Tree:
    """Every path below; links are not followed and not allowed."""
    found: Tree = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), f"{path} is {stat.filemode(mode)}"
        found[path.relative_to(folder).as_posix()] = path.read_bytes() if stat.S_ISREG(mode) else None
    return found


def expected_tree(entries: list[Entry]) -> Tree:
    """What the archive is if it is harmless."""
    tree: Tree = {}
    for name, type, _, data in entries:
        path = "/".join(part for part in name.split("/") if part not in ("", "."))
        for end in [n for n, character in enumerate(path) if character == "/"]:
            tree[path[:end]] = None
        if path:
            tree[path] = None if type == b"5" or name.endswith("/") else data
    return tree


def unpack_somewhere(data: bytes) -> Tree | None:
    """What was unpacked, ``None`` if it was refused; a failure if anything else on the disk changed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "outside").mkdir()
        (root / "outside/canary").write_bytes(b"untouched")
        (root / "work").mkdir()
        archive = root / "work/archive"
        archive.write_bytes(data)
        before = tree_of(root)
        refusal = ""
        try:
            unpack(archive, root / "work/target")
        except ArchiveError as error:
            refusal = str(error)
        if refusal:
            assert tree_of(root) == before
            assert refusal.startswith("archive was not unpacked: ")
            assert refusal.isprintable()
            event("refused")
            return None
        unpacked = tree_of(root / "work/target")
        after = {name: data for name, data in tree_of(root).items() if not name.startswith("work/target")}
        assert after == before
        event("unpacked")
        return unpacked


@given(
    st.lists(harmless | hostile, min_size=1, max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
@EXAMPLES
def test_any_tar_is_unpacked_whole_or_not_at_all(entries: list[Entry], fmt: int) -> None:
    unpacked = unpack_somewhere(as_tar(entries, fmt))
    assert unpacked is None or unpacked == expected_tree(entries)


@given(st.lists(harmless | hostile, min_size=1, max_size=4))
@EXAMPLES
def test_any_zip_is_unpacked_whole_or_not_at_all(entries: list[Entry]) -> None:
    unpacked = unpack_somewhere(as_zip(entries))
    assert unpacked is None or unpacked == expected_tree(entries)


ENTRIES: list[Entry] = [
    ("0001", b"5", "", b""),
    ("0001/saved_model.pb", b"0", "", random.Random(0).randbytes(300)),
    ("b", b"0", "", b"b"),
]
DEFLATED = io.BytesIO()
with zipfile.ZipFile(DEFLATED, "w", zipfile.ZIP_DEFLATED) as _archive:
    for _name, _, _, _data in ENTRIES[1:]:
        _archive.writestr(_name, _data)
WHOLE = [gzip.compress(as_tar(ENTRIES, tarfile.PAX_FORMAT)), as_zip(ENTRIES), DEFLATED.getvalue()]


@given(st.sampled_from(WHOLE), st.integers(min_value=0), st.integers(0, 255), st.booleans())
@EXAMPLES
def test_a_damaged_archive_is_the_whole_model_or_refused(data: bytes, at: int, byte: int, cut: bool) -> None:
    """Of checksummed kinds: gzip and zip. A plain tar has no checksum of its contents."""
    at %= len(data)
    damaged = data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :]
    unpacked = unpack_somewhere(damaged)
    assert unpacked is None or unpacked == expected_tree(ENTRIES)


@given(
    st.sampled_from([b"", b"\x1f\x8b\x08", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\x00"]), st.binary(max_size=200)
)
@EXAMPLES
def test_any_bytes_are_refused_with_words(magic: bytes, data: bytes) -> None:
    assert unpack_somewhere(magic + data) is None


files = st.dictionaries(plain_names, st.binary(max_size=50), max_size=5).filter(
    lambda found: not any(a != b and b.startswith(f"{a}/") for a in found for b in found)
)


@given(files, st.sampled_from(["m.tgz", "m.tar"]))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_is_what_is_unpacked(extra: dict[str, bytes], output: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        for name, data in {**extra, "model.py": b"code", "model.pt": b"weights"}.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        members = pack(source, Path(folder) / output)
        unpack(Path(folder) / output, Path(folder) / "target")
        assert tree_of(Path(folder) / "target") == tree_of(source)
        assert sorted(name.rstrip("/") for name in members) == sorted(tree_of(source))
