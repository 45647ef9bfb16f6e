"""Model folders made on the spot, with real torch and real files."""

import asyncio
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

import modelserver
from pytorchserver.model import PyTorchModel

MLP = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(4, 10)
            self.out = torch.nn.Linear(10, 3)

        def forward(self, x):
            return self.out(torch.relu(self.hidden(x))).softmax(-1)
"""


class Folder:
    """A model folder and what is needed to serve it."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.models = []

    def write(self, name, code):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(textwrap.dedent(code))
        return self

    def network(self, name="model.py", class_name=None):
        """The class of a file, built with fixed weights, outside the package under test."""
        names = {"__name__": "author"}
        exec(compile((self.path / name).read_text(), name, "exec"), names)
        torch.manual_seed(7)
        classes = [
            value
            for value in names.values()
            if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == "author"
        ]
        return names[class_name]() if class_name else classes[-1]()

    def with_weights(self, name="model.pt", class_name=None):
        torch.save(self.network(class_name=class_name).state_dict(), self.path / name)
        return self

    def model(self, **options):
        model = PyTorchModel("m", self.path, **options)
        self.models.append(model)
        return model

    def load(self, **options):
        model = self.model(**options)
        assert model.load() is True
        assert model.ready
        return model

    def refused(self, **options):
        """The text of the load failure."""
        model = self.model(**options)
        with pytest.raises(modelserver.ModelLoadError) as caught:
            model.load()
        assert not model.ready
        assert str(self.path) not in str(caught.value), "a message names no path"
        return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "model_folder")
    yield made
    for model in made.models:
        model.stop()


@pytest.fixture
def folders(tmp_path):
    """Makes several."""
    made = []

    def make(name):
        made.append(Folder(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        for model in one.models:
            model.stop()


def network(code, init="pass", extra=""):
    """A model.py whose forward is ``code``; ``x`` or the arguments in front of a ``:``."""
    arguments, _, body = code.rpartition(":: ")
    return (
        "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
        "class Net(nn.Module):\n"
        f"    {extra or 'pass'}\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        {init}\n"
        f"    def forward(self, {arguments or 'x'}):\n"
        f"        {body}\n"
    )


@pytest.fixture
def served(folder):
    """Loads a network that is written in the test."""

    def load(code, init="pass", extra="", **options):
        torch.manual_seed(1)
        folder.write("model.py", network(code, init, extra)).with_weights()
        return folder.load(**options)

    return load


def ask(model, instances):
    """The predictions, as nested lists; through all hooks."""
    answer = asyncio.run(model({"instances": instances}))
    assert list(answer) == ["predictions"]
    return plain(answer["predictions"])


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def refusal(model, instances):
    """The text of the 400."""
    with pytest.raises(modelserver.InvalidInput) as caught:
        asyncio.run(model({"instances": instances}))
    assert "/" not in str(caught.value).replace("int32/int64", ""), "a message names no path"
    return str(caught.value)


def scripted(network, path: Path, example=None):
    """Save as TorchScript. torch advises authors against it; files like these exist."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.script(network) if example is None else torch.jit.trace(network, example)
        torch.jit.save(made, path)
    return path
