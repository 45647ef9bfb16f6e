"""What ``/metadata`` shows of a SavedModel, against TensorFlow's own protocol buffers."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tf_exports import tf1_export, tf1_signature

from tfserver.metadata import definition_as_json
from tfserver.model import TensorFlowModel

tf1 = tf.compat.v1


def exported(folder: Path) -> Any:
    """The signatures in the file."""
    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0].signature_def


def test_all_that_is_in_the_file_is_shown(load: Any, functions_export: Path) -> None:
    shown, own = load(functions_export).signature_definitions(), exported(functions_export)
    assert shown.keys() == own.keys()
    for name, definition in shown.items():
        parsed = json_format.ParseDict(definition, meta_graph_pb2.SignatureDef())
        assert parsed == own[name]


def test_the_init_op_of_a_tf2_export_is_listed(load: Any, tmp_path: Path) -> None:
    module = tf.Module()
    keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
    module.table = tf.lookup.StaticHashTable(keys, -1)
    module.serve = tf.function(
        lambda x: {"y": module.table.lookup(x)}, input_signature=[tf.TensorSpec([None], tf.string, "x")]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    model = load(tmp_path)
    assert model.predict({"instances": ["b", "c"]})["predictions"].tolist() == [2, -1]
    assert model.signature_definitions()["__saved_model_init_op"] == {
        "inputs": {},
        "outputs": {
            "__saved_model_init_op": {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [], "unknown_rank": True},
                "name": exported(tmp_path)["__saved_model_init_op"].outputs["__saved_model_init_op"].name,
            }
        },
        "method_name": "",
        "defaults": {},
    }


def test_shapes_and_names(load: Any, exports: Path) -> None:
    """Section 3: sizes are strings, a scalar has no ``dim``, a shape that was not recorded is not shown."""

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, [None, 2], "x")
        signature = tf1_signature({"x": x}, {"y": x * 2.0, "sum": tf1.reduce_sum(x), "any": x + 1.0})
        signature.inputs["x"].tensor_shape.dim[1].name = "width"
        signature.outputs["y"].ClearField("tensor_shape")
        signature.outputs["any"].tensor_shape.Clear()
        signature.outputs["any"].tensor_shape.unknown_rank = True
        signature.outputs["y"].name, signature.outputs["any"].name = "mul:0", "add:0"
        return {"serving_default": signature}

    model = load(tf1_export(exports / "shapes", build))
    definition = model.signature_definitions()["serving_default"]
    sizes = [{"size": "-1", "name": ""}, {"size": "2", "name": "width"}]
    assert definition["inputs"] == {
        "x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": "x:0"}
    }
    outputs = definition["outputs"]
    assert "tensor_shape" not in outputs["y"]
    assert outputs["any"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert outputs["sum"]["tensor_shape"] == {"dim": [], "unknown_rank": False}
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["defaults"] == {}


def test_defaults_are_shown() -> None:
    definition = meta_graph_pb2.SignatureDef(defaults={"x": tf.make_tensor_proto([1.5])})
    shown = definition_as_json(definition)
    assert shown["defaults"]["x"]["dtype"] == "DT_FLOAT"
    assert shown["defaults"]["x"]["float_val"] == [1.5]


def test_a_signature_that_cannot_be_served_is_listed(load: Any, tf1_functions: Path) -> None:
    model = load(tf1_functions)
    assert "twice" not in model._served.saved_model.signatures
    assert model.signature_definitions().keys() == exported(tf1_functions).keys()


@pytest.mark.parametrize("when", ["before load", "after stop"])
def test_there_is_none_when_it_is_not_loaded(load: Any, half_plus_two: Path, when: str) -> None:
    model = load(half_plus_two) if when == "after stop" else TensorFlowModel("m", half_plus_two)
    model.stop()
    assert model.signature_definitions() == {}
