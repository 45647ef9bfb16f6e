"""SavedModels as TensorFlow 1 programs export them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

tf1 = tf.compat.v1


def _info(tensor: Any) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.TensorInfo(
        name=tensor.name,
        dtype=tensor.dtype.base_dtype.as_datatype_enum,
        tensor_shape=tensor.shape.as_proto(),
    )


def tf1_signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """A signature as a TensorFlow 1 program records it: keys to tensors, not wrapped in a function."""
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.SignatureDef(
        inputs={key: _info(tensor) for key, tensor in inputs.items()},
        outputs={key: _info(tensor) for key, tensor in outputs.items()},
        method_name="tensorflow/serving/predict",
    )


def tf1_export(
    folder: Path, build: Callable[[], dict[str, Any]], tag_sets: tuple[tuple[str, ...], ...] = (("serve",),)
) -> Path:
    """Export what ``build`` makes in a TensorFlow 1 graph: its signatures by name."""
    with tf.Graph().as_default(), tf1.Session() as session:
        signatures = build()
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.builder.SavedModelBuilder(str(folder))
        builder.add_meta_graph_and_variables(session, list(tag_sets[0]), signature_def_map=signatures)
        for tags in tag_sets[1:]:
            builder.add_meta_graph(list(tags), signature_def_map=signatures)
        builder.save()
    return folder
