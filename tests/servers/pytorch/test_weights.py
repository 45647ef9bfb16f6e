"""Every format of weights: loaded right, shared between processes, or refused with a reason."""

import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from .conftest import MLP, ask, scripted

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


@pytest.fixture
def mlp(folder):
    return folder.write("model.py", MLP)


def expected(network):
    with torch.inference_mode():
        return network.eval()(torch.tensor(ROWS)).tolist()


def save_zip(network, path):
    torch.save(network.state_dict(), path)


def save_legacy(network, path):
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)


def save_safetensors(network, path):
    safetensors.torch.save_file(network.state_dict(), path)


def save_checkpoint(network, path):
    torch.save({"epoch": 7, "optimizer": {"lr": 0.1}, "model_state_dict": network.state_dict()}, path)


def save_lightning(network, path):
    torch.save({"state_dict": network.state_dict(), "epoch": 7}, path)


def save_parallel(network, path):
    torch.save(torch.nn.DataParallel(network).state_dict(), path)


def save_half(network, path):
    torch.save({key: value.half() for key, value in network.state_dict().items()}, path)


@pytest.mark.parametrize("name", ["model.pt", "weights.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_checkpoint, save_lightning, save_parallel])
def test_a_state_dict_in_any_torch_format_gives_the_authors_numbers(mlp, name, save):
    network = mlp.network()
    save(network, mlp.path / name)
    assert ask(mlp.load(), ROWS) == expected(network)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_safetensors_are_told_by_content(mlp, name):
    network = mlp.network()
    save_safetensors(network, mlp.path / name)
    assert ask(mlp.load(), ROWS) == expected(network)


def test_the_network_keeps_the_dtype_that_its_author_gave_it(mlp):
    network = mlp.network()
    save_half(network, mlp.path / "model.pt")
    model = mlp.load()
    assert ask(model, ROWS) == expected(network.half().float())
    assert {p.dtype for p in model._loaded.network.module.parameters()} == {torch.float32}


def test_no_parameter_wants_a_gradient(mlp):
    module = mlp.with_weights().load()._loaded.network.module
    assert not any(parameter.requires_grad for parameter in module.parameters())


TIED = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(7, 5)
            self.head = torch.nn.Linear(5, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))
"""


@pytest.mark.parametrize("file", ["model.pt", "model.safetensors"])
def test_tied_parameters_stay_one_parameter(folder, file):
    network = folder.write("model.py", TIED).network()
    if file == "model.pt":
        torch.save(network.state_dict(), folder.path / file)
    else:
        safetensors.torch.save_model(network, str(folder.path / file))  # stores one of the two
    model = folder.load()
    module = model._loaded.network.module
    assert module.head.weight is module.embed.weight
    with torch.inference_mode():
        assert ask(model, [[1, 2]]) == network(torch.tensor([[1, 2]])).tolist()


def test_batch_norm_of_an_old_checkpoint_without_its_counter_loads(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Net(torch.nn.Sequential):
            def __init__(self):
                super().__init__(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.9))
        """,
    )
    network = folder.network()
    network.train()(torch.randn(64, 2) * 9 + 5)  # running statistics worth loading
    state = collections.OrderedDict(network.state_dict())
    del state["1.num_batches_tracked"]
    torch.save(state, folder.path / "model.pt")
    model = folder.load()
    with torch.inference_mode():
        wanted = network.eval()(torch.tensor([[1.0, 2.0]])).tolist()
    # One row: BatchNorm in training mode refuses it, Dropout in training mode would zero most of it.
    assert ask(model, [[1.0, 2.0]]) == wanted
    assert ask(model, [[1.0, 2.0]]) == wanted


def test_lazy_layers_get_their_shape_from_the_file(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Net(torch.nn.Sequential):
            def __init__(self):
                super().__init__(torch.nn.LazyLinear(3))
        """,
    )
    network = folder.network()
    network(torch.zeros(1, 4))
    torch.save(network.state_dict(), folder.path / "model.pt")
    assert ask(folder.load(), ROWS) == network(torch.tensor(ROWS)).tolist()
    torch.save({"0.weight": torch.zeros(3, 4)}, folder.path / "model.pt")
    assert "missing in the file: 0.bias" in folder.refused()


def test_a_module_with_a_child_called_module_keeps_its_prefix(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.module = torch.nn.Linear(4, 2)
            def forward(self, x):
                return self.module(x)
        """,
    ).with_weights()
    assert len(ask(folder.load(), ROWS)[0]) == 2


# -- what is refused


def test_a_whole_module_is_refused_with_the_lines_that_save_its_weights(mlp):
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 3)), mlp.path / "model.pt")
    text = mlp.refused()
    assert "whole module" in text
    assert "torch.nn.modules.container.Sequential" in text
    assert 'torch.load("model.pt", weights_only=False)' in text
    assert 'torch.save(model.state_dict(), "model.pt")' in text


def test_a_whole_module_in_the_old_format_is_refused(mlp):
    torch.save(torch.nn.Linear(4, 3), mlp.path / "model.pt", _use_new_zipfile_serialization=False)
    assert "torch.nn.modules.linear.Linear" in mlp.refused()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_protocol_that_torch_cannot_read_safely_is_told(mlp, zipped):
    state = mlp.network().state_dict()
    torch.save(state, mlp.path / "model.pt", pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    text = mlp.refused()
    assert "pickle protocol" in text
    assert "torch.save(model.state_dict()" in text


class Canary:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def pickled(path, canary):
    path.write_bytes(pickle.dumps(canary))


def pickled_by_torch(path, canary):
    torch.save(canary, path)


def hidden_in_a_state_dict(path, canary):
    torch.save({"hidden.weight": torch.zeros(10, 4), "extra": canary}, path)


def in_the_old_format(path, canary):
    torch.save({"x": canary}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [pickled, pickled_by_torch, hidden_in_a_state_dict, in_the_old_format])
@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.safetensors", "model.pt2"])
@pytest.mark.parametrize("with_class", [True, False])
def test_code_in_a_pickle_is_never_run(folder, tmp_path, monkeypatch, write, name, with_class):
    # The user's own environment cannot switch it on either.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    write(folder.path / name, Canary(canary))
    if with_class:
        folder.write("model.py", MLP)
    text = folder.refused()
    assert not canary.exists()
    assert name in text
    if with_class and write is not pickled and name != "model.safetensors":
        assert "posix.system" in text


def test_the_canary_sings_when_it_is_unpickled(tmp_path):
    torch.save(Canary(tmp_path / "canary"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "canary").exists()


def truncated_zip(path, network):
    save_zip(network, path)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_legacy(path, network):
    save_legacy(network, path)
    path.write_bytes(path.read_bytes()[:-20])


def truncated_safetensors(path, network):
    save_safetensors(network, path)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "model.pt is empty (0 bytes)"),
        (b"\x13garbage" * 99, "model.pt is no weights format that is known here"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404", "model.pt is a web page"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "model.pt is an HDF5 file"),
        (pickle.dumps({"a": 1}), "model.pt is a Python pickle that torch.save did not write"),
        (b"PK\x03\x04" + b"\0" * 99, "model.pt is a damaged or truncated zip file"),
        (truncated_zip, "model.pt is a damaged or truncated zip file"),
        (truncated_legacy, "model.pt is damaged or truncated"),
        (truncated_safetensors, "model.pt is a damaged safetensors file"),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(mlp, content, said):
    path = mlp.path / "model.pt"
    content(path, mlp.network()) if callable(content) else path.write_bytes(content)
    assert said in mlp.refused()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(3), "holds a Tensor"),
        ([torch.zeros(3)], "holds a list"),
        ({"epoch": 3, "lr": 0.1}, "holds a dict with the keys epoch, lr"),
        ({1: torch.zeros(3)}, "holds a dict with the keys 1"),
    ],
)
def test_a_torch_file_that_is_no_state_dict_is_told(mlp, content, said):
    torch.save(content, mlp.path / "model.pt")
    text = mlp.refused()
    assert said in text
    assert "Expected a state_dict" in text


def test_a_mismatch_lists_missing_unexpected_and_shapes(mlp):
    state = mlp.network().state_dict()
    state["head.weight"] = state.pop("out.weight")
    state["hidden.weight"] = torch.zeros(10, 5)
    torch.save(state, mlp.path / "model.pt")
    text = mlp.refused()
    assert "model.pt does not fit Net" in text
    assert "missing in the file: out.weight" in text
    assert "unexpected in the file: head.weight" in text
    assert "hidden.weight is [10, 5] in the file and [10, 4] in the class" in text


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}])
def test_an_empty_state_dict_lacks_everything(mlp, content):
    torch.save(content, mlp.path / "model.pt")
    assert "missing in the file: hidden.weight, hidden.bias, out.weight, out.bias" in mlp.refused()


def test_a_long_mismatch_is_cut(mlp):
    torch.save({f"layer{n}.weight": torch.zeros(1) for n in range(40)}, mlp.path / "model.pt")
    text = mlp.refused()
    assert "layer4.weight and 35 more" in text
    assert "layer5.weight" not in text


def test_torchscript_beside_a_class_is_called_what_it_is(mlp):
    scripted(torch.nn.Linear(4, 3), mlp.path / "model.pt")
    text = mlp.refused()
    assert "model.pt is a TorchScript program" in text
    assert "Remove model.py" in text


def test_a_network_without_weights_needs_no_file(folder):
    folder.write(
        "model.py",
        """
        import torch
        class Double(torch.nn.Module):
            def forward(self, x):
                return 2 * x
        """,
    )
    assert ask(folder.load(), [[1.5], [2.5]]) == [[3.0], [5.0]]


# -- memory

WORKER = """
import sys
from pytorchserver.model import PyTorchModel
model = PyTorchModel("big", sys.argv[1])
model.load()
model.predict({"instances": [[1.0] * 2048]})
print("loaded", flush=True)
sys.stdin.read()
"""


def mapped_kib(pid, file_name):
    """KiB of the file in the process, by kind, from the kernel."""
    totals = collections.Counter()
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if "-" in key.split()[0] and len(key.split()) > 1:
            inside = line.rstrip().endswith(file_name)
        elif inside and rest.endswith("kB"):
            totals[key] += int(rest.split()[0])
    return totals


@pytest.mark.parametrize("save", [save_zip, save_safetensors, save_checkpoint])
def test_two_processes_hold_one_copy_of_the_weights(folder, save):
    folder.write(
        "model.py",
        """
        import torch
        class Big(torch.nn.Sequential):
            def __init__(self):
                super().__init__(torch.nn.Linear(2048, 4096))  # 32 MiB
        """,
    )
    save(folder.network(), folder.path / "model.pt")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "loaded\n"
        for worker in workers:
            held = mapped_kib(worker.pid, "/model.pt")
            assert held["Rss"] > 30_000, "the weights are the mapped file"
            assert held["Private_Dirty"] < 1_000, "and not a copy of it"
            assert held["Private_Clean"] < 1_000, "shared by both"
            assert held["Pss"] < 0.6 * held["Rss"], "each pays for half"
    finally:
        for worker in workers:
            worker.communicate()


def test_a_file_that_may_not_be_read_is_named(folder, mlp, monkeypatch):
    """Raised here as the system raises it: the tests may run as root, who may read everything."""

    def refuse(*args):
        raise PermissionError(13, "Permission denied", str(folder.path / "model.pt"))

    monkeypatch.setattr("pytorchserver.model.load_network", refuse)
    assert folder.refused() == (
        "model.pt cannot be read: Permission denied. The user of the process needs the right to."
    )
