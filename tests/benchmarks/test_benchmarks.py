"""The benchmark runs: without peers, for a moment, into a folder of the test. No figure is judged."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import harness
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def bench(tmp_path, trained_pytorch):
    """Runs bench.py, with the iris model already trained."""
    models = tmp_path / "work" / "models"
    models.mkdir(parents=True)
    (models / "iris_pytorch").symlink_to(trained_pytorch.folder)

    def run(*options):
        places = ["--work", tmp_path / "work", "--output", tmp_path / "docs"]
        return harness.run([BENCHMARKS / "bench.py", *places, *options])

    return run


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def test_our_server_alone_gives_a_table_and_a_picture(bench, tmp_path):
    short = ["--quick", "--seconds", "0.2", "--generator", "python"]
    done = bench(*short, "--rows", "iris", "--peers", "modelserver")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| modelserver | ")]
    measured = [(row[1], len(row)) for row in rows if row[1].isdigit()]
    assert measured == [("1", 6), ("16", 6), ("64", 6), ("16", 6)], page
    assert ElementTree.parse(tmp_path / "docs" / "benchmarks.svg").getroot().tag == f"{SVG}svg"
    (raw,) = (tmp_path / "work").glob("**/results.json")
    assert json.loads(raw.read_text())["parts"]["iris"]["rows"][0]["figures"]["rate"] > 0


def test_a_wrong_answer_fails_loudly(modules):
    from processes import BenchmarkError, check_equal, numbers

    assert (
        numbers(b'{"predictions": [[1, 2.5]]}') == numbers(b'{"outputs": [{"data": [1, 2.5]}]}') == [1, 2.5]
    )
    check_equal([1.0], [1.00001], "one")
    with pytest.raises(BenchmarkError, match=r"one answers \[1\.0\], expected \[1\.1\]"):
        check_equal([1.0], [1.1], "one")


def test_a_target_is_held_against_the_better_of_a_peers_servers(modules):
    from chart import svg
    from measure import Row
    from results import Part
    from targets import outcomes

    rates = {"modelserver": 3000.0, "mosec": 2000.0, "mosec, batching": 1000.0, "kserve": 1500.0}
    figures = {"p99_ms": 1.0}
    rows = [
        Row(name, name.split(",")[0], 1, figures={"rate": rate, **figures}) for name, rate in rates.items()
    ]
    found = outcomes([Part("iris", "title", "today", 1.0, 1, "wrk", rows)])
    verdicts = {(one.target.figure, one.against): (one.ratio, one.verdict) for one in found}
    assert verdicts["rate", "mosec"] == (1.5, "ok")
    assert verdicts["rate", "kserve"] == (2.0, "not reached")
    root = ElementTree.fromstring(svg(found))
    bars = [
        bar.findtext(f"{SVG}title") for bar in root.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None
    ]
    assert bars == ["kserve: 2.00x", "mosec: 1.50x"]


def test_a_failed_row_is_shown(modules):
    from measure import Row
    from report import console
    from results import Part

    rows = [
        Row("modelserver", "modelserver", 1, error="it ended with status 1\nlog"),
        Row("kserve", "kserve", 1),
    ]
    assert "FAILED: it ended with status 1" in console(Part("iris", "title", "today", 1.0, 1, "wrk", rows))
