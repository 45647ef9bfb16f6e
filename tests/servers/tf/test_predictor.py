"""The entry point: cheap to look with, and ``python -m tfserver`` by hand."""

import argparse
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import tfserver


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tfserver.predictor.add_arguments(parser.add_argument_group("models"))
    return parser.parse_args(arguments)


def test_importing_and_detecting_needs_no_tensorflow(half_plus_two: Path) -> None:
    script = (
        "import sys, pathlib, tfserver\n"
        "assert tfserver.predictor.detect(pathlib.Path(sys.argv[1]))\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'tornado'})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, half_plus_two], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_it_is_registered() -> None:
    (entry_point,) = metadata.entry_points(group="modelserver.predictors", name="tensorflow")
    assert entry_point.load() is tfserver.predictor
    assert tfserver.predictor.framework == "TensorFlow"
    assert "saved_model.pb" in tfserver.predictor.expects
    assert "\n" not in tfserver.predictor.expects


@pytest.mark.parametrize(
    ("arguments", "tags"),
    [
        ([], ("serve",)),
        (["--saved_model_tags", "serve, gpu"], ("serve", "gpu")),
        (["--saved_model_tags="], ()),
    ],
)
def test_build(half_plus_two: Path, arguments: list[str], tags: tuple[str, ...]) -> None:
    model: Any = tfserver.predictor.build("iris", half_plus_two, options(*arguments))
    assert (model.name, model.ready, model.tags) == ("iris", False, tags)


def test_build_by_another_command_line(half_plus_two: Path) -> None:
    model: Any = tfserver.predictor.build("iris", half_plus_two, argparse.Namespace())
    assert model.tags == ("serve",)
