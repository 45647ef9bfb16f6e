"""The `train.py` of the two iris examples: a good model, packed as the specification's `tar` lines do."""

import re
import tarfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(params=["trained_pytorch", "trained_tensorflow"])
def training(request):
    return request.getfixturevalue(request.param)


def test_accuracy_on_flowers_it_was_not_trained_on(training):
    found = re.search(r"^test: accuracy ([\d.]+) on the held-out flowers$", training.output, re.MULTILINE)
    assert found, training.output
    assert float(found[1]) >= 0.9


def test_prints_a_line_for_each_step(training):
    steps = [line.split(":")[0] for line in training.output.splitlines()]
    assert steps == ["data", *["train"] * 5, "test", "pack"]


def test_readme_shows_what_is_printed(training):
    readme = (EXAMPLES / training.name / "README.md").read_text(encoding="utf-8")
    shown = readme.split("$ python train.py\n")[1].split("```")[0]
    # The digits may differ: they depend on the processor.
    digits, folders = re.compile(r"\d\.\d+"), re.compile(r"[^ ]*/")
    assert digits.sub("0.0", shown) == digits.sub("0.0", folders.sub("", training.output))


def test_if_missing_leaves_a_present_archive_alone(training):
    before = training.archive.read_bytes()
    output = training.run("--if-missing")
    assert re.fullmatch(rf"pack: \S*{training.archive.name} exists, nothing to do\n", output)
    assert training.archive.read_bytes() == before


def test_pytorch_archive_holds_both_files_without_a_folder(trained_pytorch):
    with tarfile.open(trained_pytorch.archive, "r:gz") as tar:
        assert sorted(tar.getnames()) == ["model.pt", "model.py"]


def test_tensorflow_archive_holds_the_version_folder(trained_tensorflow):
    with tarfile.open(trained_tensorflow.archive, "r:gz") as tar:
        names = tar.getnames()
    assert all(name.split("/")[0] == "0001" for name in names)
    assert {"0001/saved_model.pb", "0001/variables/variables.index"} <= set(names)


def test_epochs_can_be_chosen(trained_pytorch, tmp_path):
    output = trained_pytorch.run("--epochs", "5", "--output", str(tmp_path))
    assert "train: epoch 5 of 5" in output
