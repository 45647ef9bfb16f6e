"""Which class of model.py is served, and what is said when that is not clear."""

import pytest

from .conftest import ask

HEAD = "import torch\nfrom torch import nn\n"


def net(name, factor, init="", body=""):
    return (
        f"class {name}(nn.Module):\n"
        f"    def __init__(self{init}):\n        super().__init__()\n        pass{body}\n"
        f"    def forward(self, x):\n        return x * {factor}\n"
    )


def served(folder, code, **options):
    folder.write("model.py", HEAD + code)
    return ask(folder.load(**options), [[1.0]])[0][0]


def test_the_only_class(folder):
    assert served(folder, net("Anything", 2)) == 2


def test_a_class_with_defaults_can_be_built_without_arguments(folder):
    assert served(folder, net("Net", 2, ", hidden=3, *args, **kwargs")) == 2


def test_a_part_that_needs_arguments_is_no_candidate(folder):
    assert served(folder, net("Block", 9, ", width") + net("Net", 2, "", "\n        self.b = Block(3)")) == 2


@pytest.mark.parametrize("order", [1, -1])
def test_of_whole_and_parts_the_whole_is_served(folder, order):
    block = net("Block", 9)
    whole = net("Net", 2, "", "\n        self.b = nn.Sequential(*[make() for _ in range(2)])")
    code = "def make():\n    return Block()\n" + "".join([block, whole][::order])
    assert served(folder, code) == 2


def test_the_class_that_inherits_is_served(folder):
    base = net("Base", 9)
    assert served(folder, base + "class Net(Base):\n    def forward(self, x):\n        return x * 2\n") == 2


def test_kserves_default_name_wins(folder):
    assert served(folder, net("Other", 9) + net("PyTorchModel", 2)) == 2


def test_kserves_default_name_may_be_imported(folder):
    folder.write("net.py", HEAD + net("PyTorchModel", 2))
    assert served(folder, "from net import PyTorchModel\n" + net("Other", 9)) == 2


def test_a_named_class(folder):
    assert served(folder, net("A", 9) + net("B", 2), model_class_name="B") == 2


def test_a_named_class_may_be_imported(folder):
    folder.write("net.py", HEAD + net("B", 2))
    assert served(folder, "from net import B\n", model_class_name="B") == 2


def test_a_base_without_forward_is_no_candidate(folder):
    assert served(folder, "class Mixin(nn.Module):\n    pass\n" + net("Net", 2)) == 2


def test_a_sequential_is_a_class_with_forward(folder):
    code = "class Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.ReLU())\n"
    assert served(folder, code) == 1


# -- what is refused


def refused(folder, code, **options):
    folder.write("model.py", HEAD + code)
    return folder.refused(**options)


def test_two_classes_are_listed_with_the_option(folder):
    text = refused(folder, net("A", 1) + net("B", 2) + net("Part", 3, ", n"))
    assert "model.py defines 2 classes that could be the network: A, B." in text
    assert "--model_class_name" in text


def test_two_classes_that_use_each_other_are_not_guessed(folder):
    code = net("A", 1, "", "\n        B") + net("B", 2, "", "\n        A")
    assert "2 classes" in refused(folder, code)


def test_a_used_part_of_two_others_does_not_hide_that_there_are_two(folder):
    code = net("P", 1) + net("A", 2, "", "\n        P()") + net("B", 3, "", "\n        P()")
    assert "3 classes that could be the network: P, A, B." in refused(folder, code)


def test_no_class_that_can_be_built(folder):
    text = refused(folder, net("Net", 1, ", width, depth=2"))
    assert "no torch.nn.Module subclass that can be built without arguments" in text
    assert "it defines Net (needs width)" in text
    assert "default values" in text


def test_no_class_at_all(folder):
    text = refused(folder, "def main():\n    pass\n")
    assert "model.py defines no torch.nn.Module subclass" in text
    assert "Define the network in it" in text


def test_an_imported_class_is_named(folder):
    folder.write("net.py", HEAD + net("Net", 1))
    text = refused(folder, "from net import Net\n")
    assert "it imports Net" in text
    assert "--model_class_name" in text


def test_a_wrong_name_lists_the_right_ones(folder):
    text = refused(folder, net("A", 1) + net("B", 2) + "x = 3\n", model_class_name="x")
    assert "model.py has no torch.nn.Module subclass called x. It has A, B." in text
    assert "--model_class_name" in text


def test_a_named_class_that_needs_arguments(folder):
    text = refused(folder, net("Net", 1, ", width, depth"), model_class_name="Net")
    assert "Net in model.py needs arguments: width, depth." in text


# -- which file


def test_the_only_python_file_may_have_any_name(folder):
    folder.write("my-network.py", HEAD + net("Net", 2))
    assert ask(folder.load(), [[1.0]]) == [[2.0]]


def test_model_py_wins_over_helpers_and_hidden_files_do_not_count(folder):
    folder.write("train.py", "raise SystemExit('not for you')\n").write("._model.py", "\0\0macOS")
    folder.write("__init__.py", "")
    assert served(folder, net("Net", 2)) == 2


def test_two_python_files_without_model_py(folder):
    folder.write("net.py", HEAD + net("Net", 1)).write("train.py", "")
    text = folder.refused()
    assert "none is model.py: net.py, train.py" in text
    assert "Rename" in text


def test_weights_without_a_python_file(folder):
    folder.write("model.py", HEAD + net("Net", 1)).with_weights()
    (folder.path / "model.py").unlink()
    text = folder.refused()
    assert "model.pt is a torch.save file, and there is no Python file" in text
    assert "Found: model.pt." in text


def test_an_empty_folder(folder):
    assert "Found: nothing" in folder.refused()


def test_no_folder(folder):
    folder.path.rmdir()
    assert "model_folder is no folder" in folder.refused()


def test_a_class_with_parameters_and_no_weights(folder):
    body = "\n        self.w = nn.Linear(4, 4)"
    folder.write("readme.txt", "")
    text = refused(folder, net("Net", 1, "", body))
    assert "No weights for Net. Found: model.py, readme.txt." in text
    assert 'torch.save(model.state_dict(), "model.pt")' in text


def test_two_weights_files_without_model_pt(folder):
    folder.write("model.py", HEAD + net("Net", 1)).write("a.pth", "x").write("b.safetensors", "x")
    assert "none is model.pt: a.pth, b.safetensors" in folder.refused()


def test_model_pt_wins(folder):
    body = "\n        self.w = nn.Parameter(torch.ones(1))"
    folder.write("model.py", HEAD + net("Net", "self.w", "", body)).with_weights()
    folder.write("best.pth", "x")
    assert ask(folder.load(), [[3.0]]) == [[3.0]]


@pytest.mark.parametrize(("device", "said"), [("gpu", "is no device"), ("cuda:77", "CUDA devices here")])
def test_a_device_that_is_not_there(folder, device, said):
    folder.write("model.py", HEAD + net("Net", 1))
    assert said in folder.refused(device=device)
