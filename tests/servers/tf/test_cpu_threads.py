"""One thread for TensorFlow's operators, where all models of the process are short."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tfserver import cpu_threads
from tfserver import model as room
from tfserver.cpu_threads import ANY_NUMBER, Pool, is_short
from tfserver.saved_model import graphs


def export(folder: Path, call: Any, *shape: int | None) -> Path:
    module = tf.Module()
    module.weights = tf.Variable(tf.ones((3, 3, 1, 1)))
    function = tf.function(lambda x: {"y": call(x, module.weights)}, autograph=False)
    signature = function.get_concrete_function(tf.TensorSpec(shape, tf.float32, "x"))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
    return folder


def test_a_small_dense_network_is_short(keras_export: Path) -> None:
    assert is_short(keras_export / "0001", graphs)


@pytest.mark.parametrize(
    ("name", "call", "shape"),
    [
        ("convolution", lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), (None, 8, 8, 1)),
        (
            "loop",
            lambda x, w: tf.while_loop(lambda i: i < 9.0, lambda i: i + w[0, 0, 0, 0], [x[0, 0]])[0],
            (None, 4),
        ),
        ("wide row", lambda x, w: x * w[0, 0, 0, 0], (None, 4097)),
        ("row of any size", lambda x, w: x * w[0, 0, 0, 0], (None, None)),
        ("unknown rank", lambda x, w: x * w[0, 0, 0, 0], None),
    ],
)
def test_what_may_be_long_is_not(tmp_path: Path, name: str, call: Any, shape: Any) -> None:
    folder = export(tmp_path, call, *shape) if shape else _of_unknown_rank(tmp_path, call)
    assert not is_short(folder, graphs)


def _of_unknown_rank(folder: Path, call: Any) -> Path:
    module = tf.Module()
    function = tf.function(lambda x: {"y": x * 2.0}, autograph=False)
    signature = function.get_concrete_function(tf.TensorSpec(None, tf.float32, "x"))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
    return folder


def test_weights_make_it_long_and_are_not_read_for_that(
    keras_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(keras_export / "0001", folder)
    (folder / "variables" / "variables.data-00001-of-00002").write_bytes(bytes(1024 * 1024))

    seen = []

    def read(folder: Path) -> Any:
        seen.append(folder)
        return graphs(folder)

    assert not is_short(folder, read)
    shutil.rmtree(folder / "variables")
    monkeypatch.setattr(cpu_threads, "_MOST_GRAPH", 10)
    assert not is_short(folder, read)
    assert seen == []


def test_a_damaged_file_is_left_to_loading(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    assert not is_short(tmp_path, graphs)


def test_all_models_of_the_process_count_and_the_first_session_settles_it(
    keras_export: Path, tmp_path: Path
) -> None:
    short = keras_export / "0001"
    long = export(tmp_path, lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), None, 8, 8, 1)
    assert Pool().threads([short, short], graphs) == 1
    assert Pool().threads([short, long], graphs) == ANY_NUMBER
    pool = Pool()
    assert not pool.is_too_small(long, graphs)
    assert pool.threads([short], graphs) == 1
    assert pool.threads([long], graphs) == 1
    assert pool.is_too_small(long, graphs)
    assert not pool.is_too_small(short, graphs)


def test_a_long_model_that_comes_too_late_is_reported(
    load: Any, tmp_path: Path, keras_export: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    pool = Pool()
    pool.threads([keras_export / "0001"], graphs)
    monkeypatch.setattr(room, "_POOL", pool)
    with caplog.at_level(logging.WARNING):
        load(keras_export)
        assert not caplog.records
        load(export(tmp_path, lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), None, 8, 8, 1))
    assert "TensorFlow has one thread for operators" in caplog.text


THREADS = """
import json, sys
from pathlib import Path
from tfserver.model import TensorFlowModel
models = [TensorFlowModel(path, path) for path in sys.argv[1:]]
for model in models:
    model.load()
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
print(json.dumps(sum(name.startswith("tf_Compute") or name.startswith("tf_num") for name in names)))
print(models[0]._served.saved_model._session._config.intra_op_parallelism_threads)
"""


def test_the_session_gets_it(keras_export: Path, tmp_path: Path) -> None:
    long = export(tmp_path, lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), None, 8, 8, 1)

    def told(*folders: Path) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", THREADS, *map(str, folders)], capture_output=True, text=True, check=True
        )
        return [json.loads(line) for line in done.stdout.split()]

    assert told(keras_export)[1] == 1
    assert told(keras_export, long)[1] == ANY_NUMBER
