"""The pages that are made from the code are up to date, and what the code has is in the pages."""

import inspect
import json
import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

import pytorchserver
import tfserver
from modelserver import cli, errors
from modelserver.settings import Settings, environment_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def text_of(name):
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generated():
    return runpy.run_path(str(DOCS / "generate.py"))["pages"]()


@pytest.mark.parametrize("name", ["settings.md", "cli.md"])
def test_the_page_is_what_the_code_makes(generated, name):
    assert text_of(name) == generated[name], "run `make docs`"


def test_every_generated_page_is_compared(generated):
    assert set(generated) == {"settings.md", "cli.md"}


def test_the_width_of_the_terminal_does_not_matter(generated, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert runpy.run_path(str(DOCS / "generate.py"))["pages"]() == generated


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_every_setting_has_its_row(spec):
    (row,) = [line for line in text_of("settings.md").splitlines() if line.startswith(f"| `{spec.name}` |")]
    for name in (f"--{spec.name}", *environment_names(spec)):
        assert f"`{name}`" in row
    assert spec.metadata["help"] in row


ERRORS = [
    thing
    for thing in vars(errors).values()
    if inspect.isclass(thing) and issubclass(thing, errors.ModelServerError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_described_with_its_status(error):
    page = text_of("custom-model.md")
    row = re.search(rf"^\| `{error.__name__}\b[^|]*\| (\d+) \|", page, re.MULTILINE)
    if error is errors.ModelServerError:
        row = re.search(r"`ModelServerError` \((\d+)\) is the root", page)
    assert row, f"{error.__name__} is in no table of docs/custom-model.md"
    assert int(row[1]) == error.status


def test_every_failure_of_the_protocol_cases_is_described():
    """Texts that only repeat what a test's model has raised are left out: the page has their form."""
    page = text_of("protocol-v1.md")
    cases = json.loads((ROOT / "tests" / "protocol" / "v1_cases.json").read_text(encoding="utf-8"))
    failures = [case for case in cases if case["status"] >= 400]
    for case in failures:
        assert f"| {case['status']} |" in page or case["status"] == 422, case["name"]
        text = case.get("error_starts") or case["json"]["error"]
        general = re.sub(r"name \S+ (does|is)", r"name NAME \1", text)
        general = re.sub(r"Method \w+ is", "Method GET is", general)
        general = re.sub(r"Specific\(\w+,", "Specific(NAME,", general)
        general = re.sub(r"(version number up to \d+, got) .*", r"\1 x", general)
        if "/raises:" not in case["request"]["path"]:
            assert f"`{general}" in page, f"{case['name']}: {text}"
    assert len(failures) > 20
    assert (
        f"| 413 | the body is larger than the limit | `{errors.PayloadTooLarge(11000000, 10485760)}` |"
        in page
    )


COMMAND = re.compile(r"python -m (?:modelserver|pytorchserver|tfserver)\b(?! (?:check|pack)\b)([^`\n]*)")


def test_flags_in_the_pages_exist():
    parser = cli.serve_parser([pytorchserver.predictor, tfserver.predictor])
    known = set(re.findall(r"--\w+", parser.format_help()))
    seen = set()
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for command in COMMAND.finditer(page.read_text(encoding="utf-8")):
            flags = set(re.findall(r"(?<![\w-])--[a-z]\w*", command[1]))
            assert flags <= known, f"{page.name}: {command[0]}"
            seen |= flags
    assert "--http_port" in seen
