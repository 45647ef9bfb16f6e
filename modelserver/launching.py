"""Two ways to make a worker process, and which one this process can take.

- ``fork_from_fresh_thread``: cheap, and shares the models that are already loaded.
- ``rerun_script``: a fresh interpreter that runs the user's script again, where forking would hang.

And ``limit_cpu_threads``, with which one begins: N workers whose operators all use every core would fight.

Rules of the room: making a process and handing it its sockets; keeping it alive is ``workers``' business. The
frameworks are only looked at where the program has imported them, never imported.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from modelserver import logs
from modelserver.errors import StartError
from modelserver.load_board import LoadBoard
from modelserver.metrics.memory import MetricMemory
from modelserver.model_board import ModelBoard

_log = logging.getLogger("modelserver.server")

HANDOVER = "MODELSERVER_WORKER_HANDOVER"
"""Environment variable that tells a script run again that it is a worker:
``ppid:number:others_serve:grpc_port:board:metrics:models:channel:sockets``."""

EXIT_CRASHED = 70

SUPERVISORS_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to all of its processes, and only the supervisor should act on."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
"""What the frameworks, and most libraries that use OpenMP, read once when they start."""


@dataclass(frozen=True)
class Handover:
    """What a worker gets from its supervisor."""

    number: int
    channel: socket.socket
    """To the supervisor; at its end the supervisor is gone."""

    sockets: Sequence[socket.socket]
    """The listening sockets, shared by all workers."""

    board: LoadBoard
    """What each worker has to do, written by all and read by all."""

    metrics: MetricMemory
    """What each worker counts, written by all and read by all."""

    models: ModelBoard
    """Which models each worker has, written by all and read by all."""

    grpc_port: int = 0
    """The port that was reserved for gRPC; 0: none."""

    others_serve: bool = False
    """Other workers answer meanwhile: accept nothing before the models are loaded."""


def fork_from_fresh_thread(run: Callable[[], int]) -> int:
    """Fork a child that calls ``run`` and exits with what it returns.

    The fork happens on a new thread, which becomes the child's main thread. PyTorch's OpenMP pool belongs to
    the thread that used it, and its helper threads do not survive a fork: forked from a thread that has run a
    large operator, the child's first forward on that thread waits for ever. A fresh thread has no pool yet
    (measured with torch 2.13: a plain fork hangs, this one serves).

    Returns:
        The child's process id.

    Raises:
        OSError: the system refused to fork.
    """
    # A collection in the child writes into the head of every object and so copies all that was inherited:
    # two workers with torch took about 60 MiB more (measured). What is frozen here is not looked at.
    gc.collect()
    gc.freeze()
    outcome: list[int | OSError] = []

    def fork() -> None:
        # Until the child has its own handlers, a signal would run the supervisor's in it and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            with warnings.catch_warnings():
                # CPython 3.12 warns of threads in the parent; the child starts none of their work.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError as error:
            outcome.append(error)
            return
        if pid:
            outcome.append(pid)
            return
        _run_child(run)

    thread = threading.Thread(target=fork, name="fork")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _run_child(run: Callable[[], int]) -> None:
    """Everything the child ever does. It leaves without the clean-up handlers, which are the parent's."""
    code = EXIT_CRASHED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in SUPERVISORS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        code = run()
    except BaseException:
        _log.exception("Worker %d failed", os.getpid())
    finally:
        leave(code)


def leave(code: int) -> NoReturn:
    """End the process now, without Python's clean-up, but with all that was written and logged."""
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader of the pipe is gone
            stream.flush()
    os._exit(code)


def limit_cpu_threads(threads: int, *, forced: bool) -> None:
    """Let operators that run in this process use at most ``threads`` threads.

    Frameworks that are imported later read it from the environment. PyTorch that is imported already is told
    here; threads that are made later take its number over (measured with torch 2.13). To be called before
    they are made, and before TensorFlow computes anything.

    Args:
        threads: the limit.
        forced: the user has asked for it. Else a lower number that is set already stays, and so does
            what the user's environment says.
    """
    told_by_user = "OMP_NUM_THREADS" in os.environ
    os.environ.update(thread_variables(threads, forced=forced))
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads") or (told_by_user and not forced):
        return
    if forced or torch.get_num_threads() > threads:
        torch.set_num_threads(threads)


def thread_variables(threads: int, *, forced: bool) -> dict[str, str]:
    """The environment variables to set for a limit of ``threads``; without force, those that are not set."""
    return {name: str(threads) for name in THREAD_VARIABLES if forced or name not in os.environ}


def can_rerun() -> bool:
    """Whether there is a program to run again: not in an interactive session."""
    main = sys.modules.get("__main__")
    return getattr(main, "__file__", None) is not None or "-c" in sys.orig_argv


def rerun_script(handover: Handover, environ: Mapping[str, str] | None = None) -> int:
    """Start the program that is running now once more, as a worker.

    Args:
        handover: what the worker gets.
        environ: set in its environment, beside this process's own.

    Returns:
        The new process's id.

    Raises:
        StartError: there is no program to run again (an interactive session).
    """
    if not can_rerun():
        raise StartError(
            "A framework's runtime is already initialised in this process, so it cannot be forked, and there "
            "is no script to run again. Save the program to a file, or use workers=1 without supervise."
        )
    sockets = (handover.channel, *handover.sockets)
    memory = (handover.board.fileno, handover.metrics.fileno, handover.models.fileno)
    descriptors = [*memory, *(sock.fileno() for sock in sockets)]
    numbers = (os.getpid(), handover.number, int(handover.others_serve), handover.grpc_port)
    told = ":".join(map(str, (*numbers, *descriptors)))
    process = subprocess.Popen(  # noqa: S603 - the very command that started this process
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, **(environ or {}), HANDOVER: told},
        pass_fds=descriptors,
    )
    process.returncode = 0  # the supervisor reaps it by its id; Popen must not
    return process.pid


def is_worker() -> bool:
    """Whether this process is a script run again, and its handover is still to be taken."""
    # Else it may be inherited by some other program that a worker has started.
    return os.environ.get(HANDOVER, "").startswith(f"{os.getppid()}:")


def take_handover() -> Handover | None:
    """What the supervisor left for this process, if it is a script run again. Taken once."""
    is_ours = is_worker()
    told = os.environ.pop(HANDOVER, None)
    if told is None or not is_ours:
        return None
    for signal_number in SUPERVISORS_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    _, number, others_serve, grpc_port, board, metrics, models, channel, *sockets = map(int, told.split(":"))
    return Handover(
        number,
        socket.socket(fileno=channel),
        [socket.socket(fileno=fileno) for fileno in sockets],
        LoadBoard.attached(board),
        MetricMemory.attached(metrics),
        ModelBoard.attached(models),
        grpc_port,
        bool(others_serve),
    )


def unforkable_runtime() -> str | None:
    """The framework whose runtime is initialised here, so that a forked child would hang or die; or None."""
    torch_cuda = sys.modules.get("torch.cuda")
    if torch_cuda is not None and torch_cuda.is_initialized():
        return "CUDA"
    if "tensorflow" in sys.modules and _tensorflow_is_initialised():
        return "TensorFlow"
    return None


def _tensorflow_is_initialised() -> bool:
    """Whether TensorFlow has started its own threads, which a fork would lose; importing it starts none."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    if getattr(getattr(eager, "_context", None), "_initialized", False):
        return True
    # A v1 Session registers nowhere in Python, but its thread pools (tf_Compute ...) can be seen.
    for comm in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if comm.read_text().startswith("tf_"):
                return True
    return False
