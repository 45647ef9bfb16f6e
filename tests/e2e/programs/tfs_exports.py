"""Writes two versions of a SavedModel with many signatures into a folder: `main/1`, `main/2`."""

import sys
from pathlib import Path

import tensorflow as tf

DTYPES = [
    *(tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int8, tf.int16, tf.int32, tf.int64),
    *(tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.bool, tf.complex64, tf.complex128, tf.string),
]


def function(body, **specs):
    return tf.function(body, input_signature=[tf.TensorSpec(None, d, n) for n, d in specs.items()])


def features(inputs):
    return tf.io.parse_example(
        inputs,
        {
            "x": tf.io.FixedLenFeature([], tf.float32),
            "name": tf.io.FixedLenFeature([], tf.string, "nobody"),
        },
    )


def classify(inputs):
    found = features(inputs)
    x = found["x"]
    classes = tf.stack([found["name"], tf.fill(tf.shape(x), "other")], axis=1)
    return {"classes": classes, "scores": tf.stack([x, 1 - x], axis=1)}


def signatures(number):
    made = {
        "serving_default": function(lambda x: {"y": x * 0.5 + number}, x=tf.float32),
        "stats": function(lambda x: {"sum": tf.reduce_sum(x, 1), "mean": tf.reduce_mean(x, 1)}, x=tf.float32),
        "join": function(
            lambda a, b: {"text": tf.strings.join([a, tf.strings.as_string(b)])}, a=tf.string, b=tf.int64
        ),
        "matmul": function(lambda a, b: {"y": tf.matmul(a, b)}, a=tf.float32, b=tf.float32),
        "classify_x": function(classify, inputs=tf.string),
        "regress_x": function(
            lambda inputs: {"outputs": features(inputs)["x"] * 2 * number}, inputs=tf.string
        ),
    }
    return made | {dtype.name: function(lambda x: {"same": tf.identity(x)}, x=dtype) for dtype in DTYPES}


def main(folder):
    for version in (1, 2):
        module = tf.Module()
        module.number = tf.Variable(float(version))
        module.functions = signatures(module.number)
        concrete = {name: each.get_concrete_function() for name, each in module.functions.items()}
        tf.saved_model.save(module, str(Path(folder) / "main" / str(version)), concrete)


main(sys.argv[1])
