"""Measures modelserver beside KServe, mosec and LitServe, and writes docs/benchmarks.md and .svg.

make bench                          everything, about 25 minutes
make bench ROWS=iris,image          some rows; the others keep their figures
make bench OPTIONS=--quick          a look: one short round, into .bench/quick
python benchmarks/bench.py --render the page again, without measuring
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import chart
import environments
import generator
import report
from contenders import Group
from groups import GROUPS
from materials import Materials
from measure import Plan, Row, measure
from results import Results
from targets import outcomes

ROOT = Path(__file__).resolve().parents[1]
PEERS = (environments.OURS, *environments.REQUIREMENTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if a contender failed."""
    options = _options(arguments)
    work: Path = options.work.resolve()
    output: Path = options.output or (work / "quick" if options.quick else ROOT / "docs")
    results = Results((work / "quick" if options.quick else work) / "results.json")
    failed = 0 if options.render else _measure(options, work, results)
    _render(results, output, _command(options))
    print(report.console_ratios(results.parts(list(GROUPS))))
    print(f"\n{output / 'benchmarks.md'}, {output / 'benchmarks.svg'}")
    if failed:
        print(f"{failed} rows FAILED: see above", file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rows", default="", help=f"some of {','.join(GROUPS)};\n'iris' is also 'iris-unbatched'"
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="some of %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round of one second each")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default: 3)")
    parser.add_argument("--rounds", type=int, help="measurements of each contender (default: 3)")
    parser.add_argument(
        "--render", action="store_true", help="write the page from the results that are there"
    )
    parser.add_argument("--generator", choices=("auto", "wrk", "python"), default="auto")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", help="environments, models, results")
    parser.add_argument("--output", type=Path, help="folder of the page (default: docs)")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.rows = _selected(parser, options.rows)
    options.peers = options.peers.split(",")
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(unknown)}")
    return options


def _selected(parser: argparse.ArgumentParser, text: str) -> list[str]:
    if not text:
        return list(GROUPS)
    words = text.split(",")
    for word in words:
        if not any(_matches(name, word) for name in GROUPS):
            parser.error(f"no such row: {word}; there are {', '.join(GROUPS)}")
    return [name for name in GROUPS if any(_matches(name, word) for word in words)]


def _matches(name: str, word: str) -> bool:
    return name == word or name.startswith(f"{word}-")


def _measure(options: argparse.Namespace, work: Path, results: Results) -> int:
    """Measure the chosen groups; the number of rows that failed."""
    work.mkdir(parents=True, exist_ok=True)
    python = functools.cache(functools.partial(environments.interpreter, folder=work / "environments"))
    versions = {peer: environments.versions(python(peer)) for peer in options.peers}
    load = generator.choose(options.generator)
    plan = Plan(options.seconds, options.rounds, load, work, python)
    made = Materials(work / "models")
    failed = 0
    for name in options.rows:
        group = _with_peers(GROUPS[name](made), options.peers)
        if not group.contenders:
            continue
        print(f"\n[bench] {name} ...", flush=True)
        busy = os.getloadavg()[0]
        rows: list[Row] = measure(group, plan)
        failed += sum(bool(row.error) for row in rows)
        results.add(
            name,
            group,
            rows,
            seconds=options.seconds,
            rounds=options.rounds,
            load=generator.describe(load),
            versions=versions,
            busy=busy,
        )
        (part,) = results.parts([name])
        print(report.console(part), flush=True)
    return failed


def _with_peers(group: Group, peers: Sequence[str]) -> Group:
    kept = tuple(contender for contender in group.contenders if contender.server.peer in peers)
    return Group(group.title, kept, group.clients, group.kind, group.same_answer)


def _render(results: Results, output: Path, command: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    order = list(GROUPS)
    (output / "benchmarks.md").write_text(report.page(results, order, command))
    (output / "benchmarks.svg").write_text(chart.svg(outcomes(results.parts(order))))


def _command(options: argparse.Namespace) -> str:
    return "make bench OPTIONS=--quick" if options.quick else "make bench"


if __name__ == "__main__":
    sys.exit(main())
