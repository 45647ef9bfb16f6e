"""TensorFlow Serving's warm-up file, written by its own messages, is replayed before a version is ready."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from harness import serving
from tensorflow_serving.apis import inference_pb2, prediction_log_pb2

from modelserver import ModelLoadError
from tfserver.options import Options
from tfserver.warm_up_records import FILE, MOST_RECORDS

PredictionLog = prediction_log_pb2.PredictionLog
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Counting(tf.Module):
    """Each signature notes that it was called, and with how many bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = {name: tf.Variable(0) for name in ("predict", "classify", "regress")}
        self.bytes = tf.Variable(0)

    def _count(self, name: str, inputs: Any) -> Any:
        added = self.bytes.assign_add(tf.reduce_sum(tf.strings.length(inputs)))
        with tf.control_dependencies([self.calls[name].assign_add(1), added]):
            return tf.cast(tf.strings.length(inputs), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def predict(self, text: Any) -> Any:
        return {"length": self._count("predict", text), "again": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs: Any) -> Any:
        return {"scores": self._count("classify", inputs)[:, tf.newaxis]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs: Any) -> Any:
        return {"outputs": self._count("regress", inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def counted(self, x: Any) -> Any:
        values = {name: tf.identity(variable) for name, variable in self.calls.items()}
        return values | {"bytes": tf.identity(self.bytes)} | {"x": x}


@pytest.fixture(scope="module")
def counting_export(exports: Path) -> Path:
    module, folder = Counting(), exports / "counting"
    signatures = {name: getattr(module, name) for name in ("predict", "classify", "regress", "counted")}
    tf.saved_model.save(module, str(folder / "1"), signatures=signatures)
    return folder


@pytest.fixture
def shipped(counting_export: Path, tmp_path: Path) -> Callable[[Iterable[Any]], Path]:
    """A copy of the model with these records."""

    def shipped(records: Iterable[Any]) -> Path:
        folder = tmp_path / "m"
        shutil.copytree(counting_export, folder, dirs_exist_ok=True)
        path = folder / "1" / FILE
        path.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record if isinstance(record, bytes) else record.SerializeToString())
        return folder

    return shipped


@pytest.fixture
def counted(ask: Any) -> Callable[[Any], dict[str, int]]:
    """How often each signature was called, and with how many bytes."""

    def counted(model: Any) -> dict[str, int]:
        answer = ask(model, {"signature_name": "counted", "inputs": [0.0]})["outputs"]
        return {name: int(value) for name, value in answer.items() if name != "x" and value}

    return counted


def example(**features: str) -> Any:
    kept = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=kept))


FIRST, SECOND, CONTEXT = example(a="first"), example(b="second", c="more"), example(d="context")
BYTES = FIRST.ByteSize() + SECOND.ByteSize()


def predict_log(text: Any = (b"ab", b"c"), signature: str = "predict", outputs: Iterable[str] = ()) -> Any:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "any", signature
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(text))
    request.output_filter.extend(outputs)
    return log


def examples_log(kind: str, signature: str, context: Any = None) -> Any:
    log = PredictionLog()
    request = getattr(log, kind).request
    request.model_spec.signature_name = signature
    given = request.input.example_list
    if context is not None:
        given = request.input.example_list_with_context
        given.context.CopyFrom(context)
    given.examples.extend([FIRST, SECOND])
    return log


def multi_inference_log(*methods: str) -> Any:
    log = PredictionLog()
    request = log.multi_inference_log.request
    request.input.example_list.examples.extend([FIRST, SECOND])
    for method in methods:
        task = inference_pb2.InferenceTask(method_name=method)
        task.model_spec.signature_name = method.rpartition("/")[2]
        request.tasks.append(task)
    return log


def streamed_log() -> Any:
    log = PredictionLog()
    log.predict_streamed_log.request.extend([predict_log().predict_log.request] * 2)
    return log


@pytest.mark.parametrize(
    ("log", "calls"),
    [
        (predict_log(), {"predict": 1, "bytes": 3}),
        (predict_log(outputs=["length"]), {"predict": 1, "bytes": 3}),
        (examples_log("classify_log", "classify"), {"classify": 1, "bytes": BYTES}),
        (examples_log("regress_log", "regress"), {"regress": 1, "bytes": BYTES}),
        (
            examples_log("regress_log", "regress", CONTEXT),
            {"regress": 1, "bytes": BYTES + 2 * CONTEXT.ByteSize()},
        ),
        (multi_inference_log(CLASSIFY, REGRESS), {"classify": 1, "regress": 1, "bytes": 2 * BYTES}),
        (streamed_log(), {"predict": 2, "bytes": 6}),
        (PredictionLog(), {}),
    ],
    ids=["predict", "filter", "classify", "regress", "context", "multi-inference", "streamed", "empty"],
)
def test_each_kind_is_replayed(
    load: Any, shipped: Any, counted: Any, log: Any, calls: dict[str, int]
) -> None:
    assert counted(load(shipped([log]))) == calls


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_each_record_as_often_as_told(load: Any, shipped: Any, counted: Any, iterations: int) -> None:
    folder = shipped([predict_log(), predict_log()])
    model = load(folder, options=Options(warm_up_iterations=iterations))
    assert counted(model).get("predict", 0) == 2 * iterations


def test_as_many_as_tensorflow_serving_takes(load: Any, shipped: Any, counted: Any) -> None:
    assert counted(load(shipped([predict_log()] * MOST_RECORDS)))["predict"] == MOST_RECORDS
    with pytest.raises(ModelLoadError, match=r"holds more than 1000 records"):
        load(shipped([predict_log()] * (MOST_RECORDS + 1)))


def test_beside_the_json_file(load: Any, shipped: Any, counted: Any) -> None:
    folder = shipped([predict_log()])
    body = {"signature_name": "predict", "inputs": ["abc"]}
    (folder / "warmup.json").write_text(json.dumps(body))
    assert counted(load(folder)) == {"predict": 1 + 3, "bytes": 3 + 3 * 3}


def test_no_records_and_no_file(load: Any, shipped: Any, counted: Any, counting_export: Path) -> None:
    assert counted(load(shipped([]))) == {}
    assert counted(load(counting_export)) == {}


def session_run_log() -> Any:
    log = PredictionLog()
    log.session_run_log.request.feed.add(name="text:0")
    return log


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (predict_log(signature="other"), 'InvalidInput: Serving signature key "other" not found.'),
        (predict_log(outputs=["other"]), "InvalidInput: output tensor alias not found in signature: other"),
        (predict_log([1.0, 2.0]), "InvalidInput: "),
        (examples_log("classify_log", "regress"), "InvalidInput: Expected classification signature outputs"),
        (examples_log("regress_log", "classify"), "InvalidInput: No regression outputs found"),
        (multi_inference_log(CLASSIFY, "other"), 'InvalidInput: A task of the multi-inference has .*"other"'),
        (PredictionLog(classify_log={}), "InvalidInput: Input is empty."),
        (session_run_log(), "InvalidInput: The record is a session_run_log"),
        (b"no message", "InvalidInput: The record is not a tensorflow.serving.PredictionLog"),
    ],
)
def test_one_that_fails_keeps_the_version_from_loading(load: Any, shipped: Any, log: Any, text: str) -> None:
    expected = rf"^Record 2 in {FILE} fails: {text}.* Correct the record, take the file out, or give "
    with pytest.raises(ModelLoadError, match=expected):
        load(shipped([predict_log(), log]))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:20] + b"?" + data[21:]])
def test_a_damaged_file(load: Any, shipped: Any, damage: Any) -> None:
    folder = shipped([predict_log()])
    path = folder / "1" / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ModelLoadError, match=r"^tf_serving_warmup_requests is damaged, or no TFRecord file: "
    ):
        load(folder)


def test_the_server_replays_them_before_it_is_ready(shipped: Any, tmp_path: Path) -> None:
    folder = shipped([predict_log(), examples_log("classify_log", "classify")])
    arguments = ["-m", "modelserver", f"m={folder}", "--num_request_iterations_for_warmup", "2"]
    with serving(arguments, tmp_path / "log") as server:
        answer = server.wait_ready("m").predict({"signature_name": "counted", "inputs": [0.0]}, model="m")
        assert answer.json()["outputs"] == {
            "predict": 2,
            "classify": 2,
            "regress": 0,
            "bytes": 2 * (3 + BYTES),
            "x": [0.0],
        }
