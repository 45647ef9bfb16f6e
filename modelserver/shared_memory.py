"""A file that is only memory, which several processes can map.

Rules of the room: the descriptor and nothing of what is written there.
"""

from __future__ import annotations

import os
import tempfile


def memory_file(name: str) -> int:
    """A descriptor of a new, empty file in memory. A process that maps it after a fork sees the same memory.

    Args:
        name: shown in ``/proc/PID/fd``, for people.

    Returns:
        The descriptor, which the caller closes.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:  # not on Linux
        return os.dup(file.fileno())
