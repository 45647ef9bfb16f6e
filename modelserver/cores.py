"""How many cores this process may use.

Rules of the room: what the system says; who uses how many is ``settings``' business.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: its CPU affinity, and the container's CPU limit (cgroup v2 or v1) if lower.

    A limit of part of a core is rounded up.
    """
    cores = len(os.sched_getaffinity(0))
    limit = _cpu_limit(cgroup)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def _cpu_limit(cgroup: Path) -> float | None:
    """The limit in cores; ``None``: none."""
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max": no limit
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None  # -1: no limit
    return None
