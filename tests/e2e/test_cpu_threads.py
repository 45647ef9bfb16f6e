"""The share of the cores that a worker's operators use, in a user's program and for packaged models."""

import os

import pytest
from harness import serving

from modelserver.settings import available_cores

MANY = max(2, available_cores())


@pytest.mark.parametrize(
    ("flags", "threads", "omp"),
    [
        ((), 4, None),  # one process, the user's own
        (("--cpu_threads", "3"), 3, "3"),
        (("--workers", str(MANY)), 1, "1"),
        (("--workers", "2", "--cpu_threads", "3"), 3, "3"),
    ],
)
def test_a_users_own_torch(programs, tmp_path, flags, threads, omp):
    env = {"OMP_NUM_THREADS": ""} if "OMP_NUM_THREADS" in os.environ else None
    with serving([programs / "cpu_threads.py", *flags], tmp_path / "log", env=env) as server:
        server.wait_ready("sync", "async")
        for model in ("sync", "async"):
            assert server.predict({"instances": [1]}, model).json() == {"predictions": [threads], "omp": omp}


MODEL = """
import os, torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x + int(os.environ.get("OMP_NUM_THREADS", 0)) + 100 * torch.get_num_threads()
"""


@pytest.mark.parametrize(("flags", "omp"), [(("--workers", str(MANY)), 1), (("--cpu_threads", "5"), 5)])
def test_a_packaged_model_finds_it_before_its_framework_is_imported(tmp_path, flags, omp):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    with serving(["-m", "modelserver", f"m={folder}", *flags], tmp_path / "log") as server:
        server.wait_ready("m")
        ((found,),) = server.predict({"instances": [[0.0]]}, "m").json()["predictions"]
        assert int(found) % 100 == omp


LIMITED = """
import os, sys
from modelserver import cli, settings
settings.available_cores = lambda *_: 1  # as in a container with a CPU limit
os.sched_getaffinity = lambda _: {0, 1}
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_containers_cpu_limit_holds_for_the_only_worker_of_packaged_models(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    with serving(["-c", LIMITED, f"m={folder}"], tmp_path / "log") as server:
        server.wait_ready("m")
        ((found,),) = server.predict({"instances": [[0.0]]}, "m").json()["predictions"]
        assert int(found) % 100 == 1
