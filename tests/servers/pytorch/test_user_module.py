"""Each model imports its own files, whatever others are called, and the rest of the program sees none."""

import asyncio
import sys
import threading

import pytest

import modelserver
from pytorchserver.user_module import UserModules

from .conftest import ask

NET = """
    import torch
    import helpers

    class Net(torch.nn.Module):
        def forward(self, x):
            import lazy                      # first imported by a request
            from layers.scale import factor  # a package of the folder
            return helpers.sign(x) * lazy.VALUE * factor()
"""


def write_model(folder, value):
    folder.write("model.py", NET)
    folder.write("helpers.py", f"def sign(x):\n    import lazy\n    return x * (lazy.VALUE / {value})\n")
    folder.write("lazy.py", f"import helpers\nVALUE = {value}\n")
    folder.write("layers/__init__.py", "")
    folder.write("layers/scale.py", "from . import const\ndef factor():\n    return const.ONE\n")
    folder.write("layers/const.py", "import helpers\nONE = 1\n")
    return folder


def test_two_models_with_the_same_file_names_keep_their_own(folders):
    first = write_model(folders("a"), 2).load()
    second = write_model(folders("b"), 3).load()
    for _ in range(2):
        assert ask(first, [[1.0]]) == [[2.0]]
        assert ask(second, [[1.0]]) == [[3.0]]
    # The order of the first, lazy import does not matter.
    third = write_model(folders("c"), 5).load()
    assert ask(second, [[1.0]]) == [[3.0]]
    assert ask(third, [[1.0]]) == [[5.0]]


def test_nothing_of_a_model_shows_in_the_program(folder):
    modules, path, hooks = set(sys.modules), list(sys.path), list(sys.meta_path)
    model = write_model(folder, 2).load()
    ask(model, [[1.0]])
    assert sys.path == path
    new = set(sys.modules) - modules
    assert all(name.startswith("_pytorchserver_model_") for name in new)
    with pytest.raises(ModuleNotFoundError):
        __import__("lazy")
    model.stop()
    assert set(sys.modules) == modules
    assert sys.meta_path == hooks


def test_a_failed_load_leaves_nothing(folder):
    modules, hooks = set(sys.modules), list(sys.meta_path)
    folder.write("model.py", "import helpers\nraise ValueError('no')\n").write("helpers.py", "")
    folder.refused()
    assert set(sys.modules) == modules
    assert sys.meta_path == hooks


def test_a_module_of_the_program_with_the_same_name_is_not_touched(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helpers.py").write_text("def sign(x):\n    return 99\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    theirs = __import__("helpers")
    try:
        assert ask(write_model(folder, 2).load(), [[1.0]]) == [[2.0]]
        assert __import__("helpers") is theirs
        assert theirs.sign(1) == 99
    finally:
        del sys.modules["helpers"]


def test_many_threads_import_lazily_at_once(folders):
    models = [write_model(folders(f"t{value}"), value).load() for value in range(2, 8)]
    answers = {}
    barrier = threading.Barrier(len(models) * 2)

    def run(key, model):
        barrier.wait()
        answers[key] = asyncio.run(model({"instances": [[1.0]]}))["predictions"].tolist()

    threads = [
        threading.Thread(target=run, args=((n, again), model))
        for n, model in enumerate(models)
        for again in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {(n, again): [[float(n + 2)]] for n in range(6) for again in range(2)}


def test_loading_the_same_folder_again_runs_the_new_source(folder, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x * {}\n"
    folder.write("model.py", code.format(2))
    model = folder.load()
    assert ask(model, [[1.0]]) == [[2.0]]
    folder.write("model.py", code.format(3))  # same size, same second: a .pyc would not notice
    model.load()
    assert ask(model, [[1.0]]) == [[3.0]]
    assert sorted(path.name for path in folder.path.iterdir()) == ["model.py"], "no __pycache__"


def test_a_read_only_folder_loads(folder):
    write_model(folder, 2)
    folder.path.chmod(0o555)
    try:
        assert ask(folder.load(), [[1.0]]) == [[2.0]]
    finally:
        folder.path.chmod(0o755)


def test_dataclasses_annotations_and_inspect_work_in_a_model(folder):
    folder.write(
        "model.py",
        """
        from __future__ import annotations
        import dataclasses, inspect, pickle, typing, copy
        from pathlib import Path
        import torch

        @dataclasses.dataclass
        class Config:
            size: int = 4
            kind: typing.ClassVar[str] = "x"

        class Net(torch.nn.Module):
            def __init__(self, config: Config | None = None):
                super().__init__()
                self.config = copy.deepcopy(config or Config())
                assert pickle.loads(pickle.dumps(self.config)) == self.config
                assert "class Net" in inspect.getsource(Net)
                assert typing.get_type_hints(Config)["size"] is int
                assert Path(__file__).parent.joinpath("model.py").exists()
                assert __name__ != "__main__"
                self.layer = Inner()

            def forward(self, x):
                return self.layer(x)

        class Inner(torch.nn.Module):
            def forward(self, x):
                return x + 1
        """,
    )
    assert ask(folder.load(), [[1.0]]) == [[2.0]]


def test_a_data_folder_hides_no_package(folder):
    (folder.path / "numpy").mkdir()
    (folder.path / "numpy" / "notes.py").write_text("")
    (folder.path / "spare").mkdir()
    (folder.path / "spare" / "part.py").write_text("TWO = 2\n")
    folder.write(
        "model.py",
        """
        import numpy
        import spare.part
        import torch
        class Net(torch.nn.Module):
            def forward(self, x):
                return x * float(numpy.float32(spare.part.TWO))
        """,
    )
    assert ask(folder.load(), [[1.0]]) == [[2.0]]


def test_import_forms(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("NAME = 'pack'\n")
    (tmp_path / "pack" / "inner.py").write_text("NAME = 'inner'\nimport pack\nassert pack.NAME == 'pack'\n")
    (tmp_path / "odd-name.py").write_text(
        "import pack.inner, pack.inner as alias, os.path, json\n"
        "from pack import inner, NAME\n"
        "from pack.inner import NAME as inner_name\n"
        "from pack import *\n"
        "from . import pack as relative\n"
        "space = {}\n"
        "exec('import pack', space)\n"
        "same = relative is pack is space['pack'] and alias is inner is pack.inner\n"
        "names = (NAME, inner_name, pack.NAME)\n"
    )
    modules = UserModules(tmp_path)
    try:
        module = modules.import_file(tmp_path / "odd-name.py")
        assert module.same
        assert module.names == ("pack", "inner", "pack")
    finally:
        modules.close()


# -- errors in the user's code


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import torch\n\n1 / 0\n",
            "model.py cannot be imported: model.py line 3: ZeroDivisionError: division by",
        ),
        ("import torch\nclass A:\n  x = (\n", "model.py line 3: SyntaxError: '(' was never closed"),
        (
            "import torch\nimport not_there_at_all\n",
            "model.py line 2: ModuleNotFoundError: No module named 'not_there_at_all'. "
            "Install not_there_at_all where the server runs, or put not_there_at_all.py beside it.",
        ),
        ("import helpers\n", "helpers.py line 2: ValueError: helper"),
        ("import helpers2.sub\n", "No module named 'helpers2'"),
        (
            "from helpers3 import gone\n",
            "model.py line 1: ImportError: cannot import name 'gone' from 'helpers3'",
        ),
        ("import sys\nsys.exit(3)\n", "model.py line 2: SystemExit: 3"),
        ("open('/no/such/file')\n", "model.py line 1: FileNotFoundError"),
    ],
)
def test_an_error_at_import_names_file_and_line(folder, code, said):
    folder.write("model.py", code).write("helpers.py", "def f():\n  raise ValueError('helper')\nf()\n")
    folder.write("helpers3.py", "")
    text = folder.refused()
    assert said in text
    assert "_pytorchserver_model" not in text


def test_an_error_in_the_constructor_names_the_users_line_not_torchs(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear("4", 3)
            def forward(self, x):
                return x
        """,
    )
    assert "Net() of model.py failed: model.py line 6: TypeError: " in folder.refused()


def test_the_cause_is_chained(folder):
    folder.write("model.py", "raise KeyError('vocabulary')\n")
    with pytest.raises(modelserver.ModelLoadError) as caught:
        folder.model().load()
    assert isinstance(caught.value.__cause__, KeyError)
