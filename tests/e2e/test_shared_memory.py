"""Packaged models that are loaded before the fork: what workers share, and what holds while they load."""

import concurrent.futures
import json
import os
import re
import signal
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import run, serving, wait_until

ROWS = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
ANSWERED = re.compile(r"^\S+ \S+ (\d+) INFO modelserver\.access: .*:predict 200 ", re.MULTILINE)

LARGE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 5000), torch.nn.Linear(5000, 5000))

    def forward(self, x):
        return self.layers(x).mean(1, keepdim=True)
"""  # 100 MB

SMALL = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return 2 * x
"""

MAKE = """
import sys, warnings
import torch
warnings.simplefilter("ignore")
sys.path.insert(0, "{folder}")
from model import Net
net = Net().eval()
if "{kind}" == "script":
    torch.jit.script(net).save("{folder}/model.pt")
else:
    torch.save(net.state_dict(), "{folder}/model.pt")
"""


def folder_of(path, source):
    path.mkdir()
    (path / "model.py").write_text(textwrap.dedent(source))
    return path


def serve(folder, log, *flags, **kwargs):
    return serving(["-m", "modelserver", f"m={folder}", *flags], log, **kwargs)


def wait_for_answers(server, count):
    """Ask until ``count`` processes have answered, and return them."""

    def enough():
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            statuses = {call.status for call in pool.map(lambda _: server.predict(ROWS, "m"), range(16))}
        assert statuses == {200}
        pids = set(map(int, ANSWERED.findall(server.text())))
        return len(pids) >= count and pids

    return wait_until(enough, 60, f"answers from {count} processes")


# -- memory


def own_mb(pids):
    """Proportional set size, without the libraries: other programs that use torch share these."""
    size_kb = Counter()
    for pid in pids:
        name = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            head = re.match(r"[0-9a-f]+-[0-9a-f]+ (?:\S+ +){4}(.*)", line)
            if head:
                name = head[1]
            elif line.startswith("Pss:"):
                size_kb[name] += int(line.split()[1])
    return sum(kb for name, kb in size_kb.items() if ".so" not in name) / 1024


@pytest.mark.parametrize("kind", ["state_dict", "script"])
def test_two_workers_hold_the_weights_once(tmp_path, kind):
    folder = folder_of(tmp_path / "net", LARGE)
    made = run(["-c", MAKE.format(folder=folder, kind=kind)])
    assert made.returncode == 0, made.stderr
    if kind == "script":
        (folder / "model.py").unlink()
    sizes = []
    for workers in (1, 2):
        with serve(folder, tmp_path / f"log{workers}", "--workers", str(workers)) as server:
            server.wait_ready("m")
            wait_for_answers(server, workers)
            sizes.append(own_mb([server.process.pid, *server.workers()]))
    one, two = sizes
    assert one > 150  # the weights, and torch
    # Measured: 1.1. A second copy of the weights would make it 1.5.
    assert two < 1.25 * one, sizes


# -- a worker's life


def test_a_dead_workers_replacement_answers_without_loading_again(tmp_path):
    with serve(folder_of(tmp_path / "net", SMALL), tmp_path / "log", "--workers", "2") as server:
        server.wait_ready("m")
        before = wait_for_answers(server, 2)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: server.text().count("is ready") == 3, what="a new worker")
        (new,) = set(server.workers()) - before
        assert new in wait_for_answers(server, 3)
        assert server.text().count("Model m loaded in") == 1
        assert server.text().count("modelserver.model: m: class Net") == 1


def test_batching_works_in_workers_that_inherit_the_model(tmp_path):
    flags = ("--workers", "2", "--max_batch_size", "8")
    with serve(folder_of(tmp_path / "net", SMALL), tmp_path / "log", *flags) as server:
        server.wait_ready("m")
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            rows = [[float(n), 0.0] for n in range(200)]
            calls = list(pool.map(lambda row: server.predict({"instances": [row]}, "m").json(), rows))
        assert calls == [{"predictions": [[2 * n, 0.0]]} for n, _ in rows]


LEAVES_THREADS = {
    "a thread of model.py": """
        import threading
        import torch
        asked, answers = threading.Semaphore(0), threading.Semaphore(0)

        def work():
            while True:
                asked.acquire()
                answers.release()

        threading.Thread(target=work, daemon=True).start()

        class Net(torch.nn.Module):
            def forward(self, x):
                asked.release()
                if not answers.acquire(timeout=10):
                    raise RuntimeError("nobody works")
                return 2 * x
    """,
    "torch's own": """
        import torch

        def double(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        def forward(x: torch.Tensor) -> torch.Tensor:
            return torch.jit.wait(torch.jit.fork(double, x))

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.call = torch.jit.script(forward)

            def forward(self, x):
                return self.call(x + 0 * torch.jit.wait(torch.jit.fork(torch.neg, x)))
    """,
}


@pytest.mark.parametrize("source", LEAVES_THREADS.values(), ids=LEAVES_THREADS)
def test_where_loading_leaves_threads_each_worker_loads(tmp_path, source):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = folder_of(tmp_path / "net", source)
    (folder / "warmup.json").write_text(json.dumps(ROWS))
    env = {"TMPDIR": str(scratch)}
    with serve(folder, tmp_path / "log", "--workers", "2", env=env) as server:
        server.wait_ready("m")
        pids = wait_for_answers(server, 2)
        assert pids == set(server.workers())
        assert "Loading has started threads, which a fork would lose" in server.text()
        assert server.text().count("Listening on") == 1
        assert server.predict(ROWS, "m").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        assert server.stop() == 0
    assert list(scratch.glob("modelserver-*")) == []


# -- loading

SLOW = "import time\ntime.sleep(20)\n" + SMALL


def test_while_it_loads_the_service_is_alive_and_the_model_is_503(tmp_path):
    go = tmp_path / "go"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
    folder = folder_of(tmp_path / "net", waits + SMALL)
    (folder / "warmup.json").write_text(json.dumps(ROWS))
    with serve(folder, tmp_path / "log", "--workers", "2") as server:
        assert server.get("/").json() == {"status": "alive"}
        for response in (server.get("/v1/models/m"), server.predict(ROWS, "m")):
            assert response.status == 503
            assert response.json() == {"error": "Model with name m is not ready."}
            assert response.headers["Connection"] == "close"  # the next one is to reach a worker
        assert server.get("/v1/models/other").status == 404
        assert server.get("/v1/models").json() == {"models": ["m"]}
        assert server.workers() == []
        go.touch()
        assert server.wait_ready("m").predict(ROWS, "m").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        wait_until(lambda: f"Try: curl localhost:{server.port}/v1/models/m" in server.text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_while_it_loads_leaves_nothing(tmp_path, number):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = folder_of(tmp_path / "net", SLOW)
    with serve(folder, tmp_path / "log", "--workers", "2", env={"TMPDIR": str(scratch)}) as server:
        assert server.get("/").status == 200
        started = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - started < 10  # loading takes 20 s
    assert list(scratch.glob("modelserver-*")) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_does_not_load_ends_the_server_with_its_message(tmp_path, workers):
    folder = folder_of(tmp_path / "net", LARGE)  # without its weights
    done = run(["-m", "modelserver", f"m={folder}", "--http_port", "0", "--workers", workers])
    assert done.returncode == 1
    assert "modelserver: model m: No weights for Net. " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crash_while_loading_ends_the_server(tmp_path):
    folder = folder_of(tmp_path / "net", "import os\nos._exit(9)\n" + SMALL)
    done = run(["-m", "modelserver", f"m={folder}", "--http_port", "0", "--workers", "2"])
    assert done.returncode == 9
