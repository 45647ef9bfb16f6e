"""Command lines as TensorFlow Serving's users have them, on real SavedModels, asked over real sockets."""

import os
import shutil
import socket

import grpc
import pytest
from harness import request, run, serving, wait_until

from modelserver.protocols import tfs_messages as messages
from modelserver.protocols.protobuf import parse_text

# Each version multiplies by its own number, so that an answer says who gave it. `slow` computes for as many
# seconds as it is told.
EXPORT = """
import sys

import tensorflow as tf

folder = sys.argv[1]


class Times(tf.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x * self.factor}


class Slow(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, name="seconds")])
    def __call__(self, seconds):
        until = tf.timestamp() + tf.reduce_max(seconds)
        rounds = tf.while_loop(lambda n: tf.timestamp() < until, lambda n: n + 1, [tf.constant(0)])
        return {"y": seconds + 0.0 * tf.cast(rounds[0], tf.float64)}


for name, versions in {"times": (1, 2, 3), "other": (7,)}.items():
    for version in versions:
        module = Times(float(version))
        tf.saved_model.save(module, f"{folder}/{name}/{version}", signatures=module.__call__)
slow = Slow()
tf.saved_model.save(slow, f"{folder}/slow/1", signatures=slow.__call__)
"""

CONFIG = """
model_config_list {{
  config {{
    name: "times"
    base_path: "{folder}/times"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: {stable} }}
  }}
  config {{ name: "{other}" base_path: "{folder}/other" model_platform: "tensorflow" }}
  config {{ name: "slow" base_path: "{folder}/slow" }}
}}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of base paths: times/1, 2 and 3, other/7, slow/1."""
    folder = tmp_path_factory.mktemp("exported")
    done = run(["-c", EXPORT, folder])
    assert done.returncode == 0, done.stderr
    return folder


def factor(server, target):
    """What a model multiplies by, or the status of what it says instead."""
    answer = server.request("POST", f"/v1/models/{target}:predict", {"instances": [1.0]})
    return answer.json()["predictions"][0] if answer.status == 200 else answer.status


def reload(port, config):
    """Send a configuration as TensorFlow Serving's clients do; the name of the answer's status."""
    told = messages.ReloadConfigRequest(config=parse_text(messages.ModelServerConfig, config))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            messages.ReloadConfigRequest.SerializeToString,
            messages.ReloadConfigResponse.FromString,
        )
        try:
            call(told, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def write(path, text):
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)  # noqa: PTH105 - at once, as whoever writes such a file should


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


@pytest.fixture(scope="module")
def config(folder, exported):
    path = folder / "models.config"
    path.write_text(CONFIG.format(folder=exported, stable=1, other="other"))
    return path


@pytest.fixture(scope="module")
def server(folder, config):
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics/tfs" }')
    (folder / "batching.config").write_text("max_batch_size { value: 8 }")
    arguments = [
        "--rest_api_port=0",
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0.1",
        "--model_name=ignored",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        "--rest_api_timeout_in_ms=2000",
        "--rest_api_enable_cors_support",
        "--enable_batching",
        f"--batching_parameters_file={folder / 'batching.config'}",
        "--grpc_max_threads=3",
        "--flush_filesystem_caches=false",
    ]
    with serving(["-m", "modelserver", *arguments], folder / "log", port_flag=False) as server:
        yield server.wait_ready("times", "other", "slow")


class TestModelConfigFile:
    def test_its_models_versions_and_labels_answer(self, server):
        assert factor(server, "times") == 2
        assert factor(server, "times/versions/1") == 1
        assert factor(server, "times/versions/2") == 2
        assert factor(server, "times/versions/3") == 404  # there, and not in the policy
        assert factor(server, "times/labels/stable") == 1
        assert factor(server, "times/labels/canary") == 400
        assert factor(server, "other") == 7
        assert factor(server, "ignored") == 404

    def test_what_does_nothing_is_said(self, server):
        text = server.text()
        assert text.count("Flags of TensorFlow Serving that do nothing here: --grpc_max_threads (") == 1
        assert "; --flush_filesystem_caches (" in text
        assert "--model_config_file is given: --model_name and --model_base_path do nothing" in text

    def test_metrics_are_where_the_file_says(self, server):
        assert factor(server, "other") == 7
        page = server.get("/metrics/tfs")
        assert page.status == 200
        assert b":tensorflow:serving:request_count{" in page.body

    def test_cors(self, server):
        answer = server.get("/v1/models/other", headers={"Origin": "http://example.com"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"

    def test_the_timeout_is_in_milliseconds(self, server):
        answer = server.request("POST", "/v1/models/slow:predict", {"instances": [5.0]})
        assert answer.status == 504
        assert "2 s" in answer.json()["error"]

    def test_batching_takes_its_parameters_from_the_file(self, server):
        answer = server.request("POST", "/v1/models/other:predict", {"instances": [1.0] * 9})
        assert answer.status == 400
        assert "9" in answer.json()["error"]
        assert "8" in answer.json()["error"]

    def test_a_wrong_file_changes_nothing_and_is_told(self, server, config, exported):
        good = config.read_text()
        label = 'version_labels { key: "next" value: 8 }'
        write(config, good.replace('name: "other"', f'name: "other" {label}'))
        wait_until(lambda: "the label next is for version 8, which is not available" in server.text())
        assert factor(server, "other") == 7
        write(config, good.replace("model_platform", "model_plattform", 1))
        wait_until(lambda: f"{config}, line 6: no ModelServerConfig: " in server.text())
        assert factor(server, "times/labels/stable") == 1
        assert factor(server, "other") == 7
        write(config, good)

    def test_a_new_file_replaces_the_old(self, server, config, exported):
        write(config, CONFIG.format(folder=exported, stable=2, other="another"))
        wait_until(lambda: factor(server, "another") == 7, what="the new model")
        wait_until(lambda: factor(server, "other") == 404, what="the old model gone")
        wait_until(lambda: factor(server, "times/labels/stable") == 2, what="the label moved")
        assert factor(server, "times/versions/1") == 1


def test_model_base_path(exported, tmp_path):
    """Named `default`; a version that comes later takes over; gRPC is where `--port` says."""
    versions = tmp_path / "model"
    shutil.copytree(exported / "times" / "1", versions / "1")
    with socket.create_server(("", 0)) as free:
        grpc_port = free.getsockname()[1]
    arguments = [
        "-m", "tfserver", "--rest_api_port", "0", f"--port={grpc_port}", "--model_base_path", "model",
        "--file_system_poll_wait_seconds=0.1", "--tensorflow_session_parallelism=1",
        "--allow_version_labels_for_unavailable_models",
    ]  # fmt: skip
    with serving(arguments, tmp_path / "log", port_flag=False, cwd=tmp_path) as server:
        server.wait_ready("default")
        assert factor(server, "default") == 1
        shutil.copytree(exported / "times" / "3", tmp_path / "incomplete")
        (tmp_path / "incomplete").rename(versions / "3")
        wait_until(lambda: factor(server, "default") == 3, what="the new version")
        assert reload(grpc_port, CONFIG.format(folder=exported, stable=2, other="other")) == "OK"
        assert factor(server, "times/labels/stable") == 2
        assert factor(server, "default") == 404
        assert reload(grpc_port, "model_config_list { config { name: 'x' } }") == "INVALID_ARGUMENT"
        assert factor(server, "times/labels/stable") == 2
        label = 'version_labels { key: "next" value: 8 }'
        other = f'model_config_list {{ config {{ name: "other" base_path: "{exported}/other" {label} }} }}'
        assert reload(grpc_port, other) == "OK"
        assert (factor(server, "other"), factor(server, "other/labels/next")) == (7, 400)


def test_as_tensorflow_servings_image_is_told(exported, tmp_path):
    """`docker run -e MODEL_NAME=times -v ...:/models/times IMAGE`, with the image's `MODEL_BASE_PATH`."""
    env = {"MODEL_NAME": "times", "MODEL_BASE_PATH": str(exported), "PORT": "0"}
    with serving(["-m", "tfserver", "--port=0"], tmp_path / "log", env=env, port_flag=False) as server:
        server.wait_ready("times")
        answer = request(server.port, "POST", "/v1/models/times:predict", {"instances": [1.0]})
        assert answer.json() == {"predictions": [3.0]}
        assert "grpc://" not in server.text()


def test_without_protocol_buffers_the_extra_is_named(tmp_path):
    file = tmp_path / "models.config"
    file.touch()
    program = (
        "import sys; sys.modules['google.protobuf'] = None; from modelserver import cli; sys.exit(cli.main())"
    )
    done = run(["-c", program, "--rest_api_port=0", f"--model_config_file={file}"])
    assert done.returncode == 1
    assert done.stderr.endswith('pip install "modelserver[grpc]"\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds nothing. Expected model_config_list { config { ... } }."),
        ("model_config_list {\n config { nam: 'x' } }", ', line 2: no ModelServerConfig: Message type "'),
        (
            'model_config_list { config { name: "x" base_path: "x" } }',
            'model x has the base_path "x". Expected an absolute path.',
        ),
    ],
)
def test_a_wrong_config_file_ends_the_start(tmp_path, text, says):
    file = tmp_path / "models.config"
    file.write_text(text)
    done = run(["-m", "modelserver", "--rest_api_port=0", f"--model_config_file={file}"])
    assert done.returncode == 1
    assert f"modelserver: {file}" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
