"""What one client may ask of the server's patience and memory, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from modelserver.settings import Settings


@dataclass(frozen=True)
class Limits:
    """Times are in seconds, sizes in bytes."""

    keep_alive_s: float = 65.0
    """An idle connection is closed after this."""

    head_s: float = 20.0
    """A request's head must be complete this long after its first byte; else 408."""

    body_idle_s: float = 20.0
    """A body must go on within this; else 408."""

    min_body_rate: float = 512.0
    """Bytes per second: a body that stays below it for ``body_idle_s`` has not gone on."""

    write_idle_s: float = 60.0
    """A client must take something of its answer within this; else its connection is dropped."""

    max_head_bytes: int = 64 * 1024
    """Request line and header fields; else 431."""

    max_header_fields: int = 200
    """Number of header fields; else 431."""

    max_connections: int = 0
    """More at once are answered 503; 0: as many as the process may have open files, less a reserve."""

    sweep_s: float = 1.0
    """How often deadlines are looked at."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits that a server is told."""
        shortest = min(settings.timeout_keep_alive, settings.timeout_read, settings.timeout_write)
        return cls(
            keep_alive_s=settings.timeout_keep_alive,
            head_s=settings.timeout_read,
            body_idle_s=settings.timeout_read,
            write_idle_s=settings.timeout_write,
            max_connections=settings.max_connections,
            sweep_s=min(1.0, max(0.05, shortest)),  # more often would cost more than it is worth
        )
