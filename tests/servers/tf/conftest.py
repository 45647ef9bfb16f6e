"""Real SavedModels, built by TensorFlow once per test run, and the originals to compare with.

TensorFlow 2 (eager) builds and answers here while the models under test serve from sessions of their own in
the same process: that both live side by side is part of what is tested.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_exports import tf1_export, tf1_signature

from modelserver import Model

tf1 = tf.compat.v1


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder all SavedModels of the run are built in."""
    return tmp_path_factory.mktemp("saved_models")


@pytest.fixture
def ask() -> Callable[[Model, dict[str, Any]], Any]:
    """Put one request through all hooks of a model, as the server does."""
    return lambda model, body: asyncio.run(model(body))


@pytest.fixture
def load() -> Iterator[Callable[..., Any]]:
    """Load a folder; the session is closed after the test."""
    from tfserver.model import TensorFlowModel

    models = []

    def load(folder: Path, **options: Any) -> Any:
        model = TensorFlowModel("test", folder, **options)
        models.append(model)
        assert model.load() is True
        return model

    yield load
    for model in models:
        model.stop()


# -- TensorFlow 2


@pytest.fixture(scope="session")
def keras_model() -> Any:
    """A 4-10-10-3 network with seeded weights, as for iris."""
    import keras

    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            keras.layers.Dense(10, "relu"),
            keras.layers.Dense(10, "relu"),
            keras.layers.Dense(3, "softmax", name="species"),
        ]
    )


@pytest.fixture(scope="session")
def keras_export(keras_model: Any, exports: Path) -> Path:
    folder = exports / "keras"
    keras_model.export(folder / "0001", verbose=False)
    return folder


def _spec(dtype: Any, *shape: int | None, name: str = "x") -> Any:
    return tf.TensorSpec(shape, dtype, name)


ECHOED = (
    "float32",
    "float64",
    "int8",
    "int16",
    "uint8",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "bool",
    "string",
)
"""dtypes that have an ``echo_DTYPE`` signature: what goes in comes out."""


class Functions(tf.Module):
    """One signature per thing to show."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.random.stateless_normal([4, 3], seed=[1, 2]))
        self.calls = tf.Variable(0, dtype=tf.int64)

    def signatures(self) -> dict[str, Any]:
        named = (
            "matmul",
            "add",
            "join",
            "summary",
            "uneven",
            "divide",
            "read",
            "count",
            "halve",
            "from_half",
        )
        signatures = {name: getattr(self, name) for name in named}
        signatures["serving_default"] = signatures["matmul"]
        for dtype in ECHOED:
            echo = tf.function(lambda x: {"y": tf.identity(x)})
            signatures[f"echo_{dtype}"] = echo.get_concrete_function(
                tf.TensorSpec(None, tf.as_dtype(dtype), "x")
            )
        return signatures

    @tf.function(input_signature=[_spec(tf.float32, None, 4)])
    def matmul(self, x: Any) -> Any:
        return {"logits": x @ self.weights}

    @tf.function(input_signature=[_spec(tf.float32, None, name="a"), _spec(tf.int32, None, name="b")])
    def add(self, a: Any, b: Any) -> Any:
        return {"sum": a + tf.cast(b, tf.float32), "product": tf.cast(a, tf.int32) * b}

    @tf.function(input_signature=[_spec(tf.string, None, name="left"), _spec(tf.string, None, name="right")])
    def join(self, left: Any, right: Any) -> Any:
        joined = tf.strings.join([left, right])
        return {"text": joined, "raw_bytes": joined}

    @tf.function(input_signature=[_spec(tf.float32, None)])
    def summary(self, x: Any) -> Any:
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[_spec(tf.float32, None)])
    def uneven(self, x: Any) -> Any:
        return {"all": x, "first": x[:1]}

    @tf.function(input_signature=[_spec(tf.int32, None)])
    def divide(self, x: Any) -> Any:
        return {"y": 100 // x}

    @tf.function(input_signature=[_spec(tf.string, None)])
    def read(self, x: Any) -> Any:
        return {"y": tf.io.read_file(x[0])[tf.newaxis]}

    @tf.function(input_signature=[_spec(tf.int64, None)])
    def count(self, x: Any) -> Any:
        return {"y": x + self.calls.assign_add(1)}

    @tf.function(input_signature=[_spec(tf.float32, None)])
    def halve(self, x: Any) -> Any:
        return {"y": tf.cast(x, tf.float16)}

    @tf.function(input_signature=[_spec(tf.float16, None)])
    def from_half(self, x: Any) -> Any:
        return {"y": tf.cast(x, tf.float32)}


@pytest.fixture(scope="session")
def functions() -> Functions:
    return Functions()


@pytest.fixture(scope="session")
def functions_export(functions: Functions, exports: Path) -> Path:
    folder = exports / "functions"
    tf.saved_model.save(functions, str(folder), signatures=functions.signatures())
    return folder


@pytest.fixture(scope="session")
def unsigned_export(exports: Path) -> Path:
    """A module saved without signatures."""
    folder = exports / "unsigned"
    module = tf.Module()
    module.weights = tf.Variable(1.0)
    tf.saved_model.save(module, str(folder))
    return folder


@pytest.fixture(scope="session")
def counter_export(exports: Path) -> Path:
    """One signature, not called serving_default, that changes a variable."""
    folder = exports / "counter"
    module = Functions()
    tf.saved_model.save(module, str(folder), signatures={"count": module.count})
    return folder


# -- TensorFlow 1


def half_plus(addend: float) -> Callable[[], dict[str, Any]]:
    """TensorFlow Serving's test model: y = x / 2 + addend, with [-1, 1] in the signature."""

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, [None, 1], "x")
        half = tf1.get_variable("half", initializer=0.5, use_resource=True)
        return {"serving_default": tf1_signature({"x": x}, {"y": x * half + addend})}

    return build


@pytest.fixture(scope="session")
def half_plus_two(exports: Path) -> Path:
    return tf1_export(exports / "half_plus_two", half_plus(2.0))


@pytest.fixture(scope="session")
def versions(half_plus_two: Path, exports: Path) -> Path:
    """``0001`` adds two, ``2`` adds three."""
    folder = exports / "versions"
    shutil.copytree(half_plus_two, folder / "0001")
    tf1_export(folder / "2", half_plus(3.0))
    return folder


@pytest.fixture(scope="session")
def tf1_functions(exports: Path) -> Path:
    """Several inputs and outputs, an output that is an input, an input given twice, one that lies."""

    def build() -> dict[str, Any]:
        a = tf1.placeholder(tf.float32, [None, 2], "a")
        b = tf1.placeholder(tf.float32, [None, 2], "b")
        text = tf1.placeholder(tf.string, [None], "text")
        lying = tf1_signature({"x": text}, {"length": tf.strings.length(text)})
        lying.inputs["x"].dtype = tf.float32.as_datatype_enum
        return {
            "serving_default": tf1_signature({"a": a, "b": b}, {"sum": a + b, "difference": a - b}),
            "same": tf1_signature({"a": a}, {"a": a, "again": a, "double": a * 2.0}),
            "twice": tf1_signature({"a": a, "too": a}, {"double": a * 2.0}),
            "lying": lying,
            "constant": tf1_signature({}, {"y": tf.constant([1.0])}),
        }

    return tf1_export(exports / "tf1_functions", build)


@pytest.fixture(scope="session")
def reference_counter(exports: Path) -> Path:
    """Reference variables, as TensorFlow 1 made them: ``tf.saved_model.load`` refuses them."""

    def build() -> dict[str, Any]:
        step = tf1.placeholder(tf.float32, [None], "step")
        counter = tf1.get_variable("counter", initializer=[0.0], use_resource=False)
        counted = tf1.assign_add(counter, tf.reduce_sum(step, keepdims=True))
        return {"serving_default": tf1_signature({"step": step}, {"value": counted})}

    return tf1_export(exports / "reference_counter", build)


@pytest.fixture(scope="session")
def tagged(exports: Path) -> Path:
    """Two graphs, tagged "train" and "gpu,serve"."""

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, [None], "x")
        y = x * tf1.get_variable("v", initializer=2.0)
        return {"serving_default": tf1_signature({"x": x}, {"y": y})}

    return tf1_export(exports / "tagged", build, tag_sets=(("train",), ("gpu", "serve")))


def as_json(value: Any) -> Any:
    """The answer as plain Python values, for comparison."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.fixture
def plain() -> Callable[[Any], Any]:
    return as_json
