"""Requests of named arrays, as gRPC's are: against TensorFlow's own answers."""

import asyncio
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tf_exports import tf1_export, tf1_signature

from modelserver import InvalidInput, ModelNotReady, ModelServerError, TensorRequest, TensorResponse
from modelserver.protocols.tfs_json import encode_response

tf1 = tf.compat.v1

DTYPES: list[tuple[Any, Any]] = [
    (tf.float16, np.array([1.5, -0.0], np.float16)),
    (tf.bfloat16, np.array([1.5, 3e38], ml_dtypes.bfloat16)),
    (tf.float32, np.array([0.1, np.nan], np.float32)),
    (tf.float64, np.array([[0.1], [np.inf]])),
    (tf.int8, np.array([-128, 127], np.int8)),
    (tf.int16, np.array([-(2**15)], np.int16)),
    (tf.int32, np.array(2**31 - 1, np.int32)),
    (tf.int64, np.array([-(2**63), 2**63 - 1])),
    (tf.uint8, np.array([255], np.uint8)),
    (tf.uint16, np.array([65535], np.uint16)),
    (tf.uint32, np.array([2**32 - 1], np.uint32)),
    (tf.uint64, np.array([2**64 - 1], np.uint64)),
    (tf.bool, np.array([True, False])),
    (tf.complex64, np.array([1 + 2j], np.complex64)),
    (tf.complex128, np.array([1 + 2j])),
    (tf.string, np.array([[b"a\0", b"\xff", b""]], object)),
    (tf.string, np.array(b"x", object)),
]


@pytest.fixture(scope="session")
def echoes(exports: Path) -> Path:
    """A signature for each dtype that gives back what it gets, and twice of it."""
    signatures = {}
    for dtype in {dtype for dtype, _ in DTYPES}:
        echo = tf.function(lambda x: {"y": tf.identity(x), "twice": tf.stack([x, x])})
        signatures[dtype.name] = echo.get_concrete_function(tf.TensorSpec(None, dtype, "x"))
    folder = exports / "echoes"
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    return folder


def call(model: Any, name: str = "", outputs: tuple[str, ...] = (), **inputs: Any) -> TensorResponse:
    answer = asyncio.run(model(TensorRequest(inputs, name, outputs)))
    assert isinstance(answer, TensorResponse)
    return answer


@pytest.mark.parametrize(("dtype", "array"), DTYPES)
def test_every_dtype(load: Any, echoes: Path, dtype: Any, array: np.ndarray) -> None:
    """Also those that JSON has no form for."""
    answer = call(load(echoes), dtype.name, x=array)
    assert answer.signature_name == dtype.name
    assert answer.outputs.keys() == {"y", "twice"}
    own = tf.stack([tf.constant(array, dtype)] * 2).numpy()
    for got, expected in ((answer.outputs["y"], array), (answer.outputs["twice"], own)):
        assert isinstance(got, np.ndarray)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        if dtype == tf.string:
            assert got.tolist() == expected.tolist()
        else:
            assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "uint16", "complex64", "complex128"])
def test_no_values_of_a_dtype_without_json_form(load: Any, echoes: Path, name: str) -> None:
    """TensorFlow Serving refuses values, and there are none."""
    answer = asyncio.run(load(echoes)({"signature_name": name, "inputs": []}))
    assert encode_response(answer)[0] == b'{"outputs":{"twice":[[],[]],"y":[]}}'


def test_bytes_in_another_order(load: Any, echoes: Path) -> None:
    assert call(load(echoes), "int32", x=np.array([1, 2], ">i4")).outputs["y"].tolist() == [1, 2]


def test_the_default_signature_is_named(load: Any, keras_export: Path, keras_model: Any) -> None:
    rows = np.array([[6.8, 2.8, 4.8, 1.4]], np.float32)
    answer = call(load(keras_export), features=rows)
    assert answer.signature_name == "serving_default"
    (value,) = answer.outputs.values()
    np.testing.assert_allclose(value, keras_model(rows).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("float32", np.ones(2), "Type mismatch: actual double vs. expect float"),
        ("float32", np.array([1]), "Type mismatch: actual int64 vs. expect float"),
        ("int64", np.array([1], np.int32), "Type mismatch: actual int32 vs. expect int64"),
        ("string", np.array([1.0]), "Type mismatch: actual double vs. expect string"),
        ("bfloat16", np.array([1], np.float32), "Type mismatch: actual float vs. expect bfloat16"),
    ],
)
def test_another_dtype_is_refused(load: Any, echoes: Path, name: str, array: Any, words: str) -> None:
    """Strictly: arrays have a dtype, JSON numbers do not."""
    with pytest.raises(InvalidInput) as caught:
        call(load(echoes), name, x=array)
    assert words in str(caught.value)


def test_a_shape_is_the_graphs_to_judge(load: Any, half_plus_two: Path) -> None:
    model = load(half_plus_two)
    assert call(model, x=np.float32(4)).outputs["y"] == 4
    assert call(model, x=np.ones((2, 3), np.float32)).outputs["y"].tolist() == [[2.5] * 3] * 2


class TestOutputs:
    def test_some(self, load: Any, tf1_functions: Path) -> None:
        model = load(tf1_functions)
        arrays = {"a": np.array([[3, 4]], np.float32), "b": np.array([[1, 1]], np.float32)}
        assert call(model, **arrays).outputs.keys() == {"sum", "difference"}
        for _ in range(2):
            answer = call(model, outputs=("sum",), **arrays)
            assert {name: value.tolist() for name, value in answer.outputs.items()} == {"sum": [[4, 5]]}
        both = call(model, outputs=("sum", "difference"), **arrays).outputs
        assert [both["sum"].tolist(), both["difference"].tolist()] == [[[4, 5]], [[2, 3]]]

    def test_one_that_is_an_input(self, load: Any, tf1_functions: Path) -> None:
        answer = call(load(tf1_functions), "same", ("a",), a=np.array([[1, 2]], np.float32))
        assert answer.outputs["a"].tolist() == [[1, 2]]

    def test_what_only_the_others_need_is_not_computed(self, load: Any, exports: Path) -> None:
        def build() -> dict[str, Any]:
            x = tf1.placeholder(tf.int32, [None], "x")
            return {"serving_default": tf1_signature({"x": x}, {"same": x + 0, "share": 100 // x})}

        model = load(tf1_export(exports / "shares", build))
        zero = np.array([0], np.int32)
        assert call(model, outputs=("same",), x=zero).outputs["same"].tolist() == [0]
        with pytest.raises(InvalidInput, match="Integer division by zero"):
            call(model, x=zero)

    def test_many_choices_are_not_kept_for_ever(self, load: Any, exports: Path) -> None:
        def build() -> dict[str, Any]:
            x = tf1.placeholder(tf.float32, [None], "x")
            return {"serving_default": tf1_signature({"x": x}, {f"y{n}": x + float(n) for n in range(60)})}

        model = load(tf1_export(exports / "choices", build))
        for n in (*range(60), *range(60)):
            assert call(model, outputs=(f"y{n}",), x=np.zeros(1, np.float32)).outputs[f"y{n}"] == n
        assert len(model._served.saved_model._of_some_outputs) <= 32

    @pytest.mark.parametrize(
        ("outputs", "words"),
        [
            (("nobody",), "output tensor alias not found in signature: nobody Outputs expected to be in the "
                          "set {difference,sum}."),
            (("sum", "sum"), "duplicate output tensor alias: sum"),
        ],
    )  # fmt: skip
    def test_refused(self, load: Any, tf1_functions: Path, outputs: tuple[str, ...], words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            call(load(tf1_functions), outputs=outputs, a=np.ones((1, 2)), b=np.ones((1, 2)))
        assert words in str(caught.value)


class TestInputs:
    @pytest.mark.parametrize(
        ("inputs", "words"),
        [
            ({}, "input size does not match signature: 0!=2 len({}) != len({a,b}). Sent extra: {}. Missing "
                 "but required: {a,b}."),
            ({"a": 1, "c": 1}, "2!=2 len({a,c}) != len({a,b}). Sent extra: {c}. Missing but required: {b}."),
            ({"a": 1, "b": 1, "c": 1}, "Sent extra: {c}. Missing but required: {}."),
        ],
    )  # fmt: skip
    def test_refused(self, load: Any, tf1_functions: Path, inputs: Any, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            call(load(tf1_functions), **inputs)
        assert words in str(caught.value)

    def test_a_signature_without_inputs(self, load: Any, tf1_functions: Path) -> None:
        """REST cannot call it."""
        assert call(load(tf1_functions), "constant").outputs["y"].tolist() == [1]

    def test_an_unknown_signature(self, load: Any, tf1_functions: Path) -> None:
        with pytest.raises(InvalidInput, match=r'^Serving signature key "nobody" not found'):
            call(load(tf1_functions), "nobody")

    def test_a_signature_that_lies_is_fed_what_the_graph_takes(self, load: Any, tf1_functions: Path) -> None:
        answer = call(load(tf1_functions), "lying", x=np.array([b"four"], object))
        assert answer.outputs["length"].tolist() == [4]

    def test_defaults(self, load: Any, exports: Path) -> None:
        def build() -> dict[str, Any]:
            a, b = (tf1.placeholder(tf.float32, [None], name) for name in "ab")
            signature = tf1_signature({"a": a, "b": b}, {"sum": a + b})
            signature.defaults["b"].CopyFrom(tf.make_tensor_proto([10.0]))
            return {"serving_default": signature}

        folder = tf1_export(exports / "defaults", build)
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        assert saved.meta_graphs[0].signature_def["serving_default"].defaults
        model = load(folder)
        one = np.array([1], np.float32)
        assert call(model, a=one).outputs["sum"].tolist() == [11]
        assert call(model, a=one, b=one).outputs["sum"].tolist() == [2]
        with pytest.raises(InvalidInput, match=r"Missing but required: \{a\}"):
            call(model, b=one)
        with pytest.raises(InvalidInput, match="Missing named input: b"):  # REST asks for every input
            asyncio.run(model({"inputs": {"a": [1.0]}}))


def test_a_model_that_is_unloaded(load: Any, tf1_functions: Path) -> None:
    """A run that comes too late is 503, and so is one for outputs that nobody has asked for before."""
    model = load(tf1_functions)
    saved_model = model._served.saved_model
    signature = saved_model.signatures["serving_default"]
    feeds = [np.ones((1, 2), np.float32)] * 2
    saved_model.run(signature, feeds)
    model.stop()
    with pytest.raises(ModelNotReady):
        call(model)
    for wanted in ((), ("sum",)):
        with pytest.raises(ModelServerError, match=r"The model is being unloaded\.") as caught:
            saved_model.run(signature, feeds, wanted)
        assert caught.value.status == 503
