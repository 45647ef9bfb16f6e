"""TensorFlow Serving's configuration files: text protocol buffers -> what this server is told.

    --model_config_file         ModelServerConfig   -> ModelConfiguration: which models, versions and labels
    --batching_parameters_file  BatchingParameters  -> predictor.BatchingParameters
    --monitoring_config_file    MonitoringConfig    -> the path of a page of metrics

Rules of the room: files are read and checked; what they name is built and served elsewhere. An error names
the file, and the line where the text itself is wrong.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelserver.errors import InvalidInput, ModelLoadError, StartError
from modelserver.file_watch import FileWatch
from modelserver.predictor import BatchingParameters, Predictor
from modelserver.repository.model_folder import is_version
from modelserver.repository.versions import NEWEST, ModelFolder, VersionPolicy

_log = logging.getLogger("modelserver.server")

MONITORING_PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving shows its metrics, if the file names no path."""

_MOST_NAMES = 10
_LEAST = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}
_WRAPPED = (*_LEAST, "enable_large_batch_splitting", "max_execution_batch_size")
_WHERE = re.compile(r"(\d+):\d+ : (.*)", re.DOTALL)
_MODEL_TYPES = ("", "tensorflow")  # MODEL_TYPE_UNSPECIFIED, TENSORFLOW; OTHER never was supported


class ConfigError(ValueError):
    """The text is no configuration, or not one that can be served.

    Args:
        text: what was found and what was expected.
        line: the line at which the text itself is wrong, from 1; 0: it is what the text says.
    """

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self._line = line

    def of(self, source: str) -> str:
        """The message, with where the text comes from."""
        return f"{source}{f', line {self._line}' if self._line else ''}: {self}"


@dataclass(frozen=True)
class ModelConfig:
    """One model of a ``ModelServerConfig``.

    Args:
        name: of the model.
        base_path: the folder of its versions.
        platform: ``tensorflow``, ``pytorch``; empty: whichever predictor knows the folder.
        policy: which versions are served.
        labels: other names for versions.
    """

    name: str
    base_path: Path
    platform: str = ""
    policy: VersionPolicy = NEWEST
    labels: Mapping[str, int] = field(default_factory=dict)


class ModelConfiguration:
    """The folders that a ``ModelServerConfig`` names: a ``repository.versions.Configuration``.

    Args:
        path: of its file; empty: there is none, and only a client's call brings one (``parsed``).
        poll_s: seconds between two looks whether it has changed; 0 or less: never.
        platforms: those that can be served.
        folder_of: makes the folder of a model.

    Attributes:
        poll_s: as given, at least 0.
        folder_of: as given.
    """

    def __init__(
        self,
        path: str,
        poll_s: float,
        platforms: Collection[str],
        folder_of: Callable[[ModelConfig], ModelFolder],
    ) -> None:
        self.poll_s = max(poll_s, 0.0)
        self._path = path
        self._platforms = platforms
        self.folder_of = folder_of
        self._watch = FileWatch(path)  # before the first look, so that no change is lost; none of no file
        self._known: Mapping[str, str] = {}

    def folders(self) -> list[ModelFolder]:
        """What the file says now.

        Raises:
            ModelLoadError: it cannot be read, or is wrong; the text names the file.
        """
        try:
            return self._folders(_read(self._path))
        except ConfigError as error:
            raise ModelLoadError(error.of(self._path)) from error

    def changed(self) -> list[ModelFolder] | None:
        """What the file says, if it is another than at the last call.

        Raises:
            ModelLoadError: as for ``folders``; the next call raises no more, until the file changes again.
        """
        return self.folders() if self._watch.changed() else None

    def parsed(self, text: str) -> list[ModelFolder]:
        """What a text instead of the file says.

        Raises:
            InvalidInput: it is wrong.
        """
        try:
            return self._folders(text)
        except ConfigError as error:
            raise InvalidInput(error.of("ModelServerConfig")) from error
        except ModelLoadError as error:
            raise InvalidInput(str(error)) from error

    def _folders(self, text: str) -> list[ModelFolder]:
        models = read_models(text, self._platforms)
        for model in models:
            before = self._known.get(model.name, "")
            if before and model.platform and before != model.platform:
                raise ConfigError(
                    f'model {model.name} has the model_platform "{model.platform}", which was "{before}" and '
                    f"cannot change. Give it another name."
                )
        folders = [self.folder_of(model) for model in models]
        self._known = {model.name: model.platform for model in models}
        return folders


def read_models(text: str, platforms: Collection[str]) -> list[ModelConfig]:
    """The models of a ``ModelServerConfig``.

    Args:
        text: of the message.
        platforms: those that can be served.

    Raises:
        ConfigError: it is none, or one that cannot be served.
    """
    from modelserver.protocols import tfs_messages  # 10 ms that only who has such a file should pay

    config = _parsed(tfs_messages.ModelServerConfig, text)
    if config.WhichOneof("config") != "model_config_list":
        found = "custom_model_config" if config.HasField("custom_model_config") else "nothing"
        raise ConfigError(f"it holds {found}. Expected model_config_list {{ config {{ ... }} }}.")
    models = [_model(model, platforms) for model in config.model_config_list.config]
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two models are called {twice[0]}. Give each a name of its own.")
    return models


def _model(config: Any, platforms: Collection[str]) -> ModelConfig:
    if not config.name:
        raise ConfigError(f'a config has no name (base_path "{config.base_path}").')
    if config.HasField("logging_config"):
        _log.warning("Model %s: logging_config does nothing here, requests are not recorded", config.name)
    return ModelConfig(
        config.name,
        _base_path(config),
        _platform(config, platforms),
        _policy(config),
        _labels(config),
    )


def local(path: str) -> Path:
    """A path, which may be written as a URL of the scheme ``file``.

    Raises:
        ModelLoadError: it is another URL.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    if scheme and scheme[1] != "file":
        raise ModelLoadError(
            f"{path}: only local paths can be served, not {scheme[1]}://. Download it first."
        )
    return Path(path.removeprefix("file://"))


def _base_path(config: Any) -> Path:
    path = local(config.base_path)
    if not path.is_absolute():
        raise ConfigError(
            f'model {config.name} has the base_path "{config.base_path}". Expected an absolute path.'
        )
    return path


def _platform(config: Any, platforms: Collection[str]) -> str:
    platform: str = config.model_platform
    if config.model_type:
        if platform:
            raise ConfigError(
                f"model {config.name} has a model_type and a model_platform. Take out model_type, which is "
                f"deprecated."
            )
        if config.model_type >= len(_MODEL_TYPES):
            raise ConfigError(
                f"model {config.name} has the model_type {config.model_type}. Expected TENSORFLOW, or a "
                f"model_platform."
            )
        platform = _MODEL_TYPES[config.model_type]
    if platform and platform not in platforms:
        known = ", ".join(f'"{name}"' for name in sorted(platforms))
        raise ConfigError(
            f'model {config.name} has the model_platform "{platform}". Expected one of: {known}; or none '
            f"at all."
        )
    return platform


def _policy(config: Any) -> VersionPolicy:
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(everything=True)
    if choice == "specific":
        if not policy.specific.versions:
            raise ConfigError(
                f"model {config.name} has the model_version_policy specific without a version. Expected "
                f"specific {{ versions: 1 }}."
            )
        return VersionPolicy(specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=max(policy.latest.num_versions, 1))  # as TensorFlow Serving takes a 0


def _labels(config: Any) -> dict[str, int]:
    specific = set(config.model_version_policy.specific.versions)
    for label, version in sorted(config.version_labels.items()):
        if not label or "/" in label or ":" in label:
            raise ConfigError(
                f'model {config.name} has the label "{label}". Expected one that is not empty and has '
                f"neither / nor :, or no URL can name it."
            )
        if specific and version not in specific:
            raise ConfigError(
                f"model {config.name} has the label {label} for version {version}, and its "
                f"model_version_policy serves {', '.join(map(str, sorted(specific)))} only."
            )
    return dict(config.version_labels)


def check_layout(folder: ModelFolder, predictors: Iterable[Predictor]) -> None:
    """Say it where a folder holds no version: TensorFlow Serving waits for one, and people wonder why.

    Raises:
        ModelLoadError: it holds a model, where the folders of its versions should be.
    """
    try:
        if folder.found():
            return
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.path.iterdir())
    except OSError:
        return  # told by who serves it
    if any(predictor.detect(folder.path) for predictor in predictors):
        fix = (
            f"Name the folder that it is in, {folder.path.absolute().parent}"
            if is_version(folder.path.name)
            else f"Move what it holds to {folder.path / '1'}, or serve it as it is with --model_dir"
        )
        raise ModelLoadError(
            f"model {folder.name}: {folder.path} holds a model, and no folder of a version. {fix}."
        )
    _log.warning(
        "Model %s waits for its first version: %s holds %s, and no folder such as 1/",
        folder.name,
        folder.path,
        ", ".join(names[:_MOST_NAMES]) or "nothing",
    )


def batching_parameters(path: str) -> BatchingParameters:
    """The ``BatchingParameters`` in a file.

    Raises:
        StartError: it cannot be read, or is none.
    """
    from modelserver.protocols import tfs_messages

    try:
        found = _parsed(tfs_messages.BatchingParameters, _read(path))
        values = {name: getattr(found, name).value for name in _WRAPPED if found.HasField(name)}
        for name, least in _LEAST.items():
            if values.get(name, least) < least:
                raise ConfigError(f"{name} is {values[name]}. Expected at least {least}.")
    except ConfigError as error:
        raise StartError(error.of(path)) from error
    return BatchingParameters(
        **values,
        allowed_batch_sizes=tuple(found.allowed_batch_sizes),
        pad_variable_length_inputs=found.pad_variable_length_inputs,
    )


def monitoring_path(path: str) -> str:
    """The path that the ``MonitoringConfig`` in a file shows metrics on; empty: none.

    Raises:
        StartError: the file cannot be read, or is none.
    """
    from modelserver.protocols import tfs_messages

    try:
        found = _parsed(tfs_messages.MonitoringConfig, _read(path)).prometheus_config
        shown: str = found.path or MONITORING_PATH
        if not shown.startswith("/"):
            raise ConfigError(f'prometheus_config has the path "{shown}". Expected one that begins with /.')
    except ConfigError as error:
        raise StartError(error.of(path)) from error
    return shown if found.enable else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"it cannot be read as text (UTF-8): byte {error.start}.") from error


def _parsed(kind: Any, text: str) -> Any:
    from modelserver.protocols import protobuf

    try:
        return protobuf.parse_text(kind, text)
    except protobuf.WireError as error:
        found = _WHERE.fullmatch(str(error))
        line, what = (int(found[1]), found[2]) if found else (0, str(error))
        raise ConfigError(f"no {kind.DESCRIPTOR.name}: {what}", line) from error
