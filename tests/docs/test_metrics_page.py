"""The pages of metrics against the code, both ways: every metric with its type and labels, and no other."""

import re
from pathlib import Path

from modelserver.metrics.exposition import ASKED
from modelserver.metrics.families import FAMILIES
from modelserver.metrics.tfs_families import RUNTIME_LATENCY, SHOWN

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "metrics.md"
IN_CODE = {family.name: family for family in (*FAMILIES.values(), *ASKED)}
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def rows(page=PAGE, begin="| `"):
    """Name -> (type, labels) of a page's tables."""
    found = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(begin):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            name = cells[0].strip("`")
            assert name not in found, f"{name} is there twice"
            assert cells[3], f"{name} has no meaning"
            found[name] = cells[1], tuple(re.findall(r"`(\w+)`", cells[2]))
    return found


def test_every_metric_is_on_the_page_with_its_type_and_labels():
    assert rows() == {name: (family.kind, family.labels) for name, family in IN_CODE.items()}


def test_tensorflow_serving_s_metrics_are_on_its_page():
    labels = {name: family.labels for name, family in SHOWN.items()}
    labels[RUNTIME_LATENCY.name] += ("runtime",)  # not counted: what runs the model is known
    in_code = {name: (family.kind, labels[name]) for name, family in SHOWN.items()}
    assert rows(DOCS / "tensorflow-serving.md", "| `:tensorflow:") == in_code


def test_every_name_that_the_page_uses_is_a_metric():
    text = PAGE.read_text(encoding="utf-8")
    used = re.findall(r"\b((?:modelserver|process|request)_[a-z_]*[a-z])\b(?!\()", text)
    assert len(used) > 40
    for name in used:
        of_histogram = IN_CODE.get(_SUFFIX.sub("", name))
        assert name in IN_CODE or (of_histogram and of_histogram.kind == "histogram"), name


def test_the_buckets_that_the_page_names():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "(0.005 to 10 s) and five below: 0.0001, 0.00025, 0.0005, 0.001 and 0.0025" in text
    assert IN_CODE["request_predict_seconds"].buckets[:6] == (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005)
    assert IN_CODE["request_predict_seconds"].buckets[-1] == 10
    assert IN_CODE["modelserver_request_seconds"].buckets[-3:] == (30, 60, 120)
    assert IN_CODE["modelserver_batch_size"].buckets == tuple(2**power for power in range(11))
