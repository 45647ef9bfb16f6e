"""``Settings``: every knob of the server in one frozen dataclass, and where a value comes from.

A value is looked for in this order: the argument given to ``ModelServer``, the command line, the
environment, the default. Flag and environment variable are made from the field's name (``http_port``:
``--http_port``, ``MODELSERVER_HTTP_PORT``), so there is one list. Names are KServe's where KServe has one.

Rules of the room: nothing happens at import; reading ``sys.argv`` and the environment is ``resolve``'s job,
called when a server is made. Other rooms get a ``Settings`` handed to them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from modelserver.cores import available_cores
from modelserver.errors import StartError
from modelserver.log_formats import FORMATS

KIB = 1024
MIB = 1024 * KIB
_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off"))


def boolean(text: str) -> bool:
    """Read a flag's value as KServe does: y, yes, t, true, on, 1 and their opposites."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(text)


def _setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    also: str | None = None,
    flag: str | None = None,
    is_switch: bool = False,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declare one field. ``also`` names a second environment variable that is honoured, ``flag`` a second
    flag, ``choices`` the values of a text. The flag of a boolean that ``is_switch`` may stand alone."""
    return field(
        default=default,
        metadata={
            "help": help,
            "minimum": minimum,
            "maximum": maximum,
            "also": also,
            "flag": flag,
            "is_switch": is_switch,
            "choices": choices,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told. Immutable; times are in seconds, sizes in bytes."""

    http_port: int = _setting(
        8080,
        "Port for HTTP. 0: any free port.",
        minimum=0,
        maximum=65535,
        also="PORT",
        flag="--rest_api_port",  # TensorFlow Serving's
    )
    enable_grpc: bool = _setting(
        False, "Answer gRPC calls too, on a port of their own. Needs the extra `grpc`."
    )
    grpc_port: int = _setting(8081, "Port for gRPC. 0: any free port.", minimum=0, maximum=65535)
    grpc_max_receive_message_length: int = _setting(
        -1,
        "Largest gRPC request taken, in bytes; a larger one ends with RESOURCE_EXHAUSTED. -1: as much as "
        "--max_in_flight_bytes lets in.",
        minimum=-1,
        maximum=2**31 - 1,
    )
    grpc_max_send_message_length: int = _setting(
        -1,
        "Largest gRPC answer sent, in bytes; a larger one ends with RESOURCE_EXHAUSTED. -1: no limit.",
        minimum=-1,
        maximum=2**31 - 1,
    )
    host: str = _setting("", "Address to listen on. Empty: every address, IPv4 and IPv6.")
    workers: int = _setting(
        1,
        "Worker processes that share the port. 0: one for each core.",
        minimum=0,
    )
    supervise: bool = _setting(
        False,
        "With one worker too, serve in a process that is replaced when it dies or hangs. More workers always "
        "are.",
    )
    max_buffer_size: int = _setting(
        10 * MIB,
        "Largest request body taken, in bytes. A larger one is answered 413 before it is read.",
        minimum=1,
    )
    max_in_flight_bytes: int = _setting(
        512 * MIB,
        "Most bytes that the bodies of all requests may hold in one worker until they are answered, at least "
        "--max_buffer_size. A request that would pass it is answered 503 with Retry-After before it is read. "
        "Values that a model makes of a body are not counted.",
        minimum=1,
    )
    cpu_threads: int = _setting(
        0,
        "Most threads for one operator of PyTorch, TensorFlow or OpenMP in each worker. 0: the cores divided "
        "by the workers, at least 1.",
        minimum=0,
    )
    model_threads: int = _setting(
        1,
        "Threads for each model's synchronous hooks. 1: the model's code runs one request at a time.",
        minimum=1,
    )
    max_asyncio_workers: int = _setting(
        0,
        "Threads of the event loop's own pool (asyncio.to_thread in async hooks). 0: cores + 4, at most 32.",
        minimum=0,
    )
    timeout: float = _setting(
        60.0,
        "Seconds that a model may take for a request, from when all of it is there; then it is answered 504, "
        "and what still waits for the model is never run. 0: no limit.",
        minimum=0,
    )
    max_queue_size: int = _setting(
        1000,
        "Most requests for one model that are not answered yet, in each worker; more get 503 with "
        "Retry-After.",
        minimum=1,
    )
    grace_period: float = _setting(
        30.0,
        "Seconds that requests in flight may take to finish after SIGTERM or SIGINT.",
        minimum=0,
    )
    timeout_keep_alive: float = _setting(
        65.0,
        "Seconds an idle connection is kept. Above the 60 s that common proxies keep theirs, so that "
        "the proxy closes first.",
        minimum=0.001,
    )
    max_connections: int = _setting(
        0,
        "Most connections that each worker keeps; more are answered 503. 0: as many as a process may have "
        "open files (`ulimit -n`, raised to its hard limit), less an eighth, at most 256.",
        minimum=0,
    )
    timeout_read: float = _setting(
        20.0,
        "Seconds that a client may take to send a request's head, and in which its body must go on by at "
        "least 512 bytes/s; then 408.",
        minimum=0.001,
    )
    timeout_write: float = _setting(
        60.0,
        "Seconds in which a client must take something of its answer; then its connection is dropped.",
        minimum=0.001,
    )
    ssl_certfile: str = _setting(
        "",
        "PEM file of the server's certificate and those between it and a root: HTTPS, and no plain HTTP. "
        "Read again when it changes.",
    )
    ssl_keyfile: str = _setting(
        "",
        "PEM file of the certificate's private key, without a password. Empty: it is in --ssl_certfile.",
    )
    api_key_file: str = _setting(
        "",
        "File of API keys, one in each line; a request needs one of them, or that in the environment "
        "variable MODELSERVER_API_KEY. Read again when it changes.",
    )
    enable_admin: bool = _setting(
        False,
        "Let administrators load and unload models while the server runs, from this machine and with a token "
        "only.",
    )
    admin_token_file: str = _setting(
        "",
        "File of tokens for administrative calls, one in each line; another may be in the environment "
        "variable MODELSERVER_ADMIN_TOKEN. Read again when it changes.",
    )
    gzip_min_bytes: int = _setting(
        32 * KIB,
        "Answers of this size and more are sent as gzip to clients that accept it; 0: none are. It costs "
        "10 us/kB and is worth it on lines slower than about 400 Mbit/s.",
        minimum=0,
    )
    metrics: bool = _setting(True, "Show on `/metrics`, in Prometheus' text format, what all workers count.")
    monitoring_path: str = _setting(
        "",
        "Path on which metrics are shown under TensorFlow Serving's names, such as "
        "/monitoring/prometheus/metrics. Empty: none.",
    )
    enable_cors: bool = _setting(
        False,
        "Let web pages of any origin read the answers (CORS).",
        flag="--rest_api_enable_cors_support",  # TensorFlow Serving's
        is_switch=True,
    )
    file_system_poll_wait_seconds: float = _setting(
        1.0,
        "Seconds between two looks for new versions of models that have folders of versions. 0 or less: "
        "only at the start.",
    )
    max_num_load_retries: int = _setting(
        5,
        "How often a version that could not be loaded while serving is tried again.",
        minimum=0,
    )
    load_retry_interval_micros: int = _setting(
        60_000_000,
        "Microseconds between two such tries. Negative: no time.",
    )
    allow_version_labels_for_unavailable_models: bool = _setting(
        False,
        "A new label may be given to a version that is not available yet.",
        is_switch=True,
    )
    access_log: bool = _setting(True, "Write one line for each request.")
    access_log_probes: bool = _setting(
        False,
        "Write one for each probe too: `GET` of `/`, `/metrics`, or of whether a model is ready. Without, "
        "only for those that fail.",
    )
    log_format: str = _setting(
        "text",
        "What the lines of the log are: plain text, or one JSON object each.",
        choices=FORMATS,
    )
    configure_logging: bool = _setting(
        True,
        "Send the server's log to standard error where the program has set up no logging of its own.",
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, getattr(self, spec.name))
        if self.monitoring_path and not self.monitoring_path.startswith("/"):
            raise StartError(f"--monitoring_path is {self.monitoring_path!r} and must begin with /.")

    @property
    def worker_count(self) -> int:
        """``workers``, with 0 replaced by the number of cores this process may use."""
        return self.workers or available_cores()

    @property
    def cpu_threads_per_worker(self) -> int:
        """``cpu_threads``, with 0 replaced by one worker's share of the cores, at least 1."""
        return self.cpu_threads or max(1, available_cores() // self.worker_count)


def _check(spec: Field[Any], value: Any) -> None:
    """Raise ``StartError`` where a value is not of its field's kind or outside its range."""
    kind = str(spec.type)
    is_right = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not is_right:
        raise StartError(f"--{spec.name} is {value!r} and must be {_EXPECTED[kind]}.")
    minimum, maximum = spec.metadata["minimum"], spec.metadata["maximum"]
    if minimum is not None and value < minimum:
        raise StartError(f"--{spec.name} is {value} and must be at least {minimum}.")
    if maximum is not None and value > maximum:
        raise StartError(f"--{spec.name} is {value} and must be at most {maximum}.")
    choices = spec.metadata["choices"]
    if choices is not None and value not in choices:
        raise StartError(f"--{spec.name} is {value!r} and must be one of: {', '.join(choices)}.")


def environment_names(spec: Field[Any]) -> tuple[str, ...]:
    """The environment variables of a setting, strongest first."""
    own = f"MODELSERVER_{spec.name.upper()}"
    return (own, spec.metadata["also"]) if spec.metadata["also"] else (own,)


def flags(spec: Field[Any]) -> tuple[str, ...]:
    """The flags of a setting."""
    own = f"--{spec.name}"
    return (own, spec.metadata["flag"]) if spec.metadata["flag"] else (own,)


def spelled_out(arguments: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """The arguments, with ``=true`` at each switch that stands alone: the parser would take the next argument
    for its value, whatever it is.

    Args:
        arguments: of a program.
        switches: flags that are no settings.
    """
    own = (name for spec in fields(Settings) if spec.metadata["is_switch"] for name in flags(spec))
    switches = {*switches, *own}
    return [
        f"{argument}=true" if argument in switches and not _is_boolean(after) else argument
        for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    ]


def _is_boolean(text: str) -> bool:
    return text.strip().lower() in _TRUE | _FALSE


def argument_parser(
    environ: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> argparse.ArgumentParser:
    """A parser with one flag for each setting, for ``ArgumentParser(parents=[...])``.

    A flag that is not given has the environment's value, or else the default.

    Args:
        environ: default: the process's environment.
        defaults: other defaults than the settings' own.

    Raises:
        StartError: an environment variable does not hold what its setting takes.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("server")
    for spec in fields(Settings):
        default = (defaults or {}).get(spec.name, spec.default)
        told = _from_environment(spec, os.environ if environ is None else environ)
        group.add_argument(
            *flags(spec),
            dest=spec.name,
            **_SWITCH if spec.metadata["is_switch"] else {},
            type=_READERS[str(spec.type)],
            default=default if told is None else told,
            metavar="|".join(spec.metadata["choices"] or ()) or _METAVARS[str(spec.type)],
            help=f"{spec.metadata['help']} (default: {shown_default(default)})",
        )
    return parser


def shown_default(default: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default != "" else "''"


def resolve(
    given: Mapping[str, Any],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from the arguments given, the command line, the environment and the defaults, in that order.

    Args:
        given: values by name; ``None`` means not given.
        argv: flags to read, unknown ones are left alone. Default: the program's own, so that
            ``ModelServer()`` in a script honours ``--http_port`` as KServe's does.
        environ: default: the process's environment.
        defaults: other defaults than the settings' own.

    Raises:
        StartError: a value is of the wrong kind or out of range.
    """
    told = {name: value for name, value in given.items() if value is not None}
    if told.keys() >= Settings.__dataclass_fields__.keys():
        return Settings(**told)  # nothing to look for: the command line is the caller's own, and read already
    arguments = spelled_out(sys.argv[1:] if argv is None else argv)
    namespace, _ = argument_parser(environ, defaults).parse_known_args(arguments)
    values = {spec.name: getattr(namespace, spec.name) for spec in fields(Settings)}
    return Settings(**values | told)


def _from_environment(spec: Field[Any], environ: Mapping[str, str]) -> Any:
    """The environment's value; ``None``: it has none."""
    for variable in environment_names(spec):
        text = environ.get(variable, "")
        # Kubernetes sets NAME_PORT=tcp://10.0.0.1:80 for a Service called NAME; that is not meant for us.
        if not text or "://" in text:
            continue
        try:
            return _READERS[str(spec.type)](text)
        except ValueError:
            raise StartError(
                f"The environment variable {variable} is {text!r} and must be {_EXPECTED[str(spec.type)]}."
            ) from None
    return None


_SWITCH: Mapping[str, Any] = {"nargs": "?", "const": True}
_READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": boolean,
}
_KINDS: Mapping[str, Any] = {"int": int, "float": int | float, "str": str, "bool": bool}
_METAVARS = {"int": "N", "float": "SECONDS", "str": "TEXT", "bool": "BOOL"}
_EXPECTED = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false"}
