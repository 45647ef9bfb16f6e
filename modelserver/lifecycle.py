"""Where one serving process is in its life, and the requests it has not answered yet.

Rules of the room: state only. ``serving`` moves it on, the doors read it and count their requests in.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class Lifecycle:
    """The state of one process."""

    loaded: bool = False
    """Every model that was to be loaded is loaded."""

    draining: bool = False
    """The process was told to stop: it finishes what it has and wants no more."""

    in_flight: set[Hashable] = field(default_factory=set)
    """Requests that were taken and not answered yet, by their connection."""
