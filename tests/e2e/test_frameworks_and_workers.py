"""Models loaded before start() with workers=2: every worker answers, nothing hangs."""

import concurrent.futures

import pytest
from harness import run, serving, wait_until


def pids_that_answered(server, model, expected):
    """Ask from many clients at once until two processes have answered."""
    pids = set()

    def ask(_):
        response = server.predict({"instances": [[1.0, 2.0, 3.0, 4.0]]}, model, timeout_s=60)
        assert response.status == 200, response.body
        body = response.json()
        assert body["predictions"] == expected
        return body["pid"]

    def enough():
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            pids.update(pool.map(ask, range(48)))
        return len(pids) == 2

    wait_until(enough, 60, "answers from both workers")
    return pids


@pytest.mark.parametrize("model", ["sync", "async"])
def test_pytorch_is_inherited_by_fork(programs, tmp_path, model):
    """A fork of the main thread, whose OpenMP pool has run, hangs at the child's first forward."""
    with serving([programs / "torch_loaded.py"], tmp_path / "log") as server:
        server.wait_ready(model)
        pids = pids_that_answered(server, model, [[10.0, 10.0, 10.0]])
        assert pids == set(server.workers())
        assert "runs the program again" not in server.text()


@pytest.mark.parametrize(("kind", "expected"), [("eager", [[10.0, 10.0, 10.0]]), ("session", [10.0])])
def test_tensorflow_gets_fresh_interpreters(programs, tmp_path, kind, expected):
    program = programs / "tensorflow_loaded.py"
    with serving([program], tmp_path / "log", env={"KIND": kind}) as server:
        wait_until(lambda: server.text().count("is ready") == 2, 120, "both workers ready")
        pids = pids_that_answered(server, "model", expected)
        assert pids == set(server.workers())
        assert "TensorFlow is already initialised in this process" in server.text()


INTERACTIVE = """
import socket, sys
from modelserver import StartError, launching
from modelserver.load_board import LoadBoard
from modelserver.metrics.memory import MetricMemory
from modelserver.model_board import ModelBoard
sys.orig_argv = ["python"]  # as in a session at the prompt: no file, no -c
try:
    shared = LoadBoard(1), MetricMemory(1), ModelBoard(1)
    launching.rerun_script(launching.Handover(0, socket.socketpair()[0], [], *shared))
except StartError as error:
    print(error)
"""


def test_a_session_at_the_prompt_cannot_be_run_again_and_says_so():
    said = run(["-c", INTERACTIVE]).stdout
    assert said.startswith("A framework's runtime is already initialised in this process")
    assert "Save the program to a file, or use workers=1 without supervise." in said
