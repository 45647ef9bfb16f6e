"""TensorFlow Serving's configuration files, as its users have written them."""

import logging
import os
from pathlib import Path

import pytest

import pytorchserver
import tfserver
from modelserver import BatchingParameters
from modelserver.errors import InvalidInput, ModelLoadError, StartError
from modelserver.repository.versions import ModelFolder, VersionPolicy
from modelserver.tensorflow_serving import config_files
from modelserver.tensorflow_serving.config_files import ConfigError, ModelConfig, ModelConfiguration

PLATFORMS = ["tensorflow", "pytorch"]

# As people write it: with and without colons and commas, with both quotes, with comments.
WRITTEN = """
# two models
model_config_list: {
  config: {
    name: "half",
    base_path: "/models/half",
    model_platform: "tensorflow",
    model_version_policy: { specific: { versions: 42, versions: 43 } },
    version_labels: { key: 'stable' value: 43 }
    version_labels { key: 'canary' value: 42 }
  }
  config {
    name: 'iris'
    base_path: 'file:///models/iris'
  }
}
"""


def one(fields, base='name: "m" base_path: "/m"'):
    return f"model_config_list {{ config {{ {base} {fields} }} }}"


def read(text):
    return config_files.read_models(text, PLATFORMS)


class TestModels:
    def test_as_it_is_written(self):
        assert read(WRITTEN) == [
            ModelConfig(
                "half",
                Path("/models/half"),
                "tensorflow",
                VersionPolicy(specific=frozenset((42, 43))),
                {"stable": 43, "canary": 42},
            ),
            ModelConfig("iris", Path("/models/iris"), "", VersionPolicy(), {}),
        ]

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ("", VersionPolicy()),
            ("model_version_policy {}", VersionPolicy()),
            ("model_version_policy { latest {} }", VersionPolicy(latest=1)),
            ("model_version_policy { latest { num_versions: 0 } }", VersionPolicy(latest=1)),
            ("model_version_policy { latest { num_versions: 3 } }", VersionPolicy(latest=3)),
            ("model_version_policy { all {} }", VersionPolicy(everything=True)),
            ("model_version_policy { specific { versions: 7 } }", VersionPolicy(specific=frozenset((7,)))),
            ("model_version_policy { specific { versions: [1, 2] } }", VersionPolicy(specific={1, 2})),
        ],
    )
    def test_version_policy(self, policy, expected):
        assert read(one(policy))[0].policy == expected

    @pytest.mark.parametrize(
        ("fields", "platform"),
        [
            ("", ""),
            ('model_platform: "tensorflow"', "tensorflow"),
            ('model_platform: "pytorch"', "pytorch"),
            ("model_type: TENSORFLOW", "tensorflow"),
            ("model_type: MODEL_TYPE_UNSPECIFIED", ""),
        ],
    )
    def test_platform(self, fields, platform):
        assert read(one(fields))[0].platform == platform

    def test_labels_of_versions_that_may_come(self):
        labels = 'version_labels { key: "stable" value: 9 } version_labels { key: "a-b.c" value: 1 }'
        assert read(one(labels))[0].labels == {"stable": 9, "a-b.c": 1}

    def test_a_list_of_no_models(self):
        assert read("model_config_list {}") == []

    def test_a_logging_config_is_named_in_a_warning(self, caplog):
        with caplog.at_level(logging.WARNING):
            assert read(one('logging_config { log_collector_config { type: "x" } }'))
        assert "Model m: logging_config does nothing here" in caplog.text

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "it holds nothing. Expected model_config_list { config { ... } }."),
            ("# only this\n", "it holds nothing."),
            (
                'custom_model_config { type_url: "a/b" }',
                "it holds custom_model_config. Expected model_config_list",
            ),
            (one("", 'base_path: "/m"'), 'a config has no name (base_path "/m").'),
            (one("", 'name: "m"'), 'model m has the base_path "". Expected an absolute path.'),
            (one("", 'name: "m" base_path: "m/n"'), 'the base_path "m/n". Expected an absolute path.'),
            (
                one('model_platform: "tensorrt"'),
                'the model_platform "tensorrt". Expected one of: "pytorch", "tensorflow"; or none at all.',
            ),
            (
                one('model_type: TENSORFLOW model_platform: "tensorflow"'),
                "a model_type and a model_platform.",
            ),
            (one("model_type: OTHER"), "model m has the model_type 2. Expected TENSORFLOW"),
            (one("model_version_policy { specific {} }"), "specific without a version. Expected specific {"),
            (one('version_labels { key: "" value: 1 }'), 'the label "". Expected one that is not empty'),
            (one('version_labels { key: "a/b" value: 1 }'), 'the label "a/b". Expected'),
            (one('version_labels { key: "a:b" value: 1 }'), 'the label "a:b". Expected'),
            (
                one(
                    "model_version_policy { specific { versions: 2 versions: 1 } } "
                    'version_labels { key: "x" value: 3 }'
                ),
                "the label x for version 3, and its model_version_policy serves 1, 2 only.",
            ),
            (
                one('} config { name: "m" base_path: "/2"'),
                "two models are called m. Give each a name of its own.",
            ),
        ],
    )
    def test_what_cannot_be_served(self, text, says):
        with pytest.raises(ConfigError) as error:
            read(text)
        assert says in str(error.value)
        assert error.value.of("x.config").startswith("x.config: ")

    @pytest.mark.parametrize(
        ("text", "line", "says"),
        [
            ("model_config_list {\n config { nam: 'x' }\n}", 2, 'has no field named "nam"'),
            ("model_config_list {\n config {\n  name: 3\n} }", 3, "Expected string"),
            ("model_config_list {\n config {", 2, 'Expected "}"'),
            ('model_config_list { config { version_labels { key: "a" value: "b" } } }', 1, "Couldn't parse"),
            ("models: []", 1, 'no field named "models"'),
            ("model_config_list {} custom_model_config {}", 1, "oneof"),
        ],
    )
    def test_what_is_no_such_text_is_told_by_line(self, text, line, says):
        with pytest.raises(ConfigError) as error:
            read(text)
        assert error.value.of("x").startswith(f"x, line {line}: no ModelServerConfig: ")
        assert says in str(error.value)

    def test_a_path_elsewhere(self):
        with pytest.raises(ModelLoadError, match="gs://b/m: only local paths can be served, not gs://"):
            read(one("", 'name: "m" base_path: "gs://b/m"'))


class TestConfiguration:
    """The file while the server runs."""

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "models.config"
        path.write_text(one(""))
        return path

    @pytest.fixture
    def configuration(self, file):
        return ModelConfiguration(str(file), 1.0, PLATFORMS, lambda model: model.name)

    def replace(self, file, text):
        new = file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, file)  # noqa: PTH105 - another file under the same name, as Kubernetes does it

    def test_unchanged_is_nothing(self, configuration):
        assert configuration.folders() == ["m"]
        assert configuration.changed() is None

    def test_a_change_is_told_once(self, configuration, file):
        configuration.folders()
        self.replace(file, one("", 'name: "n" base_path: "/n"'))
        assert configuration.changed() == ["n"]
        assert configuration.changed() is None

    def test_a_change_before_the_first_look_is_told(self, configuration, file):
        self.replace(file, one("", 'name: "n" base_path: "/n"'))
        assert configuration.changed() == ["n"]

    def test_an_error_is_told_once_and_with_the_file(self, configuration, file):
        configuration.folders()
        self.replace(file, "model_config_list {\n config { nam: 'x' } }")
        with pytest.raises(ModelLoadError, match=rf"^{file}, line 2: no ModelServerConfig: .*nam"):
            configuration.changed()
        assert configuration.changed() is None
        self.replace(file, one(""))
        assert configuration.changed() == ["m"]

    def test_a_file_that_goes(self, configuration, file):
        configuration.folders()
        file.unlink()
        with pytest.raises(ModelLoadError, match="it cannot be read: No such file or directory"):
            configuration.changed()
        assert configuration.changed() is None

    def test_a_file_that_is_no_text(self, configuration, file):
        file.write_bytes(b"\x80")
        with pytest.raises(ModelLoadError, match=r"it cannot be read as text \(UTF-8\): byte 0"):
            configuration.folders()

    def test_a_platform_is_for_life(self, configuration, file):
        self.replace(file, one('model_platform: "tensorflow"'))
        assert configuration.changed() == ["m"]
        self.replace(file, one('model_platform: "pytorch"'))
        with pytest.raises(ModelLoadError, match='has the model_platform "pytorch", which was "tensorflow"'):
            configuration.changed()
        self.replace(file, one(""))  # whoever knows it: the same, for what is known
        assert configuration.changed() == ["m"]

    def test_a_text_of_a_clients(self, configuration):
        assert configuration.parsed(one("", 'name: "n" base_path: "/n"')) == ["n"]
        assert configuration.changed() is None

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "ModelServerConfig: it holds nothing"),
            ("x", "ModelServerConfig, line 1: no ModelServerConfig"),
            (one("", 'name: "m" base_path: "s3://b"'), "s3://b: only local paths"),
        ],
    )
    def test_a_wrong_text_of_a_clients_is_its_fault(self, configuration, text, says):
        with pytest.raises(InvalidInput, match=says):
            configuration.parsed(text)

    def test_without_a_file_only_a_client_brings_one(self):
        configuration = ModelConfiguration("", 0, PLATFORMS, lambda model: model.name)
        assert configuration.changed() is None
        assert configuration.parsed(one("")) == ["m"]

    def test_a_negative_wait_is_none(self):
        assert ModelConfiguration("", -1, PLATFORMS, lambda model: model.name).poll_s == 0


class TestLayout:
    """TensorFlow Serving's most frequent trap: no folder of a version."""

    @pytest.fixture
    def check(self, tmp_path):
        folder = ModelFolder("m", tmp_path, lambda path, number: None, may_be_empty=True)
        return lambda: config_files.check_layout(folder, [tfserver.predictor, pytorchserver.predictor])

    def test_a_version(self, check, tmp_path, caplog):
        (tmp_path / "1").mkdir()
        (tmp_path / "saved_model.pb").touch()
        check()
        assert caplog.text == ""

    @pytest.mark.parametrize("name", ["saved_model.pb", "model.pt"])
    def test_a_model_instead(self, check, tmp_path, name):
        (tmp_path / name).touch()
        with pytest.raises(ModelLoadError, match=f"m: {tmp_path} holds a model, .* to {tmp_path}/1, or"):
            check()

    def test_a_version_in_the_place_of_its_folder(self, tmp_path):
        version = tmp_path / "1"
        version.mkdir()
        (version / "saved_model.pb").touch()
        folder = ModelFolder("m", version, lambda path, number: None)
        with pytest.raises(ModelLoadError, match=f"Name the folder that it is in, {tmp_path}.$"):
            config_files.check_layout(folder, [tfserver.predictor])

    def test_nothing(self, check, tmp_path, caplog):
        check()
        assert f"Model m waits for its first version: {tmp_path} holds nothing, and no" in caplog.text

    def test_something_else(self, check, tmp_path, caplog):
        (tmp_path / "v1").mkdir()
        (tmp_path / "m.tgz").touch()
        check()
        assert "holds m.tgz, v1/, and no folder such as 1/" in caplog.text

    def test_a_folder_that_is_not_there_is_told_elsewhere(self, check, tmp_path, caplog):
        tmp_path.rmdir()
        check()
        assert caplog.text == ""


class TestBatchingParameters:
    @pytest.fixture
    def read(self, tmp_path):
        def read(text):
            path = tmp_path / "batching.config"
            path.write_text(text)
            return config_files.batching_parameters(str(path))

        return read

    def test_all_of_it(self, read):
        assert read(
            """
            max_batch_size { value: 128 }
            batch_timeout_micros { value: 5000 }
            max_enqueued_batches { value: 1000000 }
            num_batch_threads { value: 8 }
            thread_pool_name { value: "any" }
            allowed_batch_sizes: 16
            allowed_batch_sizes: 128
            pad_variable_length_inputs: true
            enable_large_batch_splitting { value: true }
            max_execution_batch_size { value: 64 }
            """
        ) == BatchingParameters(
            max_batch_size=128,
            batch_timeout_micros=5000,
            max_enqueued_batches=1_000_000,
            num_batch_threads=8,
            allowed_batch_sizes=(16, 128),
            pad_variable_length_inputs=True,
            enable_large_batch_splitting=True,
            max_execution_batch_size=64,
        )

    def test_what_is_left_out_is_tensorflow_servings_default(self, read):
        found = read("")
        assert found == BatchingParameters()
        assert (found.max_batch_size, found.batch_timeout_micros, found.max_enqueued_batches) == (1000, 0, 10)

    def test_a_wrapper_without_a_value_is_zero_as_in_protocol_buffers(self, read):
        assert read("batch_timeout_micros {}").batch_timeout_micros == 0

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                "max_batch_sise { value: 1 }",
                ', line 1: no BatchingParameters: .*no field named "max_batch_sise"',
            ),
            ("\nmax_batch_size: 1", r", line 2: no BatchingParameters: "),
            ('\n\nmax_batch_size { value: "1" }', ", line 3: no BatchingParameters: "),
            ("max_batch_size { value: 0 }", r": max_batch_size is 0\. Expected at least 1\."),
            ("max_batch_size {}", r": max_batch_size is 0\. Expected at least 1\."),
            ("batch_timeout_micros { value: -1 }", r": batch_timeout_micros is -1\. Expected at least 0\."),
            ("max_enqueued_batches { value: 0 }", r": max_enqueued_batches is 0\. Expected at least 1\."),
            ("num_batch_threads { value: 0 }", r": num_batch_threads is 0\. Expected at least 1\."),
        ],
    )
    def test_what_is_wrong(self, read, text, says):
        with pytest.raises(StartError, match=r"batching\.config" + says):
            read(text)

    def test_no_such_file(self):
        with pytest.raises(StartError, match="/nowhere: it cannot be read: No such file or directory"):
            config_files.batching_parameters("/nowhere")


class TestMonitoring:
    @pytest.fixture
    def path(self, tmp_path):
        def path(text):
            file = tmp_path / "monitoring.config"
            file.write_text(text)
            return config_files.monitoring_path(str(file))

        return path

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", ""),
            ("prometheus_config {}", ""),
            ('prometheus_config { path: "/x" }', ""),
            ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
            ('prometheus_config: { enable: true, path: "/x/y" }', "/x/y"),
        ],
    )
    def test_where(self, path, text, expected):
        assert path(text) == expected

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                'prometheus_config { enable: true path: "x" }',
                ': prometheus_config has the path "x". Expected',
            ),
            ("prometheus { enable: true }", ", line 1: no MonitoringConfig: "),
        ],
    )
    def test_what_is_wrong(self, path, text, says):
        with pytest.raises(StartError) as error:
            path(text)
        assert f"monitoring.config{says}" in str(error.value)
