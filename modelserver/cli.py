"""The command line: ``python -m modelserver [serve | check | pack]``.

Rules of the room: arguments in, exit status out. What is done with a package is ``packaged``, serving it is
``model_server``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

from modelserver import checking, execution, launching, logs, packaged
from modelserver.errors import ModelLoadError, ModelServerError, StartError
from modelserver.model import Model
from modelserver.model_server import ModelServer
from modelserver.packaged import PackagedModel
from modelserver.predictor import BatchingParameters, Predictor
from modelserver.repository.archives import UnpackLimits, pack
from modelserver.repository.versions import ModelFolder, ModelVersions
from modelserver.repository.workspace import Workspace
from modelserver.settings import Settings, argument_parser
from modelserver.tensorflow_serving import config_files, flags
from modelserver.tensorflow_serving.config_files import ModelConfig, ModelConfiguration

_log = logging.getLogger("modelserver.server")

_COMMANDS = "serve", "check", "pack"
_DEFAULT_NAME = "model"  # KServe's
_LIMITS = {
    "max_unpacked_bytes": "Most bytes that an archive may unpack to.",
    "max_archive_members": "Most files and folders in an archive.",
    "max_archive_ratio": "Most bytes that one byte of an archive may become.",
    "max_archive_depth": "Most folders within each other in an archive.",
}


def main(argv: Sequence[str] | None = None, *, predictor: Predictor | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; default: the program's.
        predictor: serve with this predictor only (``python -m pytorchserver``); default: with whichever of
            the installed ones knows the model.

    Returns:
        The exit status: 0 done, 1 failed. Wrong usage exits with 2 from within.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments[:1] and arguments[0] in _COMMANDS else "serve"
    predictors = [predictor] if predictor else list(packaged.installed_predictors().values())
    try:
        return {"serve": _serve, "check": _check, "pack": _pack}[command](arguments, predictors)
    except (ModelLoadError, StartError) as error:
        logs.flush()  # what was logged before stands above the last line
        print(f"modelserver: {error}", file=sys.stderr)
        return 1


# -- serve


def serve_parser(
    predictors: Sequence[Predictor], defaults: Mapping[str, Any] | None = None
) -> argparse.ArgumentParser:
    """The parser of ``serve``, with the predictors' own flags and TensorFlow Serving's.

    Args:
        predictors: those that may serve a model.
        defaults: of settings, instead of their own.
    """
    parser = _parser(
        "[serve]",
        "Serve packaged models over HTTP. Other commands: check, pack (each with --help).",
        parents=[argument_parser(defaults={"supervise": True} | dict(defaults or {}))],
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME=]PATH",
        help="an archive, folder or model file; NAME is the one in the URL (default: the file's)",
    )
    group = parser.add_argument_group("models")
    group.add_argument("--model_dir", metavar="PATH", help="one more model, as KServe names it")
    group.add_argument(
        "--model_name",
        metavar="NAME",
        help=f"its name, or that of the only PATH (default: {_DEFAULT_NAME} for --model_dir)",
    )
    _add_model_arguments(parser, predictors)
    flags.add_arguments(parser)
    return parser


def _serve(arguments: Sequence[str], predictors: Sequence[Predictor]) -> int:
    parser = serve_parser(predictors)
    options = serve_options(parser, arguments, predictors)
    versioned = _model_with_versions(parser, options)
    packages = [] if versioned or options.model_config_file else _packages_asked_for(parser, options)
    settings = {spec.name: getattr(options, spec.name) for spec in fields(Settings)}
    server = ModelServer(**settings)
    if server.settings.configure_logging:
        logs.configure(server.settings.log_format)
    if not launching.is_worker():
        _warn_of_flags(options)
    server.bind()  # a port in use is told before anything is unpacked
    _limit_cpu_threads(server.settings)
    with _workspace() as workspace:
        if packages:
            server.start([_build(model, predictors, options, workspace) for model in packages])
        else:
            configuration = _configuration(predictors, options)
            folders = [configuration.folder_of(versioned)] if versioned else configuration.folders()
            server.start(folders, configuration)
    if execution.is_at_work():  # Python's clean-up under a thread inside of torch aborts the process
        launching.leave(0)
    return 0


def _limit_cpu_threads(settings: Settings) -> None:
    """Before a framework is imported: this process is the server's own. Where there is nothing to share, the
    frameworks' own defaults stay: they may know better (PyTorch counts no hyper-threads)."""
    threads = settings.cpu_threads_per_worker
    if settings.cpu_threads or threads < len(os.sched_getaffinity(0)):
        launching.limit_cpu_threads(threads, forced=bool(settings.cpu_threads))


def serve_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str], predictors: Sequence[Predictor]
) -> argparse.Namespace:
    """The values of the flags of ``serve``, and of the files of TensorFlow Serving that they name.

    Raises:
        StartError: such a file cannot be read, or is wrong.
    """
    arguments = flags.spelled_out(arguments)
    options = parser.parse_args(arguments)
    batching = None
    if options.enable_batching:
        file = options.batching_parameters_file
        batching = config_files.batching_parameters(file) if file else BatchingParameters()
        # What the file says of threads and queues are defaults: flags and environment are stronger.
        options = serve_parser(predictors, flags.defaults_of(batching)).parse_args(arguments)
    elif options.batching_parameters_file:
        parser.error("--batching_parameters_file needs --enable_batching")
    options.batching = batching
    if options.monitoring_config_file:
        options.monitoring_path = config_files.monitoring_path(options.monitoring_config_file)
    return options


def _warn_of_flags(options: argparse.Namespace) -> None:
    unused = flags.ignored(options)
    if unused:
        _log.warning("Flags of TensorFlow Serving that do nothing here: %s", unused)
    if options.model_config_file and (options.model_name or options.model_base_path):
        _log.warning("--model_config_file is given: --model_name and --model_base_path do nothing")


def _model_with_versions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> ModelConfig | None:
    """What ``--model_base_path`` names; or the environment, if the command line names nothing."""
    packages = [*options.models, *([] if options.model_dir is None else [options.model_dir])]
    for flag in ("model_config_file", "model_base_path"):
        if packages and getattr(options, flag):
            parser.error(f"--{flag} says what is served: leave out {packages[0]}")
    if packages or options.model_config_file:
        return None
    if options.model_base_path:
        name, path = options.model_name or flags.DEFAULT_NAME, config_files.local(options.model_base_path)
        told_by = "--model_base_path names it"
    elif (told := flags.model_in(os.environ)) is not None:
        name, path = options.model_name or told[0], config_files.local(told[1])
        told_by = "MODEL_BASE_PATH and MODEL_NAME name it, as nothing on the command line does"
    else:
        return None
    if not path.is_dir():
        raise ModelLoadError(f"{path}: no such folder. {told_by}.")
    return ModelConfig(name, path)


def _packages_asked_for(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[PackagedModel]:
    """What ``PATH`` and ``--model_dir`` name."""
    name = options.model_name
    if options.model_dir is None and len(options.models) != 1 and name is not None:
        parser.error("--model_name names --model_dir or a single PATH; write NAME=PATH for several")
    only = name if options.model_dir is None else None
    models = [PackagedModel.parse(text, only) for text in options.models]
    if options.model_dir is not None:
        location = PackagedModel.parse(options.model_dir).path
        models.append(PackagedModel(name or _DEFAULT_NAME, location))
    if not models:
        parser.error("no model given: name an archive or folder, such as iris.tgz")
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f"two models are called {twice[0]}; write NAME=PATH to tell them apart")
    return models


# -- check


def check_parser(predictors: Sequence[Predictor]) -> argparse.ArgumentParser:
    """The parser of ``check``."""
    parser = _parser("check", "Load a packaged model, let it answer a request, and say how fast and how big.")
    parser.add_argument("model", metavar="PATH", help="an archive, folder or model file")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a V1 request body (JSON); default: one that the predictor makes up",
    )
    _add_model_arguments(parser, predictors)
    return parser


def _check(arguments: Sequence[str], predictors: Sequence[Predictor]) -> int:
    options = check_parser(predictors).parse_args(arguments)
    with _workspace() as workspace:
        model = _build(PackagedModel.parse(options.model), predictors, options, workspace)
        if isinstance(model, ModelFolder):
            versions = ModelVersions(model)
            versions.begin()
            model = versions.front()
        try:
            checking.check(model, options.input, print)
        except ModelLoadError:
            raise
        except ModelServerError as error:
            print(f"modelserver: {error}", file=sys.stderr)
            return 1
    return 0


# -- pack


def pack_parser() -> argparse.ArgumentParser:
    """The parser of ``pack``."""
    parser = _parser("pack", "Make a correct archive from model.py + weights, or from a SavedModel folder.")
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="a folder, or the files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the archive")
    parser.add_argument(
        "--version", type=int, metavar="N", help="number of a SavedModel's folder in the archive (default: 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the archive if it exists")
    return parser


def _pack(arguments: Sequence[str], predictors: Sequence[Predictor]) -> int:
    options = pack_parser().parse_args(arguments)
    members = pack(options.sources, options.output, version=options.version, overwrite=options.overwrite)
    for member in members:
        print(f"  {member}")
    print(f"{options.output}: {options.output.stat().st_size} bytes")
    print(f"Check it: python -m modelserver check {options.output}")
    return 0


# -- shared


def _parser(command: str, description: str, **kwargs: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m modelserver {command}", description=description, allow_abbrev=False, **kwargs
    )


def _add_model_arguments(parser: argparse.ArgumentParser, predictors: Sequence[Predictor]) -> None:
    for predictor in predictors:
        predictor.add_arguments(parser.add_argument_group(f"{predictor.framework} models"))
    group = parser.add_argument_group("archives")
    for spec in fields(UnpackLimits):
        group.add_argument(
            f"--{spec.name}",
            type=int,
            default=spec.default,
            metavar="N",
            help=f"{_LIMITS[spec.name]} (default: {spec.default})",
        )


def _build(
    model: PackagedModel, predictors: Sequence[Predictor], options: argparse.Namespace, workspace: Workspace
) -> Model | ModelFolder:
    limits = UnpackLimits(**{spec.name: getattr(options, spec.name) for spec in fields(UnpackLimits)})
    return packaged.build(model, predictors, options, limits, workspace)


def _configuration(predictors: Sequence[Predictor], options: argparse.Namespace) -> ModelConfiguration:
    by_platform = {predictor.framework.lower(): predictor for predictor in predictors}

    def folder_of(model: ModelConfig) -> ModelFolder:
        candidates = [by_platform[model.platform]] if model.platform else predictors
        folder = packaged.model_folder(
            model.name,
            model.base_path,
            candidates,
            options,
            policy=model.policy,
            labels=model.labels,
            may_be_empty=True,
        )
        config_files.check_layout(folder, candidates)
        return folder

    return ModelConfiguration(
        options.model_config_file, options.model_config_file_poll_wait_seconds, by_platform.keys(), folder_of
    )


@contextlib.contextmanager
def _workspace() -> Iterator[Workspace]:
    """The place for what is unpacked, removed at the end, also if a signal comes before the server is up."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell starts what runs in the background
            signal.signal(number, on_signal)
    try:
        with Workspace() as workspace:
            yield workspace
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
