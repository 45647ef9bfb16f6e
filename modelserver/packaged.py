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
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from modelserver.errors import ModelLoadError
from modelserver.model import Model
from modelserver.predictor import Predictor
from modelserver.repository import archives
from modelserver.repository.model_folder import is_version
from modelserver.repository.versions import NEWEST, ModelFolder, VersionPolicy
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
) -> Model | ModelFolder:
    """Make the model of a package, or name its versions where it holds folders such as ``0001/``.

    Args:
        packaged: its name and path.
        predictors: those to ask, in order.
        options: parsed values of the predictors' own flags.
        limits: what an archive may unpack to.
        workspace: where archives are unpacked; it must outlive the model.

    Returns:
        A model that is not loaded yet, or the folder of its versions, which is watched if it was named
        itself and was not unpacked.

    Raises:
        ModelLoadError: no such path, an archive that is refused, a folder that no predictor knows, or a
            framework that is not installed.
        StartError: there is no temporary folder to unpack into.
    """
    path = packaged.path
    folder = path if path.is_dir() else _folder_of_file(path, predictors, limits, workspace)
    if path.is_dir() and not _is_known(folder, predictors):  # one redundant folder on top, as in an archive
        folder = archives.model_root(folder)
    if not _is_known(folder, predictors) and (inner := _only_archive_in(folder)) is not None:
        # What KServe's storage initializer leaves in /mnt/models may still be packed.
        folder = _unpacked(inner, limits, workspace)
    if _has_versions(folder, predictors):
        is_users_own = folder.is_relative_to(path)
        return model_folder(packaged.name, folder, predictors, options, is_watched=is_users_own)
    predictor = _find_predictor(folder, predictors)
    if predictor is None:
        raise ModelLoadError(_unknown(packaged.path.name, folder, predictors))
    make = partial(_built, predictor, packaged.name, folder, options)
    model = make()
    model.replacement = make
    return model


def model_folder(
    name: str,
    path: Path,
    predictors: Sequence[Predictor],
    options: argparse.Namespace,
    *,
    policy: VersionPolicy = NEWEST,
    labels: Mapping[str, int] = MappingProxyType({}),
    is_watched: bool = True,
    may_be_empty: bool = False,
) -> ModelFolder:
    """Name a folder of versions, each of which some predictor knows.

    Args:
        name: of the model.
        path: of the folder; it holds one folder for each version, named by a whole number.
        predictors: those to ask, in order, for each version.
        options: parsed values of the predictors' own flags.
        policy: which versions are served.
        labels: other names for versions.
        is_watched: whether to look for new versions while serving.
        may_be_empty: versions may come later.
    """

    def build_version(folder: Path, number: int) -> Model:
        predictor = _find_predictor(folder, predictors)
        if predictor is None:
            raise ModelLoadError(_unknown(f"version {number}", folder, predictors))
        return _built(predictor, name, folder, options)

    def holds_model(folder: Path) -> bool:
        return _find_predictor(folder, predictors) is not None

    return ModelFolder(name, path, build_version, policy, labels, is_watched, may_be_empty, holds_model)


def _has_versions(folder: Path, predictors: Sequence[Predictor]) -> bool:
    return any(
        is_version(child.name) and child.is_dir() and _find_predictor(child, predictors) is not None
        for child in folder.iterdir()
    )


def _is_known(folder: Path, predictors: Sequence[Predictor]) -> bool:
    return _has_versions(folder, predictors) or _find_predictor(folder, predictors) is not None


def _built(predictor: Predictor, name: str, folder: Path, options: argparse.Namespace) -> Model:
    try:
        return predictor.build(name, folder, options)
    except ImportError as error:
        raise ModelLoadError(
            f"{name} is a {predictor.framework} model, and {predictor.framework} cannot be imported: "
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


def _unknown(what: str, folder: Path, predictors: Sequence[Predictor]) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    expected = "; ".join(f"{predictor.framework}: {predictor.expects}" for predictor in predictors)
    return f"{what} holds {shown or 'nothing'}. Expected one of: {expected}."
