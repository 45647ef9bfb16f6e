"""A stopped model gives back what it had: 50 MB of variables, loaded and stopped ten times in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

MIB = 1024 * 1024
SIZE_MIB = 50
ROUNDS = 10
SCRIPT = """
import ctypes, gc, json, sys, time
from tfserver.model import TensorFlowModel

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

models, seen = [], [resident()]
for _ in range(int(sys.argv[2])):
    model = TensorFlowModel("m", sys.argv[1])
    models.append(model)  # a repository may keep what was stopped
    model.load()
    seen.append(resident())
    model.stop()
    gc.collect()  # a graph has cycles
    for _ in range(2):  # as the server does when it has unloaded a version
        ctypes.CDLL(None).malloc_trim(0)
        time.sleep(0.2)
    seen.append(resident())
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def heavy_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tf.Module()
    module.layers = [tf.Variable(tf.ones([1024, 256 * SIZE_MIB // 10])) for _ in range(10)]

    @tf.function(input_signature=[tf.TensorSpec([None, 1024], tf.float32, "x")])
    def serve(x):
        return {"y": tf.add_n([tf.reduce_sum(x @ layer, 1) for layer in module.layers])}

    folder = tmp_path_factory.mktemp("heavy")
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def resident(folder: Path, **env: str) -> list[float]:
    """MiB before the first load, and then after each load and each stop."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(ROUNDS)],
        capture_output=True, text=True, timeout=240, env=os.environ | {"TF_NUM_INTRAOP_THREADS": "1"} | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [size / MIB for size in json.loads(done.stdout.splitlines()[-1])]


def test_reloading_takes_no_more_than_the_first_load(heavy_export: Path) -> None:
    """With its pool TensorFlow keeps what it has got from the system, and the next model gets that."""
    _, *seen = resident(heavy_export, TF_ONEDNN_USE_SYSTEM_ALLOCATOR="0")
    assert max(seen[2:]) < max(seen[:2]) + SIZE_MIB / 2, seen


def test_the_system_gets_it_back(heavy_export: Path) -> None:
    """Nothing in Python or in TensorFlow's session holds it, and there is no pool."""
    _, *seen = resident(heavy_export)
    for loaded, stopped in zip(seen[::2], seen[1::2], strict=True):
        assert stopped < loaded - 0.8 * SIZE_MIB, seen
    assert seen[-1] < seen[1] + SIZE_MIB / 2, seen
