"""What the figures should be: ratios of ours to another contender's, and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from results import Part

UNITS = {
    "rate": "req/s",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "cpu_us": "CPU",
    "start_s": "start",
    "pss_mb": "PSS",
    "copies": "memory",
}
_KSERVE = ("kserve",)
_MOSEC = ("mosec", "mosec, batching")
_OURS = "modelserver"


@dataclass(frozen=True)
class Target:
    """`ours / against` of a figure: of several, the best counts. Against none it is the figure itself."""

    group: str
    clients: int
    figure: str
    against: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    ours: str = _OURS

    def limit(self) -> str:
        """The limit as text."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


@dataclass(frozen=True)
class Outcome:
    """A target and what came out."""

    target: Target
    against: str
    ratio: float

    @property
    def verdict(self) -> str:
        """`ok`, `not reached`, or nothing where there is no limit."""
        target = self.target
        if target.at_least is not None:
            return "ok" if self.ratio >= target.at_least else "not reached"
        if target.at_most is not None:
            return "ok" if self.ratio <= target.at_most else "not reached"
        return ""


def _rates(group: str, clients: int, kserve: float, mosec: float | None) -> list[Target]:
    """Requests a second at least so many times the peers', and p99 below theirs."""
    mosecs = () if mosec is None else (_MOSEC,)
    return [
        Target(group, clients, "rate", _KSERVE, at_least=kserve),
        *(Target(group, clients, "rate", names, at_least=mosec) for names in mosecs),
        *(Target(group, clients, "p99_ms", names, at_most=1.0) for names in (_KSERVE, *mosecs)),
    ]


_LOGGING = ("kserve, its logs on",)
_V2 = ("kserve, V2 binary",)
_BYTES = ("kserve, own frombuffer",)
TARGETS: list[Target] = [
    *_rates("iris", 1, 3, 1.2),
    *_rates("iris", 16, 10, 3),
    *_rates("iris", 64, 14, 1.0),
    *_rates("iris-unbatched", 16, 4, 1.3),
    *_rates("image", 1, 7, 5),
    Target("tensor", 1, "rate", _V2, at_least=50),
    Target("tensor", 1, "rate", _BYTES),
    Target("tensor", 1, "rate", _MOSEC, at_least=1.1),
    Target("tensor", 1, "p99_ms", _V2, at_most=1.0),
    Target("tensor", 1, "p99_ms", _BYTES),
    Target("tensor", 1, "p99_ms", _MOSEC, at_most=1.0),
    *_rates("v2-binary", 1, 3, None),
    *_rates("v2-binary", 4, 3, None),
    *_rates("v2-grpc", 1, 2, None),
    *_rates("v2-grpc", 16, 2, None),
    *(
        Target(group, clients, "cpu_us", (against,))
        for group, clients, against in (
            ("v2-binary", 1, "kserve"), ("v2-binary", 4, "kserve"),
            ("v2-grpc", 1, "kserve"), ("v2-grpc", 16, "kserve"),
            ("v2-grpc", 1, "bare grpcio"), ("v2-grpc", 16, "bare grpcio"),
        )
    ),
    *(
        Target("v2-tritonclient", 1, "rate", (f"kserve, {name}",), limit, ours=f"modelserver, {name}")
        for name, limit in (("HTTP, picture", 3), ("gRPC, picture", None), ("gRPC, 2 rows", 2))
    ),
    *(
        Target("v2-memory", 1, "copies", (), at_most=limit, ours=f"modelserver, {name}")
        for name, limit in (("REST, one number back", 1.3), ("REST, sent back", 1.3),
                            ("gRPC, one number back", 1.3), ("gRPC, sent back", None))
    ),
    *_rates("jpeg", 1, 1.05, 1.0),
    *_rates("jpeg", 4, 1.05, 1.0),
    *(
        Target(group, clients, "rate", _LOGGING)
        for group, clients in (("iris", 1), ("iris", 16), ("iris", 64), ("iris-unbatched", 16))
    ),
    *(
        Target(group, clients, "rate", ("litserve",))
        for group, clients in (("iris", 1), ("iris", 16), ("iris", 64), ("iris-unbatched", 16), ("image", 1),
                               ("jpeg", 1), ("jpeg", 4), ("slow", 64))
    ),
    Target("slow", 64, "rate", _KSERVE),
    Target("slow", 64, "rate", _MOSEC, at_least=1.0),
    Target("slow", 64, "p99_ms", _KSERVE, at_most=1.0),
    Target("slow", 64, "p99_ms", _MOSEC, at_most=1.0),
    Target("slow-lone", 1, "p50_ms", ("modelserver, off",), at_most=1.05, ours="modelserver, on"),
    *_rates("tensorflow", 1, 3, None),
    *_rates("tensorflow", 16, 8, None),
    Target("start", 1, "start_s", ("bare script",), at_most=1.1),
    Target("memory", 8, "pss_mb", ("modelserver, 1 worker",), at_most=1.1, ours="modelserver, 2 workers"),
    Target("workers", 4, "rate", ("modelserver, 1 worker",), at_least=1.8, ours="modelserver, 2 workers"),
    Target("workers", 8, "rate", ("modelserver, 1 worker",), at_least=1.8, ours="modelserver, 2 workers"),
    Target("bare", 1, "cpu_us", ("bare httptools",), at_most=2.5),
]  # fmt: skip


def outcomes(parts: list[Part]) -> list[Outcome]:
    """Every target whose figures have been measured, by rows."""
    by_name = {part.name: part for part in parts}
    order = list(by_name)
    found = []
    for target in TARGETS:
        part = by_name.get(target.group)
        ours = part and part.find(target.ours, target.clients)
        others = [
            row for name in target.against if part and (row := part.find(name, target.clients)) is not None
        ]
        if not ours or (target.against and not others):
            continue
        if not target.against:
            found.append(Outcome(target, "the tensor", ours.figures[target.figure]))
            continue
        better = max if target.figure == "rate" else min
        best = better(others, key=lambda row: row.figures[target.figure])
        ratio = ours.figures[target.figure] / best.figures[target.figure]
        found.append(Outcome(target, best.contender, ratio))
    return sorted(found, key=lambda outcome: (order.index(outcome.target.group), outcome.target.clients))
