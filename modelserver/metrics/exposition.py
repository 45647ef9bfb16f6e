"""The page of metrics, in Prometheus' text format (version 0.0.4), summed over all processes.

Rules of the room: reading and text. Any process can write the page: it sees the memory of all. A value that
another process is just changing may be one observation behind its neighbours; none is ever half a number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from modelserver.metrics.families import FAMILIES, Family, family_of
from modelserver.metrics.memory import MetricMemory
from modelserver.metrics.processes import Process, look_at

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content-Type of the page."""


class Page(Protocol):
    """Something that Prometheus reads."""

    def text(self) -> str:
        """All of it, as it is now."""


INFO = Family("modelserver_info", "gauge", ("version",), "The version of the server; the value is always 1.")
DROPPED = Family(
    "modelserver_metrics_dropped_series_total", "counter", (), "Series that the memory had no room for."
)
_WORKER = ("worker",)
RESIDENT = Family("process_resident_memory_bytes", "gauge", _WORKER, "Resident memory size in bytes.")
VIRTUAL = Family("process_virtual_memory_bytes", "gauge", _WORKER, "Virtual memory size in bytes.")
CPU = Family("process_cpu_seconds_total", "counter", _WORKER, "Total user and system CPU time in seconds.")
START = Family("process_start_time_seconds", "gauge", _WORKER, "Start time in seconds since the unix epoch.")
OPEN_FDS = Family("process_open_fds", "gauge", _WORKER, "Number of open file descriptors.")
MAX_FDS = Family("process_max_fds", "gauge", _WORKER, "Maximum number of open file descriptors.")
THREADS = Family("process_threads", "gauge", _WORKER, "Number of threads.")

ASKED: tuple[Family, ...] = (INFO, DROPPED, RESIDENT, VIRTUAL, CPU, START, OPEN_FDS, MAX_FDS, THREADS)
"""Metrics that nobody counts: known, or asked from the system when the page is written."""


class _Series(NamedTuple):
    family: Family
    key: bytes
    start: int


class Totals:
    """Reads what all processes have counted.

    Args:
        memory: of all processes.
        families: of the series to read.
    """

    def __init__(self, memory: MetricMemory, families: Mapping[str, Family] = FAMILIES) -> None:
        self._memory = memory
        self._families = families
        # Blocks only grow, so what is known of them stays true.
        self._known: dict[int, list[_Series]] = {number: [] for number in memory.numbers}
        self._next: dict[int, int] = dict.fromkeys(memory.numbers, 0)

    def read(self) -> dict[str, dict[bytes, list[float]]]:
        """The values of every series, by family and name: those of all blocks in one.

        A counter has one number, a gauge too; a histogram its sum, and a count for each bucket.
        """
        totals: dict[str, dict[bytes, list[float]]] = {}
        for number in self._memory.numbers:
            for family, key, start in self._series(number):
                values = self._values(family, start)
                of_family = totals.setdefault(family.name, {})
                before = of_family.get(key)
                if before is not None:
                    merge = max if family.merge == "max" else _sum
                    values = list(map(merge, before, values))
                of_family[key] = values
        return totals

    def _series(self, number: int) -> list[_Series]:
        """The series of a block; looks for new ones."""
        known = self._known[number]
        for record in self._memory.records(number, self._next[number]):
            self._next[number] = record.start + record.words
            family = family_of(record.key, self._families)
            # Another version of this program may have counted it with other buckets.
            if family is not None and family.words == record.words:
                known.append(_Series(family, record.key, record.start))
        return known

    def _values(self, family: Family, start: int) -> list[float]:
        memory = self._memory
        if family.kind == "counter":
            return [memory.integers[start]]
        value = memory.floats[start]
        if family.kind == "gauge":
            return [value]
        return [value, *memory.integers[start + 1 : start + family.words].tolist()]


class Exposition:
    """Writes the page.

    Args:
        memory: of all processes.
    """

    def __init__(self, memory: MetricMemory) -> None:
        self._memory = memory
        self._totals = Totals(memory)

    def text(self) -> str:
        """All metrics, as they are now."""
        totals = self._totals.read()
        lines: list[str] = []
        for family in FAMILIES.values():
            lines += _head(family)
            for key, values in sorted(totals.get(family.name, {}).items()):
                lines += _samples(family, key.decode(), values)
        for family, samples in self._asked():
            lines += _head(family)
            lines += (f"{family.key(*labels).decode()} {_number(value)}" for labels, value in samples)
        return "\n".join(lines) + "\n"

    def _asked(self) -> Iterator[tuple[Family, list[tuple[tuple[str, ...], float]]]]:
        """The metrics in ``ASKED``, each with its samples: label values and a number."""
        memory = self._memory
        yield INFO, [((_version(),), 1)]
        yield DROPPED, [((), sum(map(memory.dropped, memory.numbers)))]
        processes: list[tuple[str, Process]] = []
        for number in memory.numbers:
            process = look_at(memory.pid(number))
            if process is not None:
                name = "supervisor" if number == memory.SUPERVISOR else str(number)
                processes.append((name, process))
        for family, attribute in (
            *((RESIDENT, "resident_bytes"), (VIRTUAL, "virtual_bytes"), (CPU, "cpu_s"), (START, "started_s")),
            *((OPEN_FDS, "open_fds"), (MAX_FDS, "max_fds"), (THREADS, "threads")),
        ):
            values = ((name, getattr(process, attribute)) for name, process in processes)
            yield family, [((name,), value) for name, value in values if value is not None]


def _version() -> str:
    # By its name: the package itself names the rooms above this one.
    version: str = sys.modules["modelserver"].__version__
    return version


def _sum(first: float, second: float) -> float:
    return first + second


def _head(family: Family) -> tuple[str, str]:
    return f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"


def _samples(family: Family, key: str, values: list[float]) -> Iterable[str]:
    """The lines of a series."""
    if family.kind != "histogram":
        return (f"{key} {_number(values[0])}",)
    labels = key[len(family.name) + 1 : -1]
    lines, count = [], 0.0
    for bound, in_bucket in zip(_BOUNDS[family.name], values[1:], strict=True):
        count += in_bucket
        lines.append(f'{family.name}_bucket{{{labels},le="{bound}"}} {_number(count)}')
    lines.append(f"{family.name}_count{{{labels}}} {_number(count)}")
    lines.append(f"{family.name}_sum{{{labels}}} {_number(values[0])}")
    return lines


def _number(value: float) -> str:
    """As prometheus-client writes it: ``le="1.0"`` here and ``le="1"`` elsewhere would be two series."""
    return repr(float(value))


_BOUNDS = {family.name: (*map(_number, family.buckets), "+Inf") for family in FAMILIES.values()}
