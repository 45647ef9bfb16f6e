"""What the system knows of a process: memory, CPU, descriptors.

Rules of the room: ``/proc``. Where there is none, or it may not be read, nothing is known and nothing fails.
"""

from __future__ import annotations

import os
import resource
from functools import cache
from pathlib import Path
from typing import NamedTuple

# proc_pid_stat(5), counted from the field behind the name.
_UTIME, _STIME, _THREADS, _STARTTIME, _VSIZE, _RSS = 11, 12, 17, 19, 20, 21


class Process(NamedTuple):
    """One process. Numbers that cannot be known are ``None``."""

    cpu_s: float
    started_s: float
    """Since the epoch."""
    resident_bytes: int
    virtual_bytes: int
    threads: int
    open_fds: int | None
    max_fds: int | None


def look_at(pid: int) -> Process | None:
    """The process with this id; ``None`` if it is gone, or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        booted_s = _booted_s()
    except OSError:
        return None
    # The name stands in brackets and may hold anything, brackets too.
    fields = stat.rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return Process(
        cpu_s=(int(fields[_UTIME]) + int(fields[_STIME])) / ticks,
        started_s=booted_s + int(fields[_STARTTIME]) / ticks,
        resident_bytes=int(fields[_RSS]) * os.sysconf("SC_PAGE_SIZE"),
        virtual_bytes=int(fields[_VSIZE]),
        threads=int(fields[_THREADS]),
        open_fds=_open_fds(pid),
        max_fds=_max_fds(pid),
    )


@cache
def _booted_s() -> int:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


def _open_fds(pid: int) -> int | None:
    path = Path(f"/proc/{pid}/fd")
    try:
        # Since Linux 6.2 its size is their number; to list ten thousand takes milliseconds.
        return path.stat().st_size or sum(1 for _ in path.iterdir())
    except OSError:
        return None


def _max_fds(pid: int) -> int | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except (AttributeError, OSError):  # not on Linux; another user's process
        return None
