"""TensorFlow Serving's flags: those that do here what they do there, and those that do nothing here.

``FLAGS`` lists every flag of its ``main.cc``. Many are flags of this server already, by the same name
(``settings``) or of a predictor (``--saved_model_tags``). What nobody has taken is read and named in one
warning, so that a command line of TensorFlow Serving's works here.

Rules of the room: what a flag is called and which value it gives; files that flags name are ``config_files``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelserver import __version__, settings
from modelserver.predictor import BatchingParameters
from modelserver.settings import boolean

DEFAULT_NAME = "default"
"""The name of the model of ``--model_base_path``, as in TensorFlow Serving."""


@dataclass(frozen=True)
class Flag:
    """A flag of TensorFlow Serving.

    Args:
        name: without the dashes.
        takes_value: false: ``--name`` alone is true, and ``--name=false`` may be given.
        reason: why it does nothing, for the warning, where that helps; or what to give instead.
    """

    name: str
    takes_value: bool = True
    reason: str = ""


_NO_TFLITE = "TensorFlow Lite models are not served"
_TENSORFLOW = "it is for TensorFlow models"  # their predictor has the flag
_XLA = "XLA is left as TensorFlow has it"
_TLS = "give --ssl_certfile and --ssl_keyfile"

FLAGS = (
    Flag("port"),
    Flag("grpc_socket_path", reason="gRPC is served on a TCP port only"),
    Flag("rest_api_port"),
    Flag("rest_api_num_threads", reason="one event loop answers; give --workers or --model_threads"),
    Flag("rest_api_timeout_in_ms"),
    Flag("rest_api_enable_cors_support", takes_value=False),
    Flag("enable_batching", takes_value=False),
    Flag("allow_version_labels_for_unavailable_models", takes_value=False),
    Flag("batching_parameters_file"),
    Flag(
        "enable_per_model_batching_parameters",
        takes_value=False,
        reason=_TENSORFLOW,
    ),
    Flag("model_config_file"),
    Flag("model_config_file_poll_wait_seconds"),
    Flag("model_name"),
    Flag("model_base_path"),
    Flag("num_load_threads", reason="models are always loaded on threads of their own"),
    Flag("num_unload_threads", reason="models are always unloaded beside serving"),
    Flag("max_num_load_retries"),
    Flag("load_retry_interval_micros"),
    Flag("file_system_poll_wait_seconds"),
    Flag("flush_filesystem_caches", takes_value=False, reason="the system keeps its file cache"),
    Flag("tensorflow_session_parallelism", reason=_TENSORFLOW),
    Flag("tensorflow_session_config_file", reason="give --tensorflow_intra_op_parallelism and the like"),
    Flag("tensorflow_intra_op_parallelism", reason=_TENSORFLOW),
    Flag("tensorflow_inter_op_parallelism", reason=_TENSORFLOW),
    Flag("use_alts_credentials", takes_value=False, reason=_TLS),
    Flag("ssl_config_file", reason=_TLS),
    Flag("platform_config_file", reason="a model's predictor is found by what its folder holds"),
    Flag("per_process_gpu_memory_fraction", reason=_TENSORFLOW),
    Flag("saved_model_tags", reason=_TENSORFLOW),
    Flag("grpc_channel_arguments"),
    Flag("grpc_max_threads", reason="one event loop answers; give --workers or --model_threads"),
    Flag("enable_model_warmup", takes_value=False, reason=_TENSORFLOW),
    Flag("num_request_iterations_for_warmup", reason=_TENSORFLOW),
    Flag("version", takes_value=False),
    Flag("monitoring_config_file"),
    Flag("remove_unused_fields_from_bundle_metagraph", takes_value=False),
    Flag("prefer_tflite_model", takes_value=False, reason=_NO_TFLITE),
    Flag("use_tflite_model", takes_value=False, reason=_NO_TFLITE),
    Flag("num_tflite_pools", reason=_NO_TFLITE),
    Flag("num_tflite_interpreters_per_pool", reason=_NO_TFLITE),
    Flag("num_tflite_interpreters", reason=_NO_TFLITE),
    Flag(
        "enable_signature_method_name_check",
        takes_value=False,
        reason=_TENSORFLOW,
    ),
    Flag("xla_cpu_compilation_enabled", takes_value=False, reason=_XLA),
    Flag("xla_gpu_compilation_enabled", takes_value=False, reason=_XLA),
    Flag("enable_profiler", takes_value=False, reason="there is no profiler service"),
    Flag("thread_pool_factory_config_file"),
    Flag("mixed_precision", reason="a graph computes in the types that it has"),
    Flag("skip_initialize_tpu", takes_value=False, reason="there is no support for TPUs"),
    Flag("enable_grpc_healthcheck_service", takes_value=False, reason="gRPC always has that service"),
    Flag("enable_serialization_as_tensor_content", takes_value=False),
)
"""In the order of TensorFlow Serving's own table."""

_SWITCHES = frozenset(f"--{flag.name}" for flag in FLAGS if not flag.takes_value and flag.name != "version")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments, with ``=true`` at each switch that stands alone, so that it takes no path for its value.

    >>> spelled_out(["--enable_batching", "iris", "--metrics", "off"])
    ['--enable_batching=true', 'iris', '--metrics', 'off']
    """
    return settings.spelled_out(arguments, _SWITCHES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of TensorFlow Serving's flags that the parser, which has all others, does not have."""
    group = parser.add_argument_group(
        "TensorFlow Serving",
        "Its other flags are taken too; those that do nothing here are named in a warning.",
    )
    group.add_argument(
        "--port",
        type=_port,
        action=_GrpcPort,
        default=argparse.SUPPRESS,
        metavar="N",
        help="the same as --enable_grpc and --grpc_port; 0: no gRPC",
    )
    group.add_argument(
        "--rest_api_timeout_in_ms",
        dest="timeout",
        type=_milliseconds,
        default=argparse.SUPPRESS,
        metavar="MS",
        help="the same as --timeout, in milliseconds",
    )
    group.add_argument(
        "--model_base_path",
        metavar="FOLDER",
        help="one model, as a folder that holds a folder for each of its versions (1/, 2/); its name is "
        f"--model_name (default: {DEFAULT_NAME})",
    )
    group.add_argument(
        "--model_config_file",
        default="",
        metavar="FILE",
        help="the models to serve, their versions and labels: a ModelServerConfig as text",
    )
    group.add_argument(
        "--model_config_file_poll_wait_seconds",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="seconds between two looks whether that file has changed; 0: it is read once (default: 0)",
    )
    group.add_argument(
        "--enable_batching",
        nargs="?",
        const=True,
        type=boolean,
        default=False,
        metavar="BOOL",
        help="join requests for TensorFlow models (default: false)",
    )
    group.add_argument(
        "--batching_parameters_file",
        default="",
        metavar="FILE",
        help="how, with --enable_batching: BatchingParameters as text",
    )
    group.add_argument(
        "--monitoring_config_file",
        default="",
        metavar="FILE",
        help="a MonitoringConfig as text; the same as --monitoring_path",
    )
    group.add_argument("--version", action="version", version=f"modelserver {__version__}")
    for flag in FLAGS:
        try:
            parser.add_argument(
                f"--{flag.name}",
                dest="ignored_flags",
                action=_Ignored,
                default=(),
                help=argparse.SUPPRESS,
            )
        except argparse.ArgumentError:  # somebody has that flag
            continue


def ignored(options: argparse.Namespace) -> str:
    """The flags that were given and do nothing, for a warning; empty: none."""
    reasons = {f"--{flag.name}": flag.reason for flag in FLAGS}
    given = dict.fromkeys(options.ignored_flags)
    return "; ".join(f"{flag} ({reasons[flag]})" if reasons[flag] else flag for flag in given)


def defaults_of(batching: BatchingParameters) -> dict[str, int]:
    """What batching parameters say of settings. ``max_queue_size`` counts what is computed, too, so those
    batches come on top of ``max_enqueued_batches``."""
    computed = max(batching.num_batch_threads, 1)
    rows = (batching.max_enqueued_batches + computed) * batching.max_batch_size
    threads = {"model_threads": batching.num_batch_threads} if batching.num_batch_threads else {}
    return {"max_queue_size": rows} | threads


def model_in(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and path of the model that ``MODEL_NAME`` and ``MODEL_BASE_PATH`` name, as in TensorFlow Serving's
    image: the folder of that name in the base path. ``None``: neither is set."""
    name, base_path = environ.get("MODEL_NAME", ""), environ.get("MODEL_BASE_PATH", "")
    if not name and not base_path:
        return None
    name = name or "model"
    return name, f"{base_path or '/models'}/{name}"


class _GrpcPort(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        namespace.enable_grpc = values != 0
        if values:
            namespace.grpc_port = values


class _Ignored(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        namespace.ignored_flags = (*namespace.ignored_flags, option_string)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 0 to 65535")
    return port


def _milliseconds(text: str) -> float:
    return int(text) / 1000
