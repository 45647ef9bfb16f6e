"""``--compile``: the same answers and the same errors as without it, and nothing compiled after the load.

A compilation takes 6 to 10 s, so the tests share two: a model in this process, and a server of two workers.
"""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import run, serving

from modelserver import ModelLoadError
from pytorchserver import compiled as room
from pytorchserver.network import Network, arguments_of

from .conftest import MLP, Folder, ask, refusal

TWO = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(11, 4)
            self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(3, 8)

        def forward(self, left, right):
            both = self.a(self.words(left).mean(1)) + self.b(right)
            return {"sum": both, "class": both.argmax(-1)}
"""
ROW = {"left": [1, 2], "right": [0.5, 1.0, 1.5]}


def children():
    found = Path("/proc/self/task").glob("*/children")
    return {int(pid) for path in found for pid in path.read_text().split()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("two")).write("model.py", TWO).with_weights()
    folder.write("warmup.json", json.dumps({"instances": [ROW]}))
    before = children(), threading.active_count()
    model = folder.load(compile=True)
    yield model, before, (children(), threading.active_count())
    model.stop()


@pytest.fixture
def model(loaded):
    return loaded[0]


@pytest.fixture
def runs(model, monkeypatch):
    """The numbers of rows that the program is run with."""
    program, seen = model._loaded.network.call, []

    def run(tensors):
        seen.append(len(tensors[0]))
        return inner(tensors)

    inner = program.run
    object.__setattr__(program, "run", run)
    yield seen
    object.__setattr__(program, "run", inner)


def network_of(module):
    return Network(module, arguments_of(module.forward), "a network", module=module.eval())


def test_every_number_of_rows_is_answered_as_the_network_does_and_at_once(model, runs):
    generator = np.random.default_rng(0)
    slowest = 0.0
    for count in range(1, 301):
        left, right = generator.integers(0, 11, (count, 2)), generator.normal(size=(count, 3))
        rows = [{"left": x, "right": y} for x, y in zip(left.tolist(), right.tolist(), strict=True)]
        started = time.perf_counter()
        answer = model.predict({"instances": rows})["predictions"]
        slowest = max(slowest, time.perf_counter() - started)
        with torch.inference_mode():
            expected = model._loaded.network.module(torch.tensor(left), torch.tensor(right).float())
        assert np.allclose([row["sum"] for row in answer], expected["sum"], rtol=1e-5, atol=1e-5)
        assert [row["class"] for row in answer] == expected["class"].tolist()
    assert runs == list(range(1, 301))
    assert slowest < 1, "a compilation takes seconds"


@pytest.mark.parametrize(
    "row",
    [
        {"left": [1, 2], "right": [0.5, 1.0]},
        {"left": [1, 2], "right": [0.5] * 9},
        {"left": [1, 11], "right": [0.5, 1.0, 1.5]},
        {"left": [-1, 1], "right": [0.5, 1.0, 1.5]},
        {"left": [1, 2]},
        {"left": [1, 2], "right": ["a", "b", "c"]},
    ],
)
def test_a_bad_request_is_refused_with_the_same_words(model, folder, row):
    plain = folder.write("model.py", TWO).with_weights().load()
    assert refusal(model, [row]) == refusal(plain, [row])


def test_other_sizes_that_the_network_takes_are_answered_by_it(model, runs):
    longer = {"left": [1, 2, 3, 4, 5], "right": ROW["right"]}
    assert len(ask(model, [longer, longer])) == 2
    assert runs == []


def test_what_does_not_lie_as_usual_is_answered_by_the_network(model, runs):
    call = model._loaded.network.call
    with torch.inference_mode():
        across = call(left=torch.ones(2, 6, dtype=torch.int64).T, right=torch.ones(3, 6).T)["sum"]
        assert runs == []
        usual = call(left=torch.ones(6, 2, dtype=torch.int64), right=torch.ones(6, 3))["sum"]
        by_place = call(torch.ones(6, 2, dtype=torch.int64), torch.ones(6, 3))["sum"]
        assert runs == [6, 6]
    assert torch.allclose(across, usual)
    assert torch.equal(usual, by_place)


def test_wrong_shapes_stay_quick(model):
    started = time.perf_counter()
    for width in range(4, 54):
        refusal(model, [{"left": [1, 2], "right": [0.0] * width}])
    assert time.perf_counter() - started < 1


def test_as_many_rows_as_would_hold_up_the_loop_go_to_the_network(model, runs):
    program = model._loaded.network.call
    few = room.replace(program, most_rows=2)
    inputs = {"left": torch.ones(3, 2, dtype=torch.int64), "right": torch.ones(3, 3)}
    with torch.inference_mode():
        few(**{name: tensor[:2] for name, tensor in inputs.items()})
        few(**inputs)
    assert runs == [2]
    assert 300 < program.most_rows < float("inf")


def test_nothing_is_left_behind(loaded):
    _, before, after = loaded
    assert after == before


def test_other_numbers_are_told(model):
    network, program = model._loaded.network, model._loaded.network.call
    inputs = {"left": torch.ones(2, 2, dtype=torch.int64), "right": torch.ones(2, 3)}

    def other(left, right):
        output = program.eager(left=left, right=right)
        return {**output, "sum": output["sum"] + 0.25}

    with torch.inference_mode():
        room._compare(room.replace(network, call=program.eager), program, [inputs])
        with pytest.raises(ModelLoadError, match=r"answers 2 rows otherwise .*largest difference is 0\.25\."):
            room._compare(room.replace(network, call=other), program, [inputs])


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (torch.ones(2), torch.ones(2) + 9e-6, None),
        (torch.ones(2), torch.ones(2) + 3e-5, "largest difference is 3e-05"),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), None),
        (torch.tensor([1.0]), torch.tensor([torch.nan]), "largest difference is"),
        (torch.tensor([1]), torch.tensor([2]), "largest difference is 1"),
        (torch.tensor([True]), torch.tensor([False]), "largest difference is 1"),
        (torch.ones(1), torch.ones(1, 1), "another shape"),
        (torch.ones(1), torch.ones(1).double(), "another shape or dtype"),
        ((torch.ones(1),), [torch.ones(1)], "another form"),
        ((torch.ones(1), 2), (torch.ones(1), 3), "3 and not 2"),
    ],
)
def test_what_is_as_good_as_the_same(one, other, what):
    difference = room._difference(one, other)
    assert (what in difference) if what else difference is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("return self.a(x) * (2 if x.sum() > 0 else 1)", "data-dependent"),
        ("return self.a(x) if len(x) > 4 else self.a(x) + 1", "rows"),
        ("self.seen += 1; return self.a(x)", "forward changes seen"),
    ],
)
def test_a_network_that_cannot_be_compiled_is_refused_with_the_reason(folder, line, reason):
    folder.write(
        "model.py",
        f"""
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.a = torch.nn.Linear(4, 3)
                self.register_buffer("seen", torch.zeros(1))

            def forward(self, x):
                {line}
        """,
    ).with_weights()
    said = folder.refused(compile=True)
    assert said.startswith("--compile: torch cannot compile class Net of model.py + model.pt: ")
    assert reason in said
    assert said.endswith(". Leave --compile out")
    assert "\n" not in said


def test_one_that_no_row_is_known_for_is_refused(folder):
    folder.write(
        "model.py",
        """
        import torch

        class Net(torch.nn.Module):
            def forward(self, x):
                return x.reshape(len(x), 2, 3).sum(-1)
        """,
    )
    assert "warmup.json" in folder.refused(compile=True)


def test_it_is_for_the_cpu(folder, monkeypatch):
    monkeypatch.setattr("pytorchserver.model.choose_device", lambda _: torch.device("cuda"))
    assert folder.refused(compile=True) == (
        "--compile is for the CPU, not cuda. Leave it out, or add --device cpu"
    )


def test_a_slow_network_is_left_as_it_is(monkeypatch, caplog):
    network = network_of(torch.nn.Linear(4, 3))
    program = room._Program(
        lambda tensors: [network.call(*tensors)], room.pytree.tree_structure(0), ("input",), (), network.call
    )
    monkeypatch.setattr(room, "_compile", lambda *_: program)
    monkeypatch.setattr(room, "_fastest", lambda *_: 0.021)
    with caplog.at_level("WARNING"):
        assert room.compiled(network, {"input": torch.ones(1, 4)}) is network
    assert "a row takes 21 ms" in caplog.text


def test_a_program_is_served_as_it_is(folder, caplog):
    program = torch.export.export(torch.nn.Linear(4, 3).eval(), (torch.ones(2, 4),))
    torch.export.save(program, folder.path / "net.pt2")
    with caplog.at_level("WARNING"):
        folder.load(compile=True)
    assert "--compile does not apply to a torch.export program in net.pt2" in caplog.text


def test_without_a_compiler_it_says_what_to_install(folder):
    folder.write("model.py", MLP).with_weights()
    done = run(["-m", "modelserver", "check", folder.path, "--compile"], env={"CXX": "no-such-g++"})
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "--compile needs a C++ compiler, and no-such-g++ does not run here. Install one" in said


def test_two_workers_compile_and_answer_with_a_home_that_cannot_be_written(folder, tmp_path):
    folder.write("model.py", MLP).with_weights()
    with torch.inference_mode():
        network = folder.network().eval()
        network.load_state_dict(torch.load(folder.path / "model.pt"))
        expected = network(torch.arange(12.0).reshape(3, 4)).tolist()
    home, made = tmp_path / "home", tmp_path / "made"
    home.mkdir(mode=0o500)
    made.mkdir()
    arguments = ["-m", "modelserver", f"m={folder.path}", "--compile", "--workers", "2"]
    env = {"HOME": str(home if os.getuid() else "/proc"), "TMPDIR": str(made)}
    with serving(arguments, tmp_path / "log", env=env) as server:
        server.wait_ready("m")
        workers = server.workers()
        assert len(workers) == 2
        for _ in range(8):
            answer = server.predict({"instances": np.arange(12.0).reshape(3, 4).tolist()}, "m")
            assert np.allclose(answer.json()["predictions"], expected, atol=1e-5)
        assert server.predict({"instances": [[1.0, 2.0]]}, "m").status == 400
        assert server.workers() == workers
        assert server.stop() == 0
        assert "compiled in" in server.text()
    assert not list(made.glob("aotinductor*"))
    assert not list(made.glob("modelserver-compile*"))
