"""Model folders and weights that cannot or must not be served: the real command line says what is wrong.

Every kind of file is in tests/servers/; here is what must hold for the server: status, message, canaries.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import run, serving
from refusals import refused

NET = textwrap.dedent(
    """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(4, 10)
            self.out = torch.nn.Linear(10, 3)

        def forward(self, x):
            return self.out(torch.relu(self.hidden(x)))
    """
)
ROWS = {"instances": [[6.8, 2.8, 4.8, 1.4]]}


class Net(torch.nn.Module):
    """The same as NET."""

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(4, hidden)
        self.out = torch.nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))


def bytes_of(value: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


STATE = bytes_of(Net().state_dict())


def packed(path: Path, files: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


# row 45

TWO_CLASSES = NET + NET[NET.index("class") :].replace("class Net", "class Other")


@pytest.mark.parametrize(
    ("files", "flags", "says"),
    [
        ({"model.pt": STATE}, (), ["model.pt is a torch.save file", "no Python file", "Expected a model.py"]),
        (
            {"net.py": NET, "train.py": "", "model.pt": STATE},
            (),
            ["More than one Python file", "net.py, train.py", "Rename", "to model.py"],
        ),
        (
            {"model.py": "import torch\n", "model.pt": STATE},
            (),
            ["model.py defines no torch.nn.Module subclass", "class Net(torch.nn.Module)"],
        ),
        (
            {"model.py": TWO_CLASSES, "model.pt": STATE},
            (),
            ["2 classes that could be the network: Net, Other", "--model_class_name"],
        ),
        (
            {"model.py": NET, "model.pt": STATE},
            ("--model_class_name", "Nett"),
            ["no torch.nn.Module subclass called Nett", "It has Net.", "--model_class_name"],
        ),
        ({"model.py": NET}, (), ["No weights for Net", "Found: model.py", "model.pt"]),
        ({"readme.txt": "hello"}, (), ["holds readme.txt", "Expected one of", "model.py + model.pt"]),
    ],
    ids=["no model.py", "two .py", "no class", "two classes", "wrong name", "no weights", "no model"],
)
def test_what_is_missing_is_told_with_what_is_there(
    tmp_path: Path, files: dict[str, bytes | str], flags: tuple[str, ...], says: list[str]
) -> None:
    told = refused(packed(tmp_path / "iris.tgz", files), *flags).text
    assert [part for part in says if part not in told] == [], told
    assert str(tmp_path) not in told


def test_helper_modules_are_allowed_beside_model_py(tmp_path: Path) -> None:
    """Any module beside model.py may be imported; model.py is the one that defines the network."""
    files = {"model.py": "from net import Net\nPyTorchModel = Net\n", "net.py": NET, "model.pt": STATE}
    with serving(["-m", "modelserver", packed(tmp_path / "iris.tgz", files)], tmp_path / "log") as server:
        answer = server.wait_ready("iris").predict(ROWS, "iris")
    assert answer.status == 200
    assert len(answer.json()["predictions"][0]) == 3


# row 46


def renamed() -> dict[str, Any]:
    state = Net().state_dict()
    return {key.replace("out.", "head."): value for key, value in state.items()}


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Net()), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("weights", "lines", "says"),
    [
        (
            lambda: bytes_of(renamed()),
            1,
            [
                "model.pt does not fit Net",
                "missing in the file: out.weight, out.bias",
                "unexpected in the file: head.weight, head.bias",
            ],
        ),
        (
            lambda: bytes_of(Net(20).state_dict()),
            1,
            ["other shapes", "hidden.weight is [20, 4] in the file and [10, 4] in the class"],
        ),
        (
            lambda: bytes_of(torch.nn.Linear(4, 3)),
            3,
            ["a pickle of Python objects, such as a whole module", "torch.nn.modules.linear.Linear"],
        ),
        (
            scripted,
            1,
            ["model.pt is a TorchScript program", "served without a Python file", "Remove model.py"],
        ),
    ],
    ids=["renamed layer", "other shape", "whole model", "TorchScript"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_weights_that_do_not_fit_are_told_by_name_and_shape(
    tmp_path: Path, weights: Any, lines: int, says: list[str]
) -> None:
    archive = packed(tmp_path / "iris.tgz", {"model.py": NET, "model.pt": weights()})
    told = refused(archive, lines=lines).text
    assert [part for part in says if part not in told] == [], told


# row 47


class Canary:
    """Unpickling this runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo sang > '{self.path}'",)


def hidden_in_a_script(canary: Canary) -> bytes:
    """A TorchScript file whose values are another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(scripted())) as whole, zipfile.ZipFile(buffer, "w") as changed:
        for name in whole.namelist():
            evil = name.endswith(("data.pkl", "constants.pkl"))
            changed.writestr(name, pickle.dumps(canary, 2) if evil else whole.read(name))
    return buffer.getvalue()


def evil_weights(kind: str, canary: Canary) -> bytes:
    if kind == "zip":
        return bytes_of({**Net().state_dict(), "extra": canary})
    if kind == "legacy":
        return bytes_of({**Net().state_dict(), "extra": canary}, _use_new_zipfile_serialization=False)
    if kind == "whole pickle":
        return pickle.dumps(canary)
    return hidden_in_a_script(canary)


@pytest.mark.parametrize(
    ("kind", "with_class", "lines", "says"),
    [
        ("zip", True, 3, "a pickle of Python objects.*It holds posix.system"),
        ("legacy", True, 3, "a pickle of Python objects.*It holds posix.system"),
        ("whole pickle", True, 1, "a Python pickle that torch.save did not write"),
        ("TorchScript", True, 1, "a TorchScript program, which is served without a Python file"),
        ("TorchScript", False, 1, "a TorchScript program that torch .* cannot load"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_pickle_in_weights_is_never_run(
    tmp_path: Path, kind: str, with_class: bool, lines: int, says: str
) -> None:
    canary = tmp_path / "canary"
    files: dict[str, bytes | str] = {"model.pt": evil_weights(kind, Canary(canary))}
    if with_class:
        files["model.py"] = NET
    # Nor can the environment switch torch's check off.
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    told = refused(packed(tmp_path / "iris.tgz", files), env=env, lines=lines).text
    assert not canary.exists()
    assert re.search(says, told), told
    assert str(tmp_path) not in told


@pytest.mark.parametrize("name", ["model.pt", "model.pt2"])
def test_a_torch_whose_check_can_be_passed_by_is_refused(tmp_path: Path, name: str) -> None:
    """Below 2.10 a crafted file gets past weights_only=True (CVE-2026-24747)."""
    if name == "model.pt":
        data = STATE
    else:
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(Net(), (torch.zeros(2, 4),)), buffer)
        data = buffer.getvalue()
    archive = packed(tmp_path / "iris.tgz", {name: data} | ({"model.py": NET} if name == "model.pt" else {}))
    old = (
        "import sys, torch; torch.__version__ = '2.9.1'; from modelserver import cli;"
        f"sys.exit(cli.main([{str(archive)!r}, '--http_port', '0']))"
    )
    done = run(["-c", old])
    assert done.returncode == 1
    assert "torch 2.9.1 cannot load weights safely" in done.stderr
    assert "pip install 'torch>=2.10'" in done.stderr


def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    for number, kind in enumerate(("zip", "legacy", "whole pickle")):
        canary = tmp_path / str(number)
        data = io.BytesIO(evil_weights(kind, Canary(canary)))
        pickle.load(data) if kind == "whole pickle" else torch.load(data, weights_only=False)
        assert canary.read_text() == "sang\n"


def test_a_pickle_in_an_npy_body_is_a_400_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    objects = io.BytesIO()
    np.save(objects, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    lying = header + b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 4), }".ljust(117) + b"\n"
    archive = packed(tmp_path / "iris.tgz", {"model.py": NET, "model.pt": STATE})
    with serving(["-m", "modelserver", archive], tmp_path / "log") as server:
        server.wait_ready("iris")
        for body in (objects.getvalue(), lying + pickle.dumps(Canary(canary)), pickle.dumps(Canary(canary))):
            answer = server.post("/v1/models/iris:predict", body, "application/x-npy")
            assert answer.status == 400, answer.body
            assert "error" in answer.json()
        assert server.predict(ROWS, "iris").status == 200
    assert not canary.exists()


# row 48


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SavedModels: without a signature, with two and no default, with one of another name, of strings."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("saved_models")
    module = tf.Module()
    numbers = [tf.TensorSpec([None], tf.float32, "x")]
    double = tf.function(lambda x: {"y": 2 * x}, input_signature=numbers)
    triple = tf.function(lambda x: {"y": 3 * x}, input_signature=numbers)
    texts = [tf.TensorSpec([None], tf.string, "text")]
    upper = tf.function(lambda text: {"y": tf.strings.upper(text)}, input_signature=texts)
    for name, signatures in {
        "none": None,
        "several": {"double": double, "triple": triple},
        "one": {"double": double},
        "texts": {"serving_default": upper},
    }.items():
        module.functions = [double, triple, upper]
        tf.saved_model.save(module, str(folder / name / "0001"), signatures=signatures)
    return folder


def test_a_saved_model_without_a_signature_says_how_to_export_one(saved_models: Path) -> None:
    told = refused(saved_models / "none").text
    assert "no signature to serve (there is none at all)" in told
    assert "tf.saved_model.save(module, path, signatures={'serving_default': module.function})" in told


def test_signatures_are_listed_and_a_single_one_is_used(saved_models: Path, tmp_path: Path) -> None:
    models = [saved_models / name for name in ("several", "one", "texts")]
    with serving(["-m", "modelserver", *models], tmp_path / "log") as server:
        server.wait_ready("several", "one", "texts")
        answer = server.predict({"instances": [1.5]}, "several")
        assert answer.status == 400
        assert 'set "signature_name" to one of: double, triple' in answer.json()["error"]
        for name, value in (("double", 3.0), ("triple", 4.5)):
            body = {"instances": [1.5], "signature_name": name}
            assert server.predict(body, "several").json() == {"predictions": [value]}
        assert server.predict({"instances": [1.5]}, "one").json() == {"predictions": [3.0]}
        assert server.predict({"instances": ["iris"]}, "texts").json() == {"predictions": ["IRIS"]}
        assert server.predict({"instances": [1]}, "texts").status == 400
        assert 'several has no signature "serving_default"' in server.text()
