"""Settings: where a value comes from, and what is refused."""

import argparse
import dataclasses

import pytest

import modelserver
from modelserver import Settings, StartError
from modelserver.settings import argument_parser, available_cores, resolve


def test_defaults_are_the_specifications():
    settings = resolve({}, [], {})
    assert settings == Settings()
    assert (settings.http_port, settings.workers, settings.max_buffer_size) == (8080, 1, 10485760)


def test_an_argument_beats_a_flag_beats_the_environment_beats_the_default():
    environ = {"MODELSERVER_HTTP_PORT": "1", "PORT": "2"}
    assert resolve({}, [], {"PORT": "2"}).http_port == 2
    assert resolve({}, [], environ).http_port == 1
    assert resolve({}, ["--http_port", "3"], environ).http_port == 3
    assert resolve({"http_port": 4}, ["--http_port", "3"], environ).http_port == 4
    assert resolve({"http_port": None}, ["--http_port=3"], environ).http_port == 3


def test_who_gives_a_port_for_grpc_wants_it(monkeypatch):
    """As in KServe, whose gRPC is on unless it is told otherwise."""

    def is_on(*flags, **given):
        monkeypatch.setattr("sys.argv", ["program", *flags])
        return modelserver.ModelServer(**given).settings.enable_grpc

    assert is_on(grpc_port=9000)
    assert is_on(enable_grpc=True)
    assert not is_on()
    assert not is_on("--grpc_port=9000")
    assert not is_on(grpc_port=9000, enable_grpc=False)
    assert not is_on("--enable_grpc=false", grpc_port=9000)


def test_flags_of_other_programs_are_left_alone():
    settings = resolve({}, ["--workers", "2", "--model_name", "m", "file", "--work", "9"], {})
    assert settings.workers == 2


def test_a_kubernetes_service_address_is_not_taken_for_a_port():
    assert resolve({}, [], {"MODELSERVER_HTTP_PORT": "tcp://10.0.0.1:80", "PORT": "81"}).http_port == 81


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"http_port": 70000}, "--http_port is 70000 and must be at most 65535."),
        ({"workers": -1}, "--workers is -1 and must be at least 0."),
        ({"max_buffer_size": 0}, "--max_buffer_size is 0 and must be at least 1."),
        ({"http_port": "8080"}, "--http_port is '8080' and must be an integer."),
        ({"workers": True}, "--workers is True and must be an integer."),
        ({"workers": 1.5}, "--workers is 1.5 and must be an integer."),
        ({"grace_period": "long"}, "--grace_period is 'long' and must be a number."),
        ({"access_log": 1}, "--access_log is 1 and must be true or false."),
    ],
)
def test_out_of_range_is_refused_by_name(given, text):
    with pytest.raises(StartError, match=f"^{text}$"):
        resolve(given, [], {})


def test_a_bad_environment_variable_is_refused_by_name():
    with pytest.raises(StartError, match="The environment variable PORT is 'http' and must be an integer"):
        resolve({}, [], {"PORT": "http"})


@pytest.mark.parametrize("word", ["true", "YES", "on", "1", "t", "y"])
def test_booleans_are_read_as_kserve_does(word):
    assert resolve({}, ["--access_log", word], {}).access_log is True
    assert resolve({}, ["--access_log", "off"], {"MODELSERVER_ACCESS_LOG": word}).access_log is False


def test_a_word_that_is_no_boolean_is_refused(capsys):
    with pytest.raises(SystemExit):
        resolve({}, ["--access_log", "maybe"], {})
    assert "--access_log" in capsys.readouterr().err


def test_a_switch_may_stand_alone():
    flag = "--allow_version_labels_for_unavailable_models"
    for arguments in ([flag], [flag, "iris.tgz"], [flag, "on"], [f"{flag}=1"]):
        assert resolve({}, arguments, {}).allow_version_labels_for_unavailable_models is True
    assert resolve({}, [flag, "off"], {}).allow_version_labels_for_unavailable_models is False


def test_a_second_flag_is_the_same():
    assert resolve({}, ["--rest_api_port=8501"], {"PORT": "9000"}).http_port == 8501
    assert resolve({}, ["--rest_api_enable_cors_support"], {}).enable_cors is True


def test_the_command_line_is_not_read_where_everything_is_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", "--http_port=nonsense"])
    given = dataclasses.asdict(Settings(workers=3))
    assert resolve(given).workers == 3


def test_the_parent_parser_joins_a_users_own(monkeypatch):
    monkeypatch.setenv("PORT", "9000")
    for parent in (modelserver.parser, modelserver.model_server.parser):
        parser = argparse.ArgumentParser(parents=[parent])
        parser.add_argument("--model_name", default="m")
        options = parser.parse_args(["--workers", "3"])
        assert (options.workers, options.http_port, options.model_name) == (3, 9000, "m")


def test_every_setting_has_help_and_a_flag():
    shown = argument_parser({}).format_help()
    for name in Settings.__dataclass_fields__:
        assert f"--{name} " in shown


def test_zero_workers_means_one_for_each_core(tmp_path):
    assert Settings(workers=0).worker_count == available_cores() >= 1
    assert Settings(workers=3).worker_count == 3


@pytest.mark.parametrize(("text", "cores"), [("50000 100000", 1), ("max 100000", None), ("", None)])
def test_a_containers_cpu_limit_counts(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert available_cores(tmp_path) == (cores or available_cores(tmp_path / "absent"))


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("-1", None)])
def test_the_limit_of_an_older_kernel_counts_too(tmp_path, quota, cores):
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(tmp_path) == (cores or available_cores(tmp_path / "absent"))


def test_workers_share_the_cores():
    cores = available_cores()
    assert Settings().cpu_threads_per_worker == cores
    assert Settings(workers=cores).cpu_threads_per_worker == 1
    assert Settings(workers=10 * cores).cpu_threads_per_worker == 1
    assert Settings(workers=2, cpu_threads=7).cpu_threads_per_worker == 7
