"""A packaged model: from a path to a model that is ready to be loaded, with no code of the user's.

    archive | folder | model file  ->  folder  ->  predictor that knows it  ->  Model, not loaded yet

Rules of the room: finding and building; no arguments are parsed here and nothing is served. Predictors come
from the entry-point group ``modelserver.predictors``.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from modelserver.errors import ModelLoadError
from modelserver.model import Model
from modelserver.predictor import Predictor
from modelserver.repository import archives
from modelserver.repository.workspace import Workspace

_log = logging.getLogger("modelserver.server")

GROUP = "modelserver.predictors"
_MOST_NAMES = 10
_SUFFIXES = re.compile(r"(\.tar\.(gz|bz2|xz)|\.[A-Za-z][A-Za-z0-9]*)$")


@cache
def installed_predictors() -> Mapping[str, Predictor]:
    """Every predictor that is installed, by entry-point name. One that fails to import is left out."""
    found: dict[str, Predictor] = {}
    for entry_point in metadata.entry_points(group=GROUP):
        try:
            found[entry_point.name] = entry_point.load()
        except Exception:
            _log.exception("The predictor %s of %s cannot be used", entry_point.name, entry_point.value)
    return found


@dataclass(frozen=True)
class PackagedModel:
    """A name and where its model lies, as the command line says it: ``[NAME=]PATH``."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> PackagedModel:
        """Read ``[NAME=]PATH``. Without a name it is the file's without its suffix.

        Raises:
            ModelLoadError: nothing is there, or it is a URL.

        >>> PackagedModel.parse("here=.").name
        'here'
        """
        given, equals, location = text.partition("=")
        if not equals or "/" in given:
            given, location = "", text
        location = location.removeprefix("file://")
        scheme = re.match(r"([a-z0-9]+)://", location)
        if scheme:
            raise ModelLoadError(
                f"{location}: only local paths can be served, not {scheme[1]}://. Download it first."
            )
        path = Path(location)
        if not path.exists():
            raise ModelLoadError(f"{path}: no such file or folder.")
        return cls(given or name or _SUFFIXES.sub("", path.resolve().name), path)


def build(
    packaged: PackagedModel,
    predictors: Sequence[Predictor],
    options: argparse.Namespace,
    limits: archives.UnpackLimits,
    workspace: Workspace,
) -> Model:
    """Make the model of a package.

    Args:
        packaged: its name and path.
        predictors: those to ask, in order.
        options: parsed values of the predictors' own flags.
        limits: what an archive may unpack to.
        workspace: where archives are unpacked; it must outlive the model.

    Returns:
        A model that is not loaded yet.

    Raises:
        ModelLoadError: no such path, an archive that is refused, a folder that no predictor knows, or a
            framework that is not installed.
        StartError: there is no temporary folder to unpack into.
    """
    path = packaged.path
    folder = path if path.is_dir() else _folder_of_file(path, predictors, limits, workspace)
    predictor = _find_predictor(folder, predictors)
    if predictor is None and path.is_dir():  # one redundant folder on top, as in an archive
        folder = archives.model_root(folder)
        predictor = _find_predictor(folder, predictors)
    if predictor is None and (inner := _only_archive_in(folder)) is not None:
        # What KServe's storage initializer leaves in /mnt/models may still be packed.
        folder = _unpacked(inner, limits, workspace)
        predictor = _find_predictor(folder, predictors)
    if predictor is None:
        raise ModelLoadError(_unknown(packaged.path, folder, predictors))
    try:
        return predictor.build(packaged.name, folder, options)
    except ImportError as error:
        raise ModelLoadError(
            f"{path.name} is a {predictor.framework} model, and {predictor.framework} cannot be imported: "
            f"{error}. Install modelserver with its extra for {predictor.framework} (see the README)."
        ) from error


def _folder_of_file(
    path: Path, predictors: Sequence[Predictor], limits: archives.UnpackLimits, workspace: Workspace
) -> Path:
    if not archives.is_archive(path):  # PyTorch's own zip files are not
        alone = workspace.new_folder(link=path)  # a model file by itself, such as TorchScript's
        if _find_predictor(alone, predictors) is not None:
            return alone
    return _unpacked(path, limits, workspace)  # what is no archive is refused there, by what it is


def _unpacked(archive: Path, limits: archives.UnpackLimits, workspace: Workspace) -> Path:
    target = workspace.new_folder() / "unpacked"
    archives.unpack(archive, target, limits)
    return archives.model_root(target)


def _find_predictor(folder: Path, predictors: Sequence[Predictor]) -> Predictor | None:
    return next((predictor for predictor in predictors if predictor.detect(folder)), None)


def _only_archive_in(folder: Path) -> Path | None:
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_file() and archives.is_archive(entries[0]):
        return entries[0]
    return None


def _unknown(path: Path, folder: Path, predictors: Sequence[Predictor]) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    expected = "; ".join(f"{predictor.framework}: {predictor.expects}" for predictor in predictors)
    return f"{path.name} holds {shown or 'nothing'}. Expected one of: {expected}."
