"""How many file descriptors this process may have, and whether they are nearly used up.

Rules of the room: numbers from the system. What to do about a connection for which there is no room is
``server``'s and ``surplus``'s business.
"""

from __future__ import annotations

import os
import resource

_MOST = 1 << 20
"""Asked for at most. Some container runtimes set a hard limit of a billion, and some programs that a model
may start close every descriptor they could have, one by one."""

_RESERVE_PART = 8
_RESERVE_LEAST, _RESERVE_MOST = 16, 256


def raise_limit() -> int:
    """Raise this process's soft limit on open files (``ulimit -n``) to the hard one; returns what it is now.

    The soft limit is often 1,024, for the sake of programs that use ``select``; a server of long-lived
    connections reaches it. A limit that is above ``_MOST`` already is left as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # not every system takes every number; then it stays as it was
        return soft
    return wanted


class Descriptors:
    """The descriptors of this process, whoever uses them: connections, models, logs.

    Attributes:
        limit: how many there may be.
        reserve: the last so many are not for connections that stay: an eighth, 16 at least and 256 at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserve = min(max(limit // _RESERVE_PART, _RESERVE_LEAST), _RESERVE_MOST)

    def left(self) -> int:
        """How many there are before the reserve, at most; 0 or less: only the reserve, or nothing.

        A new descriptor has the lowest number that is free, so all below it are in use. To look takes 1 us;
        to count them in ``/proc`` takes milliseconds when there are many.
        """
        try:
            number = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        os.close(number)
        return self.limit - self.reserve - number
