"""The results as a page: a table of ratios beside their targets, and a table of figures for each group."""

from __future__ import annotations

from collections.abc import Iterable

from results import Part, Results
from targets import UNITS, Outcome, outcomes

_HEADINGS = {
    "rate": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us": "CPU µs/request",
    "start_s": "seconds",
    "pss_mb": "PSS MB",
    "copies": "copies of the tensor",
}


def page(results: Results, order: list[str], command: str) -> str:
    """`docs/benchmarks.md`."""
    parts = results.parts(order)
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by benchmarks/bench.py: run `make bench`. -->",
        "",
        "modelserver beside KServe's Python server, mosec and LitServe: the same model and the same request,",
        "measured in turn in one run. What each row does, and how to run it again:",
        "[benchmarks/README.md](../benchmarks/README.md).",
        "",
        f"Made by `{command}` on this machine:",
        "",
        *table(["", ""], ([name, value] for name, value in results.machine.items())),
        "",
        "![Requests a second, ours against the others](benchmarks.svg)",
        "",
        "## Against the targets",
        "",
        "The ratio is ours / theirs. Of several configurations of a peer the better one counts, for each",
        "figure. A figure against `the tensor` is in copies of it. NVIDIA Triton's server is not among the",
        "peers: it comes as a container image, and there is none on this machine.",
        "",
        *table(["row", "clients", "figure", "against", "ratio", "target", ""], map(_ratio, outcomes(parts))),
        "",
        "## Figures",
        "",
        "Medians of the rounds; CPU is user and system time of all processes of a server.",
    ]
    for part in parts:
        lines += ["", f"### {part.name}: {part.title}", "", *_figures(part), "", _how(part)]
    lines += ["", "## Versions", "", *_versions(results.versions), ""]
    return "\n".join(lines)


def console(part: Part) -> str:
    """A group as it is printed while the benchmark runs."""
    return "\n".join([f"\n{part.name}: {part.title}", *_plain([_columns(part), *_cells(part)])])


def console_ratios(parts: list[Part]) -> str:
    """The ratios as they are printed at the end."""
    head = ["row", "clients", "figure", "against", "ratio", "target", ""]
    return "\n".join(["", *_plain([head, *map(_ratio, outcomes(parts))])])


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def _ratio(outcome: Outcome) -> list[str]:
    target = outcome.target
    row = (
        target.group if target.ours == "modelserver" else f"{target.group} ({target.ours.split(', ', 1)[1]})"
    )
    return [
        row,
        str(target.clients),
        UNITS[target.figure],
        outcome.against,
        f"{outcome.ratio:.2f}x",
        target.limit(),
        outcome.verdict,
    ]


def _names(part: Part) -> list[str]:
    names: dict[str, None] = {}
    for row in part.rows:
        names.update(dict.fromkeys(row.figures))
    return list(names) or ["rate"]  # all failed: the reason needs a column


def _columns(part: Part) -> list[str]:
    return ["server", "clients", *(_HEADINGS[name] for name in _names(part))]


def _cells(part: Part) -> list[list[str]]:
    names = _names(part)
    return [
        [
            row.contender,
            str(row.clients),
            *([_number(row.figures[name]) for name in names] if row.figures else _failed(row.error, names)),
        ]
        for row in part.rows
    ]


def _failed(error: str, names: list[str]) -> list[str]:
    reason = "FAILED: " + (error or "not measured").splitlines()[0][:120].replace("|", "/")
    return [reason, *[""] * (len(names) - 1)]


def _figures(part: Part) -> list[str]:
    return table(_columns(part), _cells(part))


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _how(part: Part) -> str:
    if "start_s" in _names(part):
        how = f"{part.rounds} starts each, in turn"
    elif "copies" in _names(part):
        how = f"{part.rounds} fresh servers each, one request: peak of resident memory above idle"
    elif "pss_mb" in _names(part):
        how = "one server at a time"
    else:
        how = f"{part.rounds} rounds of {part.seconds:g} s each, in turn, by {_client(part)}"
    busy = "" if part.busy is None else f" The machine's load was {part.busy:.1f} before."
    return f"{part.date}, {how}.{busy}"


def _client(part: Part) -> str:
    return {"v2-grpc": "h2load", "v2-tritonclient": "tritonclient"}.get(part.name, part.load)


def _versions(versions: dict[str, dict[str, str]]) -> list[str]:
    packages = dict.fromkeys(name for found in versions.values() for name in found)
    peers = list(versions)
    rows = ([name, *(versions[peer].get(name, "") for peer in peers)] for name in packages)
    return table(["", *(f"environment of {peer}" for peer in peers)], rows)
