""":classify and :regress: what TensorFlow's own parser reads from our examples, what its graphs answer."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_exports import tf1_export, tf1_signature

from modelserver import InvalidInput, ModelType
from modelserver.protocols.tfs_json import decode_request, encode_response
from tfserver.examples import examples_from_request
from tfserver.options import Options

tf1 = tf.compat.v1


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def parsed(payload: dict[str, Any], name: str, dtype: Any) -> list[list[Any]]:
    """What TensorFlow's parser finds in the feature of each example."""
    serialized = examples_from_request(payload, "classify").tolist()
    found = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(dtype)})
    return found[name].to_list()


class TestFeatures:
    """Section 7: the first value says what a feature is."""

    @pytest.mark.parametrize(
        ("value", "dtype", "expected"),
        [
            ("é", tf.string, ["é".encode()]),
            (b64(b"\xff\0"), tf.string, [b"\xff\0"]),
            (["a", b64(b"b"), ""], tf.string, [b"a", b"b", b""]),
            ("\udcff", tf.string, [b"\xff"]),
            (1.5, tf.float32, [1.5]),
            ([0.1, 2.0, 1e300, -1e300], tf.float32, [np.float32(0.1), 2.0, np.inf, -np.inf]),
            (float("-inf"), tf.float32, [-np.inf]),
            (2.0**64, tf.float32, [2.0**64]),
            (7, tf.int64, [7]),
            ([2**63 - 1, -(2**63), True, False], tf.int64, [2**63 - 1, -(2**63), 1, 0]),
            (True, tf.int64, [1]),
            ([], tf.int64, []),
            ([], tf.string, []),
        ],
    )
    def test_kinds(self, value: Any, dtype: Any, expected: list[Any]) -> None:
        assert parsed({"examples": [{"x": value}, {}]}, "x", dtype) == [expected, []]

    def test_not_a_number(self) -> None:
        (row,) = parsed({"examples": [{"x": [float("nan"), 1.0]}]}, "x", tf.float32)
        assert np.isnan(row[0])
        assert row[1] == 1

    def test_the_context_is_in_every_example_and_an_example_may_say_otherwise(self) -> None:
        payload = {"context": {"c": "all", "x": 1}, "examples": [{"x": 2}, {"y": 3}]}
        assert parsed(payload, "c", tf.string) == [[b"all"], [b"all"]]
        assert parsed(payload, "x", tf.int64) == [[2], [1]]

    def test_serialized_examples_are_taken(self) -> None:
        feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[5]))
        example = tf.train.Example(features=tf.train.Features(feature={"x": feature}))
        payload = {"context": example.SerializeToString(), "examples": [{"y": 1}, b""]}
        assert parsed(payload, "x", tf.int64) == [[5], [5]]

    @pytest.mark.parametrize(
        ("payload", "words"),
        [
            ({}, "key 'examples' is expected and was not found"),
            ({"examples": None}, "Expecting 'examples' value to be an list/array, got Null"),
            ({"examples": {}}, "Expecting 'examples' value to be an list/array, got Object"),
            ({"examples": []}, "'examples' value is an empty array"),
            ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
            ({"examples": [{}, []]}, "Example must be JSON object but got JSON Array"),
            ({"examples": [{}], "context": 1}, "Example must be JSON object but got JSON Number"),
            ({"examples": [{"a": None}]}, "Feature: a has element with unexpected JSON type: Null"),
            ({"examples": [{"a": [1, None]}]}, "Feature: a has element with unexpected JSON type: Null"),
            ({"examples": [{"a": [[1]]}]}, "Feature: a has element with unexpected JSON type: Array"),
            ({"examples": [{"a": {"b": 1}}]}, "Feature: a has element with unexpected JSON type: Object"),
            ({"examples": [{"a": {"b64": 1}}]}, "Feature: a has element with unexpected JSON type: Object"),
            ({"examples": [{"a": {"b64": "_"}}]}, "Unable to base64 decode"),
            ({"examples": [{"a": [10, 10.0]}]}, "element type in feature: a expecting type: int64"),
            ({"examples": [{"a": [10.0, 10]}]}, "element type in feature: a expecting type: float"),
            ({"examples": [{"a": ["x", 1]}]}, "element type in feature: a expecting type: bytes"),
            ({"examples": [{"a": [True, 1.5]}]}, "element type in feature: a expecting type: int64"),
            ({"examples": [{"a": 2**63}]}, "Feature: a has uint64 element. Only int64 is supported."),
            ({"examples": [{"\udcff": 1}]}, "is not named in UTF-8"),
        ],
    )
    def test_refused(self, payload: Any, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            examples_from_request(payload, "classify")
        assert words in str(caught.value)

    def test_a_long_value_is_cut_in_a_message(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            examples_from_request({"examples": [{"a" * 5000: [1, "x" * 5000]}]}, "classify")
        assert len(str(caught.value)) < 700


# -- whole requests


def _method(signature: Any, name: str) -> Any:
    signature.method_name = f"tensorflow/serving/{name}"
    return signature


@pytest.fixture(scope="session")
def estimator_export(exports: Path) -> Path:
    """What a TensorFlow 1 estimator exports: reference variables, examples in, a signature that lies."""

    def build() -> dict[str, Any]:
        serialized = tf1.placeholder(tf.string, [None], "serialized")
        features = {
            "x": tf1.FixedLenFeature([2], tf.float32),
            "name": tf1.FixedLenFeature([], tf.string, default_value="?"),
        }
        found = tf1.parse_example(serialized, features)
        weights = tf1.get_variable("weights", initializer=[[1.0, -1.0], [0.5, 2.0]], use_resource=False)
        scores = tf1.nn.softmax(found["x"] @ weights)
        names = tf1.stack([found["name"], found["name"] + "!"], axis=1)
        total = tf1.reduce_sum(scores * [[1.0, 10.0]], axis=1)
        inputs = {"inputs": serialized}
        lying = _method(tf1_signature(inputs, {"outputs": total}), "regress")
        lying.inputs["inputs"].dtype = tf.float32.as_datatype_enum
        return {
            "serving_default": _method(
                tf1_signature(inputs, {"classes": names, "scores": scores}), "classify"
            ),
            "classes": tf1_signature(inputs, {"classes": names}),
            "scores": tf1_signature(inputs, {"scores": scores}),
            "scores_and_more": tf1_signature(inputs, {"scores": scores, "more": total}),
            "regress": _method(tf1_signature(inputs, {"outputs": total}), "regress"),
            "column": tf1_signature(inputs, {"outputs": total[:, None]}),
            "lying": lying,
            "predict": tf1_signature(inputs, {"total": total}),
            "three": tf1_signature(inputs, {"classes": names, "scores": scores, "total": total}),
            "flat": tf1_signature(inputs, {"scores": total}),
            "flat_classes": tf1_signature(inputs, {"classes": found["name"]}),
            "half": tf1_signature(inputs, {"scores": tf1.cast(scores, tf.float64)}),
            "numbers": tf1_signature(inputs, {"classes": scores}),
            "first": tf1_signature(inputs, {"scores": scores[:1]}),
            "uneven": tf1_signature(inputs, {"classes": names[:, :1], "scores": scores}),
            "renamed": tf1_signature({"x": serialized}, {"scores": scores, "outputs": total}),
            "renamed_regress": tf1_signature({"x": serialized}, {"outputs": total}),
            "two_inputs": tf1_signature({"inputs": serialized, "x": found["x"]}, {"outputs": total}),
            "wide": tf1_signature(inputs, {"outputs": scores}),
            "integers": tf1_signature(inputs, {"outputs": tf1.cast(total, tf.int32)}),
            "one": tf1_signature(inputs, {"outputs": total[:1]}),
            "scalar": tf1_signature(inputs, {"outputs": total[0]}),
        }

    return tf1_export(exports / "estimator", build)


EXAMPLES = [
    {"x": [0.5, -1.5], "name": "a"},
    {"x": [2.0, float("inf")]},
    {"x": [1e-3, 3.25], "name": b64(b"\xff")},
]


def serialized() -> list[bytes]:
    """``EXAMPLES`` as TensorFlow writes them."""
    rows = [(EXAMPLES[0]["x"], b"a"), (EXAMPLES[1]["x"], None), (EXAMPLES[2]["x"], b"\xff")]
    examples = []
    for x, name in rows:
        feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=x))}
        if name is not None:
            feature["name"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name]))
        examples.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return examples


@pytest.fixture(scope="session")
def original(estimator_export: Path) -> Callable[..., dict[str, np.ndarray]]:
    """What TensorFlow's own session answers to ``EXAMPLES``."""

    def run(name: str) -> dict[str, np.ndarray]:
        with tf.Graph().as_default(), tf1.Session() as session:
            meta_graph = tf1.saved_model.loader.load(session, ["serve"], str(estimator_export))
            outputs = meta_graph.signature_def[name].outputs
            fetches = {key: info.name for key, info in outputs.items()}
            return session.run(fetches, {"serialized:0": serialized()})

    return run


Answer = Callable[..., Any]


@pytest.fixture
def post(load: Any, estimator_export: Path) -> Answer:
    """Put a body through codec and model: the answer's body, decoded."""
    model = load(estimator_export)

    def post(verb: str, **body: Any) -> Any:
        payload = decode_request(json.dumps(body).encode(), "")
        answer = asyncio.run(
            model(payload, {"classify": ModelType.CLASSIFIER, "regress": ModelType.REGRESSOR}[verb])
        )
        return json.loads(encode_response(answer)[0].decode("utf-8", "surrogateescape"))

    return post


def as_float32(rows: Any) -> Any:
    return [[[label, np.float32(score)] for label, score in row] for row in rows]


class TestClassify:
    def test_classes_and_scores(self, post: Answer, original: Any) -> None:
        own = original("serving_default")
        labels = [[name.decode("utf-8", "surrogateescape") for name in row] for row in own["classes"]]
        expected = [
            [[label, score] for label, score in zip(*row, strict=True)]
            for row in zip(labels, own["scores"], strict=True)
        ]
        got = post("classify", examples=EXAMPLES)
        assert list(got) == ["results"]
        np.testing.assert_equal(as_float32(got["results"]), expected)
        assert [row[0][0] for row in got["results"]] == ["a", "?", "\udcff"]

    @pytest.mark.parametrize("name", ["scores", "scores_and_more"])
    def test_scores_alone(self, post: Answer, original: Any, name: str) -> None:
        expected = [[["", score] for score in row] for row in original(name)["scores"]]
        got = post("classify", examples=EXAMPLES, signature_name=name)
        np.testing.assert_equal(as_float32(got["results"]), expected)

    def test_classes_alone(self, post: Answer) -> None:
        got = post("classify", examples=EXAMPLES[:1], signature_name="classes")
        assert got == {"results": [[["a", 0.0], ["a!", 0.0]]]}

    def test_the_context(self, post: Answer) -> None:
        got = post("classify", examples=[{"x": [1.0, 2.0]}], context={"name": "c"}, signature_name="classes")
        assert got == {"results": [[["c", 0.0], ["c!", 0.0]]]}

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nobody", "No signature was found with the name: nobody"),
            (5, "'signature_name' key must be a string value"),
            ("predict", 'outputs to contain at least one of "classes" or "scores"'),
            ("three", "Expected one or two output Tensors, found 3"),
            ("renamed", "No classification inputs found in SignatureDef"),
            ("two_inputs", "Expected one input Tensor"),
            ("flat", "Expected Tensor shape: [batch_size num_classes] but got [3]"),
            ("flat_classes", "Expected Tensor shape: [batch_size num_classes] but got [3]"),
            ("half", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
            ("numbers", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
            ("first", "Expected scores output batch size of 3. Got: 1"),
            ("uneven", "Tensors class and score should match in dim_size(1). Got 1 vs. 2"),
        ],
    )
    def test_refused(self, post: Answer, name: Any, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            post("classify", examples=EXAMPLES, signature_name=name)
        assert words in str(caught.value)


class TestRegress:
    @pytest.mark.parametrize("name", ["regress", "column", "lying"])
    def test_a_number_for_each(self, post: Answer, original: Any, name: str) -> None:
        got = post("regress", examples=EXAMPLES, signature_name=name)
        assert list(got) == ["results"]
        expected = original("regress")["outputs"]
        assert np.isnan(expected[1])
        np.testing.assert_array_equal(np.array(got["results"], np.float32), expected)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nobody", "No signature was found with the name: nobody"),
            ("serving_default", "Expected one output Tensor, found 2"),
            ("predict", "No regression outputs found in SignatureDef"),
            ("renamed_regress", "No regression inputs found in SignatureDef"),
            ("two_inputs", "Expected one input Tensor"),
            ("wide", "to be either [batch_size] or [batch_size, 1] but got [3,2]"),
            ("scalar", "to be either [batch_size] or [batch_size, 1] but got []"),
            ("integers", "Expected output Tensor of DT_FLOAT. Got: DT_INT32"),
            ("one", "Input batch size did not match output batch size: 3 vs. 1"),
        ],
    )
    def test_refused(self, post: Answer, name: str, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            post("regress", examples=EXAMPLES, signature_name=name)
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        ("example", "words"),
        [
            ({"x": [1, 2]}, "Data types don't match. Data type: int64 but expected type: float"),
            ({"x": [1.0]}, "Number of float values != expected.  Values size: 1 but output shape: [2]"),
            ({}, "Feature: x (data type: float) is required but could not be found"),
        ],
    )
    def test_the_graph_complains(self, post: Answer, example: Any, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            post("regress", examples=[example], signature_name="regress")
        assert words in str(caught.value)


def test_method_names_count_where_that_is_asked_for(load: Any, estimator_export: Path) -> None:
    model = load(estimator_export, options=Options(checks_method_names=True))
    payload = {"examples": EXAMPLES[:1]}
    assert model.classify(payload)["results"]
    assert len(model.regress({**payload, "signature_name": "regress"})["results"]) == 1
    for call, name, word in ((model.classify, "scores", "classif"), (model.regress, "column", "regress")):
        with pytest.raises(InvalidInput, match=rf"{word}\w+ signature method_name to be .*Was: .*/predict$"):
            call({**payload, "signature_name": name})


def test_a_tf2_export_classifies(load: Any, tmp_path: Path) -> None:
    """Its method is always predict."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs: Any) -> Any:
        found = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([3], tf.float32)})
        return {"scores": tf.nn.softmax(found["x"])}

    module.classify = classify
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": classify})
    (row,) = load(tmp_path).classify({"examples": [{"x": [0.0, 1.0, 2.0]}]})["results"]
    np.testing.assert_array_equal([score for _, score in row], tf.nn.softmax([[0.0, 1.0, 2.0]])[0])
