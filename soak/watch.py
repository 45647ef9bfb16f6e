"""The measurement: what a server uses, again and again, and what follows from that."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from processes import Use


@dataclass
class Watch:
    """Samples of what a server uses, each with how many requests it had been asked."""

    samples: list[tuple[int, Use]] = field(default_factory=list)

    def add(self, requests: int, use: Use) -> None:
        """Take a sample."""
        self.samples.append((requests, use))

    @property
    def first(self) -> Use:
        """The first sample."""
        return self.samples[0][1]

    @property
    def last(self) -> Use:
        """The last sample."""
        return self.samples[-1][1]

    def slope(self, what: str, warm_up: int) -> float:
        """Growth of ``rss`` or ``blocks`` for each request, behind the first ``warm_up`` requests.

        The median of the slopes between all pairs of samples (Theil and Sen): an allocator gives memory back
        in steps, and one step is no slope.
        """
        points = [(requests, getattr(use, what)) for requests, use in self.samples if requests >= warm_up]
        return statistics.median(
            (later[1] - earlier[1]) / (later[0] - earlier[0])
            for number, earlier in enumerate(points)
            for later in points[number + 1 :]
            if later[0] > earlier[0]
        )


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned text, each cell under its name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )
