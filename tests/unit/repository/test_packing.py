"""``pack`` makes archives that unpack to what it was given, or says why they could not be served."""

from __future__ import annotations

import io
import os
import random
import resource
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelserver.errors import ArchiveError, ModelLoadError
from modelserver.repository.archives import is_archive, pack, unpack
from modelserver.repository.torch_files import torch_file

# Names as PyTorch 2.13 writes them; test_with_torch_itself looks at real ones.
TORCH_ZIPS = {
    "torch.save": ["data.pkl", ".format_version", "byteorder", "data/0", "version", ".data/serialization_id"],
    "TorchScript": ["data/0", "data.pkl", "code/__torch__.py", "constants.pkl", "version", "byteorder"],
    "torch.export": ["data/weights/weight_0", "models/model.json", "archive_format", "archive_version"],
}


def torch_zip(kind: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in TORCH_ZIPS[kind]:
            archive.writestr(f"model/{name}", b"content")
    return buffer.getvalue()


VALUES, SCRIPT, EXPORT = (torch_zip(kind) for kind in TORCH_ZIPS)
CODE = b"class Net: ...\n"
TORCH = {"model.py": CODE, "model.pt": VALUES}
SAVED_MODEL = {
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"f",
    "variables/variables.index": b"i",
    "variables/variables.data-00000-of-00001": bytes(1000),
    "assets/": b"",
}


def lay(folder: Path, files: Mapping[str, bytes], below: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        path = folder / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(data)
    return folder


def tree_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def round_trip(output: Path) -> dict[str, bytes]:
    target = output.parent / "unpacked"
    unpack(output, target)
    return tree_of(target)


# PyTorch


def test_a_pytorch_folder_is_packed_flat(tmp_path: Path) -> None:
    files = {**TORCH, "layers.py": b"", "vocabulary/words.txt": b"a\nb", "empty/": b""}
    source, output = lay(tmp_path / "iris", files), tmp_path / "iris.tgz"
    members = pack(source, output)
    assert members == ["empty/", "layers.py", "model.pt", "model.py", "vocabulary/", "vocabulary/words.txt"]
    assert round_trip(output) == tree_of(source)


def test_the_tar_command_sees_the_same(tmp_path: Path) -> None:
    """The specification's ``tar czvf iris.tgz *`` gives the same members."""
    source = lay(tmp_path / "frozen", {**TORCH, "util/text.py": b""})
    ours = pack(source, tmp_path / "ours.tgz")
    subprocess.run("tar czf ../theirs.tgz *", shell=True, cwd=source, check=True)
    listed = [
        subprocess.run(["tar", "tzf", tmp_path / name], stdout=subprocess.PIPE, text=True).stdout.split()
        for name in ("ours.tgz", "theirs.tgz")
    ]
    assert sorted(listed[0]) == sorted(listed[1]) == sorted(ours)


def test_files_are_packed_under_their_names(tmp_path: Path) -> None:
    lay(tmp_path, {"src/model.py": CODE, "weights/best.pth": VALUES, "src/helpers/a.py": b""})
    sources = [tmp_path / "src/model.py", tmp_path / "weights/best.pth", tmp_path / "src/helpers"]
    assert pack(sources, tmp_path / "m.tgz") == ["best.pth", "helpers/", "helpers/a.py", "model.py"]


@pytest.mark.parametrize(
    ("name", "data"), [("m.pt", SCRIPT), ("m.pth", SCRIPT), ("m.pt2", EXPORT), ("m.pt", EXPORT)]
)
def test_a_program_needs_no_code(tmp_path: Path, name: str, data: bytes) -> None:
    lay(tmp_path, {name: data})
    assert pack(tmp_path / name, tmp_path / "m.tgz") == [name]


@pytest.mark.parametrize("weights", ["model.pt", "w.pth", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("code", ["model.py", "iris.py"])
def test_code_and_one_file_of_weights(tmp_path: Path, code: str, weights: str) -> None:
    source = lay(
        tmp_path / "m", {code: CODE, weights: VALUES, "__init__.py": b"", ".env.py": b"", ".old.pt": b""}
    )
    assert {code, weights} < set(pack(source, tmp_path / "m.tgz"))


def test_model_pt_is_chosen_among_several(tmp_path: Path) -> None:
    pack(lay(tmp_path / "m", {**TORCH, "old.pt": VALUES, "optimizer.bin": b""}), tmp_path / "m.tgz")


@pytest.mark.parametrize(
    ("files", "texts"),
    [
        ({}, ["found nothing, no model", "expected model.py with its weights", "0001/saved_model.pb"]),
        ({"a.txt": b"", "b/c.csv": b""}, ["found a.txt, b/, no model that can be served"]),
        ({"a.py": CODE, "b.py": CODE, "w.pt": VALUES}, ["found a.py, b.py, and none is model.py", "Rename"]),
        ({"model.py": CODE}, ["found model.py and no weights", "torch.save(model.state_dict(), 'model.pt')"]),
        (
            {"w.pt": VALUES},
            [
                "found w.pt, which is no TorchScript or torch.export program, and no model.py",
                "torch.jit.script",
            ],
        ),
        ({"w.safetensors": b""}, ["no model.py"]),
        ({"w.pt": b"\x80\x02old pickle"}, ["no model.py"]),
        ({"model.pt": VALUES, "script.pt": SCRIPT}, ["found model.pt, which is no", "no model.py"]),
        ({"model.py": CODE, "w.pt": SCRIPT}, ["w.pt is a TorchScript program", "expected one or the other"]),
        ({"model.py": CODE, "w.pt2": EXPORT}, ["w.pt2 is a torch.export program"]),
        (
            {"model.py": CODE, "a.pt": VALUES, "b.bin": b""},
            ["found a.pt, b.bin, and none is model.pt", "Rename"],
        ),
        ({"a.pt": SCRIPT, "b.pt2": EXPORT}, ["found a.pt, b.pt2, and none is model.pt"]),
        ({"a.pt": SCRIPT, "b.pt": VALUES}, ["found a.pt, b.pt, and none is model.pt"]),
        ({"w.pt2": b"no zip"}, ["found w.pt2, which is no TorchScript"]),
        ({"iris.keras": b""}, ["keras.models.load_model('iris.keras').export('0001')"]),
        ({"v1/saved_model.pb": b"", "v2/saved_model.pb": b""}, ["v1/ is a SavedModel", "`mv v1 0001`"]),
        (
            {"model/model.py": CODE, "readme": b"", "model/model.pt": VALUES},
            ["found model/, readme, no model"],
        ),
    ],
)
def test_what_would_not_serve(tmp_path: Path, files: dict[str, bytes], texts: list[str]) -> None:
    source = lay(tmp_path / "iris", files)
    with pytest.raises(ModelLoadError) as caught:
        pack(source, tmp_path / "iris.tgz")
    assert not isinstance(caught.value, ArchiveError)
    assert str(caught.value).startswith("iris was not packed: ")
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert names_in(tmp_path) == ["iris"]


# TensorFlow


@pytest.mark.parametrize(
    ("version", "top"), [(None, "0001"), (1, "0001"), (7, "0007"), (20240101, "20240101")]
)
def test_a_saved_model_gets_a_version_folder(tmp_path: Path, version: int | None, top: str) -> None:
    source, output = lay(tmp_path / "export", SAVED_MODEL), tmp_path / "iris.tar.gz"
    members = pack(source, output, version=version)
    assert members[0] == f"{top}/"
    unpacked = round_trip(output)
    assert unpacked == {f"{top}/": b""} | {f"{top}/{name}": data for name, data in tree_of(source).items()}


def test_a_numbered_folder_keeps_its_number(tmp_path: Path) -> None:
    """As the specification's ``tar -czvf iris.tar.gz 0001``."""
    source = lay(tmp_path / "0003", SAVED_MODEL)
    assert pack(source, tmp_path / "a.tgz")[0] == "0003/"
    assert pack(source, tmp_path / "b.tgz", version=4)[0] == "0004/"


def test_version_folders_are_packed_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "iris"
    lay(source, SAVED_MODEL, "0001")
    lay(source, SAVED_MODEL, "12")
    lay(source, {"labels.txt": b"setosa"})
    pack(source, tmp_path / "iris.tgz")
    assert round_trip(tmp_path / "iris.tgz") == tree_of(source)
    members = pack([source / "0001", source / "12"], tmp_path / "two.tgz")
    assert {member.partition("/")[0] for member in members} == {"0001", "12"}


def test_a_pbtxt_is_a_saved_model(tmp_path: Path) -> None:
    assert pack(lay(tmp_path / "m", {"saved_model.pbtxt": b""}), tmp_path / "m.tgz") == [
        "0001/",
        "0001/saved_model.pbtxt",
    ]


def test_one_redundant_top_folder_is_left_out(tmp_path: Path) -> None:
    source = lay(tmp_path / "download", TORCH, "iris")
    lay(source, {"__MACOSX/x": b"", ".DS_Store": b""})
    assert pack(source, tmp_path / "m.tgz") == ["model.pt", "model.py"]


@pytest.mark.parametrize(
    ("files", "version", "text"),
    [
        ({"0001/saved_model.pb": b"", "0002/weights": b""}, None, "0002/ holds no saved_model.pb"),
        ({"0001/saved_model.pb": b"", "1/saved_model.pb": b""}, None, "0001, 1 are the same version"),
        ({"0001/saved_model.pb": b""}, 2, "version folders already (0001). Leave version 2 out."),
        ({"saved_model.pb": b""}, -1, "the version is -1; expected 0 or more"),
        (TORCH, 2, "a PyTorch model, and version 2 is for TensorFlow's SavedModels"),
    ],
)
def test_versions_that_cannot_be(
    tmp_path: Path, files: dict[str, bytes], version: int | None, text: str
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        pack(lay(tmp_path / "iris", files), tmp_path / "iris.tgz", version=version)
    assert text in str(caught.value)


# The archive


@pytest.mark.parametrize("name", ["m.tgz", "m.tar.gz", "m.tar"])
def test_the_same_sources_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    archives = []
    for number, order in enumerate([list(TORCH), list(TORCH)[::-1]]):
        source = lay(tmp_path / f"source{number}", {key: TORCH[key] for key in order})
        os.utime(source / "model.py", (time.time() - 1000 * number,) * 2)
        (source / "model.py").chmod(0o600 + number)
        (tmp_path / f"out{number}").mkdir()
        pack(source, tmp_path / f"out{number}" / name)
        archives.append((tmp_path / f"out{number}" / name).read_bytes())
    assert archives[0] == archives[1]
    assert (archives[0][:2] == b"\x1f\x8b") == (name != "m.tar")


def test_members_say_nothing_of_this_machine(tmp_path: Path) -> None:
    pack(lay(tmp_path / "m", {**TORCH, "a/b": b""}), tmp_path / "m.tgz")
    with tarfile.open(tmp_path / "m.tgz") as tar:
        found = {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode, m.type) for m in tar}
    assert found == {(0, 0, "", "", 0, 0o644, tarfile.REGTYPE), (0, 0, "", "", 0, 0o755, tarfile.DIRTYPE)}
    assert stat.S_IMODE((tmp_path / "m.tgz").stat().st_mode) == 0o644


def test_junk_is_left_out(tmp_path: Path) -> None:
    junk = [
        "__pycache__/m.pyc",
        ".DS_Store",
        ".ipynb_checkpoints/a.py",
        ".git/config",
        "util/._a.py",
        "util/__pycache__/x",
    ]
    source = lay(tmp_path / "m", {**TORCH, "util/a.py": b"", **dict.fromkeys(junk, b"")})
    assert pack(source, tmp_path / "m.tgz") == ["model.pt", "model.py", "util/", "util/a.py"]
    assert pack(list(source.iterdir()), tmp_path / "m2.tgz") == ["model.pt", "model.py", "util/", "util/a.py"]


def test_the_archive_may_lie_in_the_folder(tmp_path: Path) -> None:
    lay(tmp_path, TORCH)
    first = pack(tmp_path, tmp_path / "m.tgz")
    size = (tmp_path / "m.tgz").stat().st_size
    assert first == ["model.pt", "model.py"] == pack(tmp_path, tmp_path / "m.tgz", overwrite=True)
    assert (tmp_path / "m.tgz").stat().st_size == size
    assert is_archive(tmp_path / "m.tgz")


def test_a_link_inside_is_packed_as_its_file(tmp_path: Path) -> None:
    source = lay(tmp_path / "m", {"model.py": CODE, "blobs/abc": VALUES})
    (source / "model.pt").symlink_to("blobs/abc")
    pack(source, tmp_path / "m.tgz")
    assert round_trip(tmp_path / "m.tgz")["model.pt"] == VALUES


def test_links_that_lead_elsewhere(tmp_path: Path) -> None:
    lay(tmp_path, {"secret.txt": b"secret"})
    source = lay(tmp_path / "m", {**TORCH, "util/a.py": b""})
    for target, text in {
        "../secret.txt": "'link' is a link that leads out of the folder; expected files in it. Copy",
        "../nowhere": "leads out of the folder",
        "util": "'link' is a link to a folder",
        "nowhere": "'link' does not exist",
        "link": "'link' does not exist",
    }.items():
        (source / "link").symlink_to(target)
        with pytest.raises(ArchiveError) as caught:
            pack(source, tmp_path / "m.tgz")
        assert text in str(caught.value)
        (source / "link").unlink()
    assert names_in(tmp_path) == ["m", "secret.txt"]


def test_a_fifo(tmp_path: Path) -> None:
    source = lay(tmp_path / "m", TORCH)
    os.mkfifo(source / "pipe")
    with pytest.raises(ArchiveError, match="'pipe' is not a regular file"):
        pack(source, tmp_path / "m.tgz")


def test_names_that_unpack_would_refuse(tmp_path: Path) -> None:
    for name, text in {"a\\b": "backslash", "a\nb": "control character", "\udcff": "not UTF-8"}.items():
        source = lay(tmp_path / "m", {**TORCH, name: b""})
        with pytest.raises(ArchiveError, match=text):
            pack(source, tmp_path / "m.tgz")
        (source / name).unlink()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("there.tgz", "'there.tgz' is there already. Remove it first, or pack with --overwrite."),
        ("dangling.tgz", "there already"),
        ("folder.tgz", "'folder.tgz' is a folder"),
        ("nowhere/m.tgz", "the folder 'nowhere' for the archive does not exist"),
        ("m.zip", "'m.zip'; expected a name with .tgz, .tar.gz or .tar"),
        ("m", "'m'; expected a name with"),
    ],
)
def test_outputs_that_cannot_be(tmp_path: Path, name: str, text: str) -> None:
    source = lay(tmp_path / "m", TORCH)
    (tmp_path / "there.tgz").write_bytes(b"precious")
    (tmp_path / "folder.tgz").mkdir()
    (tmp_path / "dangling.tgz").symlink_to("nothing")
    with pytest.raises(ArchiveError) as caught:
        pack(source, tmp_path / name)
    assert text in str(caught.value)
    assert (tmp_path / "there.tgz").read_bytes() == b"precious"
    pack(source, tmp_path / "there.tgz", overwrite=True)
    assert is_archive(tmp_path / "there.tgz")


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="'none' does not exist"):
        pack(tmp_path / "none", tmp_path / "m.tgz")
    lay(tmp_path, {"a/model.py": CODE, "b/model.py": CODE})
    with pytest.raises(ArchiveError, match=r"two files are called 'model\.py'"):
        pack([tmp_path / "a/model.py", tmp_path / "b/model.py"], tmp_path / "m.tgz")
    with pytest.raises(ModelLoadError, match="found nothing"):
        pack([], tmp_path / "m.tgz")


def test_a_write_that_fails_leaves_the_old_archive(tmp_path: Path) -> None:
    source = lay(tmp_path / "m", {"model.py": CODE, "model.pt": random.Random(0).randbytes(300_000)})
    (tmp_path / "m.tgz").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # stands for a full disk
    try:
        with pytest.raises(ArchiveError, match=r"^m was not packed: File too large\.$"):
            pack(source, tmp_path / "m.tgz", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == ["m", "m.tgz"]
    assert (tmp_path / "m.tgz").read_bytes() == b"old"


# PyTorch's files


def test_torch_files_are_told_by_what_is_in_the_zip(tmp_path: Path) -> None:
    for kind in TORCH_ZIPS:
        (tmp_path / "file").write_bytes(torch_zip(kind))
        assert torch_file(tmp_path / "file") == kind
        assert not is_archive(tmp_path / "file")
    for data in (b"", b"\x80\x02pickle", b"PK\x03\x04cut off"):
        (tmp_path / "file").write_bytes(data)
        assert torch_file(tmp_path / "file") is None


def test_torch_export_before_2_7(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in ("version", "serialized_exported_program.json", "serialized_state_dict.pt"):
            archive.writestr(name, b"")
    assert torch_file(tmp_path / "m.pt2") == "torch.export"


WITH_TORCH = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
net = torch.nn.Linear(2, 1)
torch.save(net.state_dict(), "values.pt")
torch.jit.trace(net, torch.ones(1, 2)).save("script.pt")
torch.export.save(torch.export.export(net, (torch.ones(1, 2),)), "export.pt2")
"""


def test_with_torch_itself(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", WITH_TORCH], cwd=tmp_path, check=True)
    found = {path.name: torch_file(path) for path in tmp_path.iterdir()}
    assert found == {"values.pt": "torch.save", "script.pt": "TorchScript", "export.pt2": "torch.export"}


@pytest.mark.parametrize(
    ("files", "place"),
    [
        (TORCH, "warmup.json"),
        (SAVED_MODEL, "0001/warmup.json"),
        ({f"0002/{name}": data for name, data in SAVED_MODEL.items()}, "warmup.json"),
    ],
)
def test_requests_for_warming_up_are_packed_beside_the_model(tmp_path, files, place):
    folder = lay(tmp_path / "m", {**files, "warmup.json": b'{"instances": [1]}'})
    assert place in pack(folder, tmp_path / "m.tgz")


@pytest.mark.parametrize("name", ["warmup.json", "0001/warmup.json"])
def test_what_is_no_request_for_warming_up_is_not_packed(tmp_path, name):
    files = {f"0001/{each}": data for each, data in SAVED_MODEL.items()}
    folder = lay(tmp_path / "m", {**files, name: b"{"})
    with pytest.raises(ModelLoadError, match=r"^warmup\.json cannot be read as JSON"):
        pack(folder, tmp_path / "m.tgz")
    assert not (tmp_path / "m.tgz").exists()
