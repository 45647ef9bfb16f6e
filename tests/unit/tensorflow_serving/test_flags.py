"""TensorFlow Serving's command line: what each of its flags does here."""

import re
from pathlib import Path

import pytest

import pytorchserver
import tfserver
from modelserver import BatchingParameters, cli
from modelserver.tensorflow_serving import flags

BOTH = [pytorchserver.predictor, tfserver.predictor]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in ("MODEL_NAME", "MODEL_BASE_PATH", "MODELSERVER_MODEL_THREADS", "MODELSERVER_MAX_QUEUE_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def read():
    """The values of a command line."""

    def read(*arguments, predictors=BOTH):
        return cli.serve_options(cli.serve_parser(predictors), [*map(str, arguments)], predictors)

    return read


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--rest_api_port=8501"], "http_port", 8501),
        (["--http_port", "1", "--rest_api_port", "8501"], "http_port", 8501),
        (["--rest_api_port", "8501", "--http_port", "1"], "http_port", 1),
        (["--port=8500"], "grpc_port", 8500),
        (["--port", "8500"], "enable_grpc", True),
        (["--port=0", "--enable_grpc=true"], "enable_grpc", True),
        (["--enable_grpc=true", "--port=0"], "enable_grpc", False),
        (["--rest_api_timeout_in_ms=1500"], "timeout", 1.5),
        (["--rest_api_timeout_in_ms", "0"], "timeout", 0.0),
        (["--rest_api_enable_cors_support"], "enable_cors", True),
        (["--rest_api_enable_cors_support=true"], "enable_cors", True),
        (["--rest_api_enable_cors_support", "false"], "enable_cors", False),
        (["--file_system_poll_wait_seconds=30"], "file_system_poll_wait_seconds", 30),
        (["--file_system_poll_wait_seconds=-1"], "file_system_poll_wait_seconds", -1),
        (["--max_num_load_retries=0"], "max_num_load_retries", 0),
        (["--load_retry_interval_micros=-1"], "load_retry_interval_micros", -1),
        (
            ["--allow_version_labels_for_unavailable_models"],
            "allow_version_labels_for_unavailable_models",
            True,
        ),
        (["--model_config_file_poll_wait_seconds=60"], "model_config_file_poll_wait_seconds", 60),
        (["--tensorflow_session_parallelism=3"], "tensorflow_session_parallelism", 3),
        (["--tensorflow_intra_op_parallelism=3"], "tensorflow_intra_op_parallelism", 3),
        (["--tensorflow_inter_op_parallelism=3"], "tensorflow_inter_op_parallelism", 3),
        (["--saved_model_tags=serve,gpu"], "saved_model_tags", "serve,gpu"),
        ([], "batching", None),
        (["--enable_batching=false"], "batching", None),
        (["--enable_batching"], "batching", BatchingParameters()),
        (["--enable_batching=true"], "batching", BatchingParameters()),
        ([], "enable_grpc", False),
        ([], "timeout", 60.0),
        ([], "monitoring_path", ""),
        ([], "max_num_load_retries", 5),
        ([], "load_retry_interval_micros", 60_000_000),
        ([], "file_system_poll_wait_seconds", 1.0),
        ([], "model_config_file_poll_wait_seconds", 0.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_flag_says(read, arguments, name, value):
    assert getattr(read(*arguments), name) == value


def test_a_flag_that_stands_alone_takes_no_path_for_its_value(read):
    options = read("--metrics", "off", "--prefer_tflite_model", "--enable_batching", "iris", "other")
    assert options.models == ["iris", "other"]
    assert options.batching is not None
    assert flags.ignored(options).startswith("--prefer_tflite_model (")
    assert options.metrics is False


def test_what_does_nothing_is_named_once_with_a_reason(read):
    options = read(
        "--grpc_max_threads=4", "--num_load_threads", "4", "--enable_profiler", "--grpc_max_threads", "5",
        "--thread_pool_factory_config_file=x", "iris",
    )  # fmt: skip
    assert options.models == ["iris"]
    assert flags.ignored(options) == (
        "--grpc_max_threads (one event loop answers; give --workers or --model_threads); "
        "--num_load_threads (models are always loaded on threads of their own); "
        "--enable_profiler (there is no profiler service); "
        "--thread_pool_factory_config_file"
    )


def test_what_does_something_is_not_named(read):
    options = read("--rest_api_port=1", "--port=2", "--enable_batching", "--saved_model_tags=serve")
    assert flags.ignored(options) == ""


@pytest.mark.parametrize("flag", flags.FLAGS, ids=lambda flag: flag.name)
@pytest.mark.parametrize("predictors", [BOTH, [pytorchserver.predictor], []], ids=len)
def test_every_flag_is_known(read, flag, predictors, tmp_path):
    """None of TensorFlow Serving's flags ends the program, whichever predictors there are."""
    if flag.name == "version":
        with pytest.raises(SystemExit) as ended:
            read("--version", predictors=predictors)
        assert ended.value.code == 0
        return
    file = tmp_path / "file"
    file.touch()
    value = file if flag.name == "monitoring_config_file" else "0"
    arguments = [f"--{flag.name}={value}" if flag.takes_value else f"--{flag.name}"]
    if flag.name == "batching_parameters_file":
        file.write_text("max_batch_size { value: 2 }")
        arguments = ["--enable_batching", f"--{flag.name}={file}"]
    options = read(*arguments, "iris", predictors=predictors)
    assert options.models == ["iris"]


def test_flags_of_a_predictor_that_is_not_there_are_named(read):
    options = read("--saved_model_tags=serve", predictors=[pytorchserver.predictor])
    assert flags.ignored(options) == "--saved_model_tags (it is for TensorFlow models)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no_such_flag=1"], "unrecognized arguments: --no_such_flag=1"),
        (["--port=70000"], "argument --port: 70000 is not a port: 0 to 65535"),
        (["--rest_api_timeout_in_ms=soon"], "argument --rest_api_timeout_in_ms: invalid"),
        (["--enable_batching=perhaps"], "argument --enable_batching: invalid boolean value: 'perhaps'"),
        (["--batching_parameters_file=x"], "--batching_parameters_file needs --enable_batching"),
        (["--grpc_max_threads"], "argument --grpc_max_threads: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage(read, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


class TestBatching:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "batching.config"
        path.write_text(
            "max_batch_size { value: 32 } max_enqueued_batches { value: 100 } num_batch_threads { value: 4 }"
        )
        return path

    def test_the_file_reaches_the_predictors(self, read, file):
        options = read("--enable_batching", f"--batching_parameters_file={file}")
        assert options.batching == BatchingParameters(
            max_batch_size=32, max_enqueued_batches=100, num_batch_threads=4
        )

    def test_its_threads_and_queue_are_the_servers(self, read, file):
        options = read("--enable_batching", f"--batching_parameters_file={file}")
        assert options.model_threads == 4
        assert options.max_queue_size == (100 + 4) * 32

    def test_flags_are_stronger(self, read, file):
        options = read(
            "--enable_batching", "--batching_parameters_file", file, "--model_threads", "1",
            "--max_queue_size", "1000",
        )  # fmt: skip
        assert (options.model_threads, options.max_queue_size) == (1, 1000)

    def test_the_environment_is_stronger(self, read, file, monkeypatch):
        monkeypatch.setenv("MODELSERVER_MODEL_THREADS", "2")
        monkeypatch.setenv("MODELSERVER_MAX_QUEUE_SIZE", "7")
        options = read("--enable_batching", "--batching_parameters_file", file)
        assert (options.model_threads, options.max_queue_size) == (2, 7)

    def test_without_a_file_threads_stay_and_the_queue_is_tensorflow_servings(self, read):
        options = read("--enable_batching")
        assert (options.model_threads, options.max_queue_size) == (1, 11_000)

    def test_without_batching_the_queue_stays(self, read):
        assert read().max_queue_size == 1000


def test_monitoring_config_file(read, tmp_path):
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    assert read("--monitoring_config_file", file).monitoring_path == "/monitoring/prometheus/metrics"
    file.write_text("prometheus_config { enable: false }")
    assert read("--monitoring_config_file", file).monitoring_path == ""


class TestModelInTheEnvironment:
    """As in TensorFlow Serving's image."""

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({}, None),
            ({"MODEL_NAME": ""}, None),
            ({"MODEL_NAME": "iris"}, ("iris", "/models/iris")),
            ({"MODEL_BASE_PATH": "/mnt"}, ("model", "/mnt/model")),
            ({"MODEL_NAME": "iris", "MODEL_BASE_PATH": "/mnt"}, ("iris", "/mnt/iris")),
        ],
    )
    def test_name_and_path(self, environ, expected):
        assert flags.model_in(environ) == expected

    def test_a_folder_that_is_not_there(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setenv("MODEL_BASE_PATH", str(tmp_path))
        assert cli.main([]) == 1
        assert capsys.readouterr().err == (
            f"modelserver: {tmp_path}/model: no such folder. MODEL_BASE_PATH and MODEL_NAME name it, as "
            f"nothing on the command line does.\n"
        )

    def test_the_command_line_is_stronger(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setenv("MODEL_BASE_PATH", str(tmp_path))
        assert cli.main(["nowhere.tgz"]) == 1
        assert "nowhere.tgz: no such file or folder." in capsys.readouterr().err
        assert cli.main(["--model_base_path=/nowhere"]) == 1
        assert "/nowhere: no such folder. --model_base_path names it." in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--model_base_path", "--model_config_file"])
@pytest.mark.parametrize("package", [["x.tgz"], ["--model_dir", "x.tgz"]], ids=len)
def test_packages_beside_folders_of_versions_are_refused(capsys, flag, package):
    with pytest.raises(SystemExit) as ended:
        cli.main([flag, "x", *package])
    assert ended.value.code == 2
    assert f"{flag} says what is served: leave out x.tgz" in capsys.readouterr().err


def test_a_base_path_elsewhere_is_refused(capsys):
    assert cli.main(["--model_base_path=gs://bucket/model"]) == 1
    assert "gs://bucket/model: only local paths can be served, not gs://." in capsys.readouterr().err


def test_the_documentation_has_every_flag():
    text = (ROOT / "docs" / "tensorflow-serving.md").read_text()
    section = text.partition("\n## Flags\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"--(\w+)", section)) - {"flag"}
    listed = {flag.name for flag in flags.FLAGS}
    assert listed <= told
    usage = cli.serve_parser(BOTH).format_help()
    assert [name for name in told - listed if f"--{name} " not in usage] == []
