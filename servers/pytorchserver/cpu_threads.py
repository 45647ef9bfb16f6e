"""How many of torch's intra-op threads a network's forward uses.

torch starts its OpenMP team for operators as small as a softmax over three numbers, and the team's barrier
waits by spinning. On two cores with other work on them, a 4-10-10-3 network with a softmax took 84 us of CPU
on one thread and 1,400 to 6,000 us on two. So a forward that is short on one thread stays on one; a long one
gets as many as OMP_NUM_THREADS says, which the server sets to a worker's share of the cores, or else torch's
own choice (one for each core).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

SHORT_S = 0.001

ALL = torch.get_num_threads()
"""What torch would use. Read at import: later, ``use`` has changed what torch answers."""

# The first such call makes torch's pthreadpool, whose threads stay and which torch itself makes anew in a
# forked child. Made while a model loads, they would look like threads that a fork loses (see `preloading`).
torch.set_num_threads(ALL)


class _Applied(threading.local):
    """torch keeps the number for each thread of the program; this is what was last set on the current one."""

    count = 0


_applied = _Applied()


def most() -> int:
    """The most threads that a forward may use. A worker's share may have been set after torch's import."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) else ALL


def use(count: int) -> None:
    """Let operators that run on the current thread use ``count`` threads."""
    if _applied.count != count:
        torch.set_num_threads(count)
        _applied.count = count


def settle(forward: Callable[[], Any]) -> int:
    """The number of threads for a network.

    Args:
        forward: calls the network with a row that it has answered before, on however many threads are set.
    """
    return settle_for(fastest(forward))


def settle_for(seconds: float) -> int:
    """The number of threads for a network whose forward takes so long on one."""
    return 1 if seconds < SHORT_S else most()


def fastest(forward: Callable[[], Any]) -> float:
    """The shortest of a few calls on one thread, in seconds."""
    use(1)
    return min(_seconds(forward) for _ in range(3))


def _seconds(forward: Callable[[], Any]) -> float:
    started = time.perf_counter()
    forward()
    return time.perf_counter() - started
