"""Make a correct archive of a model, or say why what is there could not be served.

    folder | files  ->  members  ->  laid out as its predictor wants it  ->  .tgz | .tar

Rules of the room: what ``archives.unpack`` would refuse is refused here already; the same sources give the
same bytes; no framework is imported. The rules for PyTorch and TensorFlow are docs/packaging.md's.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from modelserver.errors import ArchiveError, ModelLoadError
from modelserver.predictor import WARMUP_FILE, warmup_requests
from modelserver.repository.archive_members import Refused, UnpackLimits, safe_path, shown
from modelserver.repository.model_folder import is_junk, is_version, model_root
from modelserver.repository.torch_files import torch_file

_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".pt2")
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_SHOWN = 10
_COMPRESS_LEVEL = 6  # tar's default. Weights hardly get smaller; 9 costs several times the time
_WANTED = (
    "model.py with its weights (model.pt, or one *.pt, *.pth, *.bin or *.safetensors), a TorchScript or .pt2 "
    "file, or a TensorFlow SavedModel (saved_model.pb, or version folders such as 0001/saved_model.pb)"
)

Members = dict[str, Path]
"""Paths in the archive, and the file or folder on the disk that each is."""


def pack(
    sources: Path | Sequence[Path], output: Path, *, version: int | None = None, overwrite: bool = False
) -> list[str]:
    """Pack a PyTorch or TensorFlow model into an archive that this server serves.

    A PyTorch model is packed flat: ``model.py``, weights, helper modules. A SavedModel goes into a version
    folder; version folders are packed as they are. Caches and an operating system's own files are left out.

    Args:
        sources: a model's folder, or files and folders that go to the top of the archive under their names.
        output: the archive to make: ``.tgz``, ``.tar.gz`` or ``.tar``.
        version: of a SavedModel that is in no version folder. Default: 1, or the folder's name if that is
            a number.
        overwrite: whether ``output`` may be there already.

    Returns:
        The paths in the archive, in its order; folders end with ``/``.

    Raises:
        ModelLoadError: what is there could not be served; the text says what is there and what was expected.
        ArchiveError: it cannot be packed: links that lead out of the folder, ``output`` exists, disk full.
    """
    given = [sources] if isinstance(sources, Path) else list(sources)
    try:
        _check_output(output, overwrite=overwrite)
        members = _lay_out(*_gather(given, output), version)
        for name in members:
            safe_path(name, UnpackLimits())
        with _replaced(output) as file:
            return _write(members, file, compress=not output.name.endswith(".tar"))
    except _Unservable as refused:
        raise ModelLoadError(f"{_names(given)} was not packed: {refused}") from None
    except Refused as refused:
        raise ArchiveError(f"{_names(given)} was not packed: {refused}") from None
    except OSError as error:
        where = f" ({shown(Path(error.filename).name)})" if error.filename else ""
        raise ArchiveError(f"{_names(given)} was not packed: {error.strerror or error}{where}.") from error


def _names(paths: Sequence[Path]) -> str:
    names = [path.name or path.resolve().name for path in paths]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "nothing"


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.name.endswith((".tgz", ".tar.gz", ".tar")):
        raise Refused(
            f"the archive is to be called {shown(output.name)}", "a name with .tgz, .tar.gz or .tar"
        )
    if output.is_dir():
        raise Refused(f"{shown(output.name)} is a folder", "a file's name")
    if os.path.lexists(output) and not overwrite:
        raise Refused(
            f"{shown(output.name)} is there already", fix="Remove it first, or pack with --overwrite."
        )
    if not output.parent.is_dir():
        raise Refused(f"the folder {shown(output.parent.name)} for the archive does not exist")


# What is there


def _gather(sources: Sequence[Path], output: Path) -> tuple[Members, str]:
    """Everything to pack by its path below the top; and the folder's name if there is one folder."""
    for source in sources:
        if not source.exists():
            raise Refused(f"{shown(source.name)} does not exist", "a folder or files")
    skip = output.resolve()
    if len(sources) == 1 and sources[0].is_dir():
        root = model_root(sources[0].resolve())
        return dict(_walk(root, root, "", skip)), root.name
    members: Members = {}
    for source in sources:
        name = source.name or source.resolve().name
        if name in members:
            raise Refused(f"two files are called {shown(name)}", "one file for each name at the top")
        if is_junk(name) or source.resolve() == skip:
            continue
        if source.is_dir():
            members[name] = source.resolve()
            members.update(_walk(source.resolve(), source.resolve(), f"{name}/", skip))
        else:
            members[name] = _regular(source, name)
    return members, ""


def _walk(folder: Path, root: Path, prefix: str, skip: Path) -> Iterator[tuple[str, Path]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if is_junk(entry.name) or entry == skip:
            continue
        if entry.is_symlink():
            yield name, _link_target(entry, root, name)
        elif entry.is_dir():
            yield name, entry
            yield from _walk(entry, root, f"{name}/", skip)
        else:
            yield name, _regular(entry, name)


def _link_target(link: Path, root: Path, name: str) -> Path:
    """The file in the same folder that a link stands for; archives hold no links."""
    target = Path(os.path.realpath(link))  # resolve() raises RuntimeError for a link to itself
    if not target.is_relative_to(root):
        fix = "Copy the folder with its links resolved: `cp -rL FOLDER COPY`, and pack the copy."
        raise Refused(f"{shown(name)} is a link that leads out of the folder", "files in it", fix)
    if target.is_dir():
        raise Refused(
            f"{shown(name)} is a link to a folder", "files and folders", "Copy the folder in its place."
        )
    return _regular(target, name)


def _regular(path: Path, name: str) -> Path:
    if not path.is_file():
        found = "does not exist" if not path.exists() else "is not a regular file"
        raise Refused(f"{shown(name)} {found}", "regular files and folders")
    return path


# How it is laid out


class _Unservable(Refused):
    """What is there can be packed, but no predictor would serve it."""


def _lay_out(members: Members, folder_name: str, version: int | None) -> Members:
    """Names as the model's predictor wants them."""
    for name, path in members.items():
        if name.rpartition("/")[2] == WARMUP_FILE and name.count("/") <= 1:
            warmup_requests(path.parent)
    tops = {name.partition("/")[0] for name in members}
    numbered = sorted(top for top in tops if is_version(top) and members[top].is_dir())
    if any(_holds_graph(members, f"{top}/") for top in numbered):
        _check_version_folders(members, numbered, version)
        return members
    if _holds_graph(members, ""):
        return _in_version_folder(members, folder_name, version)
    _check_torch(members)
    if version is not None:
        raise _Unservable(
            f"it is a PyTorch model, and version {version} is for TensorFlow's SavedModels",
            fix="Leave it out.",
        )
    return members


def _holds_graph(members: Mapping[str, Path], prefix: str) -> bool:
    return any(prefix + name in members for name in _SAVED_MODEL)


def _check_version_folders(members: Members, numbered: list[str], version: int | None) -> None:
    found = ", ".join(numbered)
    if version is not None:
        raise _Unservable(f"there are version folders already ({found})", fix=f"Leave version {version} out.")
    if len({int(name) for name in numbered}) < len(numbered):
        raise _Unservable(
            f"two of the folders {found} are the same version", "each version once", "Rename one."
        )
    for name in numbered:
        if not _holds_graph(members, f"{name}/"):
            raise _Unservable(
                f"{name}/ holds no saved_model.pb", "one in every version folder", "Complete it."
            )


def _in_version_folder(members: Members, folder_name: str, version: int | None) -> Members:
    if version is not None and version < 0:
        raise _Unservable(f"the version is {version}", "0 or more")
    if version is None and is_version(folder_name):
        top = folder_name  # pack 0001 -o iris.tgz: the specification's `tar -czvf iris.tar.gz 0001`
    else:
        top = f"{1 if version is None else version:04d}"
    folder = next(members[name] for name in _SAVED_MODEL if name in members).parent
    return {top: folder} | {f"{top}/{name}": path for name, path in members.items()}


def _check_torch(members: Members) -> None:
    """Refuse what the PyTorch predictor would refuse by looking at the folder."""
    top = [name for name, path in members.items() if not name.startswith(".") and path.is_file()]
    code = sorted(name for name in top if "/" not in name and name.endswith(".py") and name != "__init__.py")
    weights = sorted(name for name in top if "/" not in name and name.endswith(_WEIGHTS))
    if not (code or weights):
        raise _Unservable(f"found {_listing(members)}, no model that can be served", _WANTED, _hint(members))
    if len(code) > 1 and "model.py" not in code:
        raise _Unservable(
            f"found {', '.join(code)}, and none is model.py",
            "the model's class in model.py; other modules may lie beside it",
            "Rename the file with the class to model.py.",
        )
    if not weights:
        raise _Unservable(
            f"found {', '.join(code)} and no weights",
            "model.pt, or one *.pt, *.pth, *.bin or *.safetensors",
            "Save them: `torch.save(model.state_dict(), 'model.pt')`.",
        )
    if len(weights) > 1 and "model.pt" not in weights:
        raise _Unservable(
            f"found {', '.join(weights)}, and none is model.pt",
            "model.pt, or one file of weights",
            "Rename the one to serve to model.pt, or leave the others out.",
        )
    chosen = "model.pt" if "model.pt" in weights else weights[0]
    _check_code_and_weights(code, chosen, members[chosen])


def _check_code_and_weights(code: list[str], weights: str, path: Path) -> None:
    kind = torch_file(path)
    is_program = kind in ("TorchScript", "torch.export")
    if code and is_program:
        raise _Unservable(
            f"found {', '.join(code)}, and {weights} is a {kind} program that needs no Python file",
            "one or the other",
            "Leave the Python files out, or save the weights: `torch.save(model.state_dict(), 'model.pt')`.",
        )
    if not code and not is_program:
        raise _Unservable(
            f"found {weights}, which is no TorchScript or torch.export program, and no model.py",
            "model.py with the model's class",
            "Add it, or save a program: `torch.jit.script(model).save('model.pt')`.",
        )


def _listing(members: Mapping[str, Path]) -> str:
    top = sorted({name.partition("/")[0] for name in members})
    names = [f"{name}/" if members[name].is_dir() else name for name in top]
    return (", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")) or "nothing"


def _hint(members: Mapping[str, Path]) -> str:
    keras = next((name for name in sorted(members) if name.endswith((".keras", ".h5"))), None)
    if keras:
        return f"Export {keras} first: `keras.models.load_model('{keras}').export('0001')`."
    graph = next((name for name in sorted(members) if name.endswith(_SAVED_MODEL)), "")
    if graph.count("/") == 1:
        folder = graph.partition("/")[0]
        return f"{folder}/ is a SavedModel, but its name is no number: `mv {folder} 0001`."
    return ""


# Writing


@contextmanager
def _replaced(output: Path) -> Iterator[IO[bytes]]:
    """A new file that becomes ``output`` if the block ends well, and else nothing."""
    handle, name = tempfile.mkstemp(prefix=f".{output.name[:40]}.", dir=output.parent)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            yield file
        path.replace(output)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(members: Members, file: IO[bytes], *, compress: bool) -> list[str]:
    written: list[str] = []
    # A name and a time in the gzip header would make each archive another.
    stream = gzip.GzipFile("", "wb", _COMPRESS_LEVEL, file, mtime=0) if compress else file
    with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(members.items(), key=lambda item: item[0].split("/")):
            header = tarfile.TarInfo(name)  # owner 0, time 0
            if path.is_dir():
                header.type, header.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(header)
                written.append(f"{name}/")
                continue
            with path.open("rb") as source:
                header.mode, header.size = 0o644, os.fstat(source.fileno()).st_size
                tar.addfile(header, source)
            written.append(name)
    return written
