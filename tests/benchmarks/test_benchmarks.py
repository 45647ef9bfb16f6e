"""The benchmark runs: without peers, for a moment, into a folder of the test. No figure is judged."""

import json
import struct
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


def test_our_server_is_asked_by_tritonclient_and_once_with_much(bench, tmp_path):
    short = ["--quick", "--seconds", "0.2", "--generator", "python", "--peers", "modelserver"]
    done = bench(*short, "--rows", "v2-tritonclient,v2-memory")
    assert done.returncode == 0, done.stdout + done.stderr
    (raw,) = (tmp_path / "work").glob("**/results.json")
    parts = json.loads(raw.read_text())["parts"]
    figures = [row["figures"] for part in parts.values() for row in part["rows"]]
    assert len(figures) == 3 + 4
    assert all(each.get("rate", each.get("copies")) > 0 for each in figures)
    assert "1.3" in (tmp_path / "docs" / "benchmarks.md").read_text()


def test_h2loads_figures_are_read_and_calls_that_failed_are_told_by_the_bytes(modules):
    import generator

    said = (
        "requests: 3324 total, 3324 started, 3324 done, 3324 succeeded, 0 failed, 2 errored, 1 timeout\n"
        "status codes: 3324 2xx, 0 3xx, 0 4xx, 0 5xx\n"
        "traffic: 409.06KB (418875) total, 14.72KB (15069) headers (space savings 96%), 217KB (222641) data\n"
    )
    log = "1795402970617580\t200\t800\n1795402970618439\t200\t600\n1795402970619234\t200\t9000\n"
    found = generator.h2load_figures(said, log, answer_bytes=62, seconds=2)
    assert found == {
        "requests": 3324,
        "seconds": 2,
        "not_ok": 1,  # 222641 bytes are 3323 answers of 67
        "lost": 3,
        "p50_ms": 0.8,
        "p99_ms": 9.0,
    }
    assert generator.h2load_figures("no such line", log, answer_bytes=62, seconds=2) is None


def test_numbers_of_a_grpc_answer_are_found_raw_and_listed(modules):
    from processes import message_numbers

    from modelserver.protocols.v2_messages import ModelInferResponse

    tensor = {"name": "x", "datatype": "FP32", "shape": [2]}
    raw = ModelInferResponse(outputs=[tensor], raw_output_contents=[struct.pack("<2f", 1.5, -2.0)])
    listed = ModelInferResponse(outputs=[tensor | {"contents": {"fp32_contents": [1.5, -2.0]}}])
    assert message_numbers(raw.SerializeToString()) == message_numbers(listed.SerializeToString())
    assert message_numbers(raw.SerializeToString()) == [1.5, -2.0]


def test_a_target_against_nobody_is_the_figure_itself(modules):
    from measure import Row
    from results import Part
    from targets import outcomes

    row = Row("modelserver, REST, sent back", "modelserver", 1, figures={"copies": 1.4})
    (found,) = outcomes([Part("v2-memory", "title", "today", 1.0, 1, "wrk", [row])])
    assert (found.against, found.ratio, found.verdict) == ("the tensor", 1.4, "not reached")


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
