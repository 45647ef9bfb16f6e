"""What is loaded, what is refused and with which words."""

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from modelserver import ModelLoadError


def refusal(load: Any, folder: Path, **options: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, **options)
    assert str(folder) not in str(caught.value)
    return str(caught.value)


def test_the_highest_number_serves(load: Any, ask: Any, versions: Path, plain: Any) -> None:
    model = load(versions)
    assert model.version == 2
    assert plain(ask(model, {"instances": [4.0]})) == {"predictions": [5.0]}


def test_a_graph_at_the_top(load: Any, ask: Any, half_plus_two: Path, plain: Any) -> None:
    model = load(half_plus_two)
    assert model.version is None
    assert plain(ask(model, {"instances": [4.0]})) == {"predictions": [4.0]}


def test_a_text_graph(load: Any, ask: Any, half_plus_two: Path, tmp_path: Path, plain: Any) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    folder = tmp_path / "text"
    shutil.copytree(half_plus_two, folder)
    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(graph))
    (folder / "saved_model.pb").unlink()
    assert plain(ask(load(folder), {"instances": [4.0]})) == {"predictions": [4.0]}


def test_what_tensorflow_2_refuses_is_served(
    load: Any, ask: Any, reference_counter: Path, plain: Any
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="reference type"):
        tf.saved_model.load(str(reference_counter))
    model = load(reference_counter)
    assert plain(ask(model, {"instances": [1, 2]})) == {"predictions": [3.0]}
    assert plain(ask(model, {"instances": [1]})) == {"predictions": [4.0]}


def test_two_models_do_not_meet(load: Any, ask: Any, versions: Path, half_plus_two: Path, plain: Any) -> None:
    three, two = load(versions), load(half_plus_two)
    assert plain(ask(three, {"instances": [0]})) == {"predictions": [3.0]}
    three.stop()
    assert plain(ask(two, {"instances": [0]})) == {"predictions": [2.0]}


def test_loading_again_takes_the_new_version(
    load: Any, ask: Any, versions: Path, tmp_path: Path, plain: Any
) -> None:
    shutil.copytree(versions / "0001", tmp_path / "m" / "0001")
    model = load(tmp_path / "m")
    assert plain(ask(model, {"instances": [0]})) == {"predictions": [2.0]}
    shutil.copytree(versions / "2", tmp_path / "m" / "2")
    assert model.load() is True
    assert plain(ask(model, {"instances": [0]})) == {"predictions": [3.0]}


def test_a_failed_reload_keeps_the_old_version(
    load: Any, ask: Any, versions: Path, tmp_path: Path, plain: Any
) -> None:
    shutil.copytree(versions / "0001", tmp_path / "m" / "0001")
    model = load(tmp_path / "m")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(ModelLoadError):
        model.load()
    assert model.version == 1
    assert plain(ask(model, {"instances": [0]})) == {"predictions": [2.0]}


def test_answers_from_any_thread(load: Any, half_plus_two: Path) -> None:
    model = load(half_plus_two)
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda n=n: answers.append((n, model.predict({"instances": [n]})["predictions"]))
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((n, float(answer[0])) for n, answer in answers) == [(n, n / 2 + 2) for n in range(8)]


class TestTags:
    def test_named(self, load: Any, ask: Any, tagged: Path, plain: Any) -> None:
        for tags in (("train",), ("serve", "gpu")):
            assert plain(ask(load(tagged, tags=tags), {"instances": [2]})) == {"predictions": [4.0]}

    def test_absent(self, load: Any, tagged: Path) -> None:
        text = refusal(load, tagged)
        assert text == (
            'The SavedModel has no graph tagged "serve"; it has: "train", "gpu,serve". '
            "Choose one with --saved_model_tags TAG[,TAG]."
        )


class TestRefusals:
    def test_no_signature(self, load: Any, unsigned_export: Path) -> None:
        text = refusal(load, unsigned_export)
        assert "no signature to serve (there is none at all)" in text
        assert "model.export(path)" in text

    def test_no_signature_that_can_be_called(self, load: Any, tf1_functions: Path, tmp_path: Path) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        folder = tmp_path / "m"
        shutil.copytree(tf1_functions, folder)
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        for name in ("serving_default", "same", "lying"):
            del saved.meta_graphs[0].signature_def[name]
        (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
        text = refusal(load, folder)
        assert '"constant" has no inputs; "twice": Endpoint "a:0" fed more than once' in text

    def test_variables_missing(self, load: Any, half_plus_two: Path, tmp_path: Path) -> None:
        shutil.copytree(half_plus_two, tmp_path / "m" / "1")
        shutil.rmtree(tmp_path / "m" / "1" / "variables")
        text = refusal(load, tmp_path / "m")
        assert "variables" in text
        assert "copy the whole SavedModel folder, variables/ and assets/ too." in text

    def test_variables_cut_short(self, load: Any, half_plus_two: Path, tmp_path: Path) -> None:
        shutil.copytree(half_plus_two, tmp_path / "m")
        data = next((tmp_path / "m" / "variables").glob("*.data-*"))
        data.write_bytes(b"")
        assert "copy the whole SavedModel folder" in refusal(load, tmp_path / "m")

    @pytest.mark.parametrize("content", [b"", b"junk", b"\x08"])
    def test_graph_file_damaged(self, load: Any, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "saved_model.pb").write_bytes(content)
        assert "SavedModel" in refusal(load, tmp_path)

    def test_unknown_operation(self, load: Any, half_plus_two: Path, tmp_path: Path) -> None:
        shutil.copytree(half_plus_two, tmp_path / "m")
        graph = tmp_path / "m" / "saved_model.pb"
        graph.write_bytes(graph.read_bytes().replace(b"AddV2", b"AddV9"))
        text = refusal(load, tmp_path / "m")
        assert "AddV9" in text
        assert "copy" not in text
        assert "running on" not in text  # TensorFlow names the host


class TestWarmUp:
    def test_the_example_is_answered(self, load: Any, ask: Any, keras_export: Path) -> None:
        model = load(keras_export)
        assert model.example_request() == {"instances": [[0.0, 0.0, 0.0, 0.0]]}
        assert ask(model, model.example_request())["predictions"].shape == (1, 3)

    def test_several_inputs(self, load: Any, ask: Any, tf1_functions: Path) -> None:
        model = load(tf1_functions)
        assert model.example_request() == {"instances": [{"a": [0.0, 0.0], "b": [0.0, 0.0]}]}
        assert len(ask(model, model.example_request())["predictions"]) == 1

    def test_an_example_that_the_graph_refuses_is_not_offered(
        self, load: Any, functions: Any, tmp_path: Path
    ) -> None:
        tf.saved_model.save(functions, str(tmp_path / "m"), signatures={"serving_default": functions.divide})
        model = load(tmp_path / "m")
        assert model.ready
        assert model.example_request() is None

    def test_a_call_with_side_effects_is_not_made_up(
        self, load: Any, ask: Any, counter_export: Path, reference_counter: Path, plain: Any
    ) -> None:
        resource, reference = load(counter_export), load(reference_counter)
        assert resource.example_request() is None
        assert reference.example_request() is None
        assert plain(ask(resource, {"instances": [0]})) == {"predictions": [1]}
        assert plain(ask(reference, {"instances": [5]})) == {"predictions": [5.0]}

    @pytest.mark.parametrize(
        ("dtype", "shape", "example"),
        [
            (tf.string, [None], {"instances": [""]}),
            (tf.int64, [None, 2], {"instances": [[0, 0]]}),
            (tf.bool, [None, None], {"instances": [[False]]}),
            (tf.float32, [2, 1, 2], {"instances": [[[0.0, 0.0]], [[0.0, 0.0]]]}),
            (tf.float32, None, {"instances": [0.0]}),
            (tf.float32, [None, 500, 500], None),
            (tf.float16, [None], None),
        ],
    )
    def test_examples(
        self, load: Any, tmp_path: Path, dtype: Any, shape: Any, example: dict[str, Any] | None
    ) -> None:
        module = tf.Module()
        module.serve = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec(shape, dtype, "x")])
        tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.serve})
        assert load(tmp_path / "m").example_request() == example


def test_types(load: Any, keras_export: Path, functions_export: Path) -> None:
    model = load(keras_export)
    assert model.get_input_types() == [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    assert [(t["datatype"], t["shape"]) for t in model.get_output_types()] == [("FP32", [-1, 3])]
    assert model.platform == "tensorflow_savedmodel"
    loaded = load(functions_export)._served.saved_model
    datatypes = {
        name.removeprefix("echo_"): signature.inputs[0].dtype.datatype
        for name, signature in loaded.signatures.items()
        if name.startswith("echo_")
    }
    assert datatypes == {
        "bool": "BOOL", "float32": "FP32", "float64": "FP64", "int16": "INT16", "int32": "INT32",
        "int64": "INT64", "int8": "INT8", "string": "BYTES", "uint32": "UINT32", "uint64": "UINT64",
        "uint8": "UINT8",
    }  # fmt: skip
    assert loaded.signatures["from_half"].inputs[0].dtype.datatype == "FP16"


def test_loading_says_nothing_of_deprecation(
    load: Any, half_plus_two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(half_plus_two)
    assert [record.getMessage() for record in caplog.records] == []


def test_serving_makes_no_eager_context(keras_export: Path) -> None:
    script = (
        "import sys\n"
        "from tfserver.model import TensorFlowModel\n"
        "model = TensorFlowModel('m', sys.argv[1])\n"
        "model.load()\n"
        "print(model.predict(model.example_request())['predictions'].shape)\n"
        "from tensorflow.python.eager import context\n"
        "print(context._context is None or not context._context._initialized)\n"
    )
    environ = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(keras_export)],
        capture_output=True, text=True, timeout=120, env=environ,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["(1, 3)", "True"], done.stderr
    assert "deprecated" not in done.stderr
    assert "To enable the following instructions" not in done.stderr


def test_the_folder_of_one_version(load: Any, versions: Path) -> None:
    """Whoever gives us that folder knows the number, and has set it."""
    from tfserver.model import TensorFlowModel

    model = TensorFlowModel("m", versions / "0001")
    model.version = 1
    model.load()
    assert model.version == 1
    assert model.predict({"instances": [2.0]})["predictions"].tolist() == [3.0]
    model.stop()
    assert load(versions).version == 2


def test_a_graph_whose_time_depends_on_values_is_kept_off_the_event_loop(load: Any, tmp_path: Path) -> None:
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def count(x: Any) -> Any:
        return {"y": tf.while_loop(lambda i: tf.reduce_any(i < x), lambda i: [i + 1], [tf.zeros_like(x)])[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def twice(x: Any) -> Any:
        return {"y": 2 * x}

    tf.saved_model.save(module, str(tmp_path / "loop"), signatures={"twice": twice, "count": count})
    tf.saved_model.save(module, str(tmp_path / "plain"), signatures={"twice": twice})
    assert not load(tmp_path / "loop").never_waits
    assert load(tmp_path / "plain").never_waits
