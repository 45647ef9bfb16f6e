"""What the command line gets from the package: detection, flags, an unloaded model, a light import."""

import argparse
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import modelserver
from pytorchserver import predictor

from .conftest import MLP


@pytest.mark.parametrize(
    ("names", "detected"),
    [
        (["model.py", "model.pt"], True),
        (["net.py"], True),
        (["weights.pth"], True),
        (["pytorch_model.bin"], True),
        (["model.safetensors"], True),
        (["model.pt2"], True),
        (["README.md", "data.csv"], False),
        ([], False),
        (["saved_model.pb", "model.py"], False),
        (["0001/saved_model.pb", "export.py"], False),
        (["sub/model.py"], False),
        (["._model.py"], False),
    ],
)
def test_detect(tmp_path, names, detected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert predictor.detect(tmp_path) is detected


def test_flags_and_build(folder):
    folder.write("model.py", MLP).with_weights()
    parser = argparse.ArgumentParser()
    predictor.add_arguments(parser.add_argument_group("PyTorch"))
    options = parser.parse_args(["--model_class_name", "Net", "--device", "cpu"])
    model = predictor.build("iris", folder.path, options)
    assert isinstance(model, modelserver.Model)
    assert (model.name, model.ready, model.model_class_name, model.device) == ("iris", False, "Net", "cpu")
    assert model.load()
    model.stop()
    defaults = parser.parse_args([])
    assert (defaults.model_class_name, defaults.device) == (None, None)


def test_the_entry_point_leads_here():
    (entry,) = entry_points(group="modelserver.predictors", name="pytorch")
    assert entry.load() is predictor


def test_importing_the_package_and_detecting_imports_no_torch(tmp_path):
    code = (
        "import sys, pathlib, pytorchserver\n"
        f"pytorchserver.predictor.detect(pathlib.Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'numpy', 'tensorflow', 'tornado'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_of_the_command_shows_the_flags():
    done = subprocess.run(
        [sys.executable, "-m", "pytorchserver", "--help"], capture_output=True, text=True, check=True
    )
    for flag in ("--model_dir", "--model_name", "--model_class_name", "--device"):
        assert flag in done.stdout
