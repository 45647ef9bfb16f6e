"""The Open Inference Protocol on SavedModels: bytes to a real server, answers against TensorFlow's own."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from harness import Server, serving
from tf_exports import tf1_export, tf1_signature

from modelserver import BatchingParameters, InferRequest, TensorRequest, TensorResponse
from modelserver.execution import ModelThreads
from modelserver.infer_tensors import InferInput, RequestedOutput
from modelserver.v2_inference import to_payload, to_response
from tfserver.feeds import feeds_from_request
from tfserver.options import Options
from tfserver.tensor_requests import feeds_from_arrays

tf1 = tf.compat.v1

LENGTH = "Inference-Header-Content-Length"
ECHOED: list[tuple[str, Any, np.ndarray]] = [
    ("BOOL", tf.bool, np.array([True, False])),
    ("INT8", tf.int8, np.array([-128, 127], np.int8)),
    ("INT16", tf.int16, np.array([-(2**15), 5], np.int16)),
    ("INT32", tf.int32, np.array([2**31 - 1, -(2**31)], np.int32)),
    ("INT64", tf.int64, np.array([-(2**63), 2**63 - 1])),
    ("UINT8", tf.uint8, np.array([255, 0], np.uint8)),
    ("UINT16", tf.uint16, np.array([65535, 1], np.uint16)),
    ("UINT32", tf.uint32, np.array([2**32 - 1, 1], np.uint32)),
    ("UINT64", tf.uint64, np.array([2**64 - 1, 1], np.uint64)),
    ("FP16", tf.float16, np.array([1.5, 65504], np.float16)),
    ("BF16", tf.bfloat16, np.array([1.5, -3.3, 1e38], ml_dtypes.bfloat16)),
    ("FP32", tf.float32, np.array([0.1, -3e38], np.float32)),
    ("FP64", tf.float64, np.array([0.1, 1e308])),
    ("BYTES", tf.string, np.array([b"a", "é".encode(), b""], object)),
]
DATATYPES = {dtype.as_numpy_dtype: name for name, dtype, _ in ECHOED}


class Functions(tf.Module):
    """Several inputs and outputs by default; what a picture and a graph's own refusal look like."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, "numbers"),
            tf.TensorSpec([None], tf.string, "words"),
        ]
    )
    def both(self, numbers: Any, words: Any) -> Any:
        return {
            "sums": tf.reduce_sum(numbers, 1),
            "upper": tf.strings.upper(words),
            "lengths_": tf.size(words),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "x")])
    def divide(self, x: Any) -> Any:
        return {"y": 100 // x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "picture")])
    def decode(self, picture: Any) -> Any:
        decoded = tf.map_fn(
            tf.io.decode_png, picture, fn_output_signature=tf.TensorSpec([None] * 3, tf.uint8)
        )
        return {"mean": tf.reduce_mean(tf.cast(decoded, tf.float32), [1, 2, 3])}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, "picture")])
    def decode_one(self, picture: Any) -> Any:
        return {"picture": tf.io.decode_png(picture)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def any_rank(self, x: Any) -> Any:
        return {"twice": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.bfloat16, "x")])
    def small(self, x: Any) -> Any:
        return {"y": x + tf.cast(0.5, tf.bfloat16)}


def echo(dtype: Any) -> Any:
    function = tf.function(lambda x: {"y": tf.identity(x), "twice": tf.stack([x, x])})
    return function.get_concrete_function(tf.TensorSpec(None, dtype, "x"))


@pytest.fixture(scope="session")
def module() -> Functions:
    return Functions()


@pytest.fixture(scope="session")
def v2_exports(module: Functions, exports: Path) -> dict[str, Path]:
    """A SavedModel for each default signature to show."""
    echoes = {name: echo(dtype) for name, dtype, _ in ECHOED}
    signatures = {
        "functions": {"serving_default": module.both, "divide": module.divide, **echoes},
        **{name: {"serving_default": getattr(module, name)}
           for name in ("decode", "decode_one", "any_rank", "small")},
    }  # fmt: skip
    folders = {name: exports / f"v2_{name}" for name in signatures}
    for name, folder in folders.items():
        tf.saved_model.save(module, str(folder), signatures=signatures[name])
    return folders


@pytest.fixture(scope="session")
def optional(exports: Path) -> Path:
    """``b`` is ten where it is left out."""

    def build() -> dict[str, Any]:
        a, b = (tf1.placeholder(tf.float32, [None], name) for name in "ab")
        signature = tf1_signature({"a": a, "b": b}, {"sum": a + b})
        signature.defaults["b"].CopyFrom(tf.make_tensor_proto([10.0]))
        return {"serving_default": signature}

    return tf1_export(exports / "v2_optional", build)


@pytest.fixture(scope="module")
def server(
    v2_exports: dict[str, Path],
    optional: Path,
    keras_export: Path,
    half_plus_two: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    models = v2_exports | {"optional": optional, "keras": keras_export, "half": half_plus_two}
    arguments = [f"{name}={folder}" for name, folder in models.items()]
    with serving(["-m", "modelserver", *arguments], tmp_path_factory.mktemp("v2") / "log") as server:
        yield server.wait_ready(*models)


# -- a client of a few lines, with a codec of its own


def raw(array: np.ndarray) -> bytes:
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())


def from_raw(data: bytes, shape: Sequence[int], datatype: str) -> np.ndarray:
    dtype = next(dtype for dtype, name in DATATYPES.items() if name == datatype)
    if datatype != "BYTES":
        return np.frombuffer(data, dtype).reshape(shape)
    values = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        values.append(data[4 : 4 + size])
        data = data[4 + size :]
    return np.array(values, object).reshape(shape)


def as_data(array: np.ndarray) -> list[Any]:
    values = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
    return [value.decode() if isinstance(value, bytes) else value for value in values.ravel().tolist()]


def infer(
    server: Server,
    model: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
    *,
    binary: bool = False,
    datatype: str = "",
    path: str = "",
    **parameters: Any,
) -> dict[str, Any]:
    """The outputs by name, with their datatypes checked; for an error the status and its text."""
    body: dict[str, Any] = {"inputs": [], "parameters": {"binary_data_output": binary, **parameters}}
    pieces = []
    for name, array in inputs.items():
        told = DATATYPES.get(array.dtype.type, "BYTES")
        tensor = {"name": name, "shape": list(array.shape), "datatype": datatype or told}
        if binary:
            pieces.append(raw(array))
            tensor["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            tensor["data"] = as_data(array)
        body["inputs"].append(tensor)
    if outputs:
        body["outputs"] = [{"name": name} for name in outputs]
    head = json.dumps(body).encode()
    headers = {LENGTH: str(len(head))} if binary else {}
    answer = server.request(
        "POST", f"/v2/models/{model}{path}/infer", head + b"".join(pieces), headers=headers
    )
    size = int(answer.headers.get(LENGTH, len(answer.body)))
    message, rest = json.loads(answer.body[:size]), answer.body[size:]
    if answer.status != 200:
        return {"status": answer.status, **message}
    assert message["model_name"] == model
    found = {}
    for tensor in message["outputs"]:
        shape, name = tensor["shape"], tensor["datatype"]
        if binary:
            size = tensor["parameters"]["binary_data_size"]
            found[tensor["name"]] = from_raw(rest[:size], shape, name)
            rest = rest[size:]
        else:
            dtype = next(dtype for dtype, known in DATATYPES.items() if known == name)
            values = tensor["data"] if name != "BYTES" else [value.encode() for value in tensor["data"]]
            found[tensor["name"]] = np.array(values, dtype).reshape(shape)
    assert rest == b""
    return found


def assert_same(got: np.ndarray, expected: Any) -> None:
    expected = np.array(expected, object) if isinstance(expected, bytes) else np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tolist() == expected.tolist()


# -- what a model takes


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("keras", [("features", "FP32", [-1, 4])], [("output_0", "FP32", [-1, 3])]),
        (
            "functions",
            [("numbers", "FP32", [-1, 2]), ("words", "BYTES", [-1])],
            [("lengths_", "INT32", []), ("sums", "FP32", [-1]), ("upper", "BYTES", [-1])],
        ),
        ("small", [("x", "BF16", [-1, 4])], [("y", "BF16", [-1, 4])]),
        ("any_rank", [("x", "FP32", [-1])], [("twice", "FP32", [-1])]),
        ("decode_one", [("picture", "BYTES", [])], [("picture", "UINT8", [-1, -1, -1])]),
        ("optional", [("a", "FP32", [-1]), ("b", "FP32", [-1])], [("sum", "FP32", [-1])]),
    ],
)
def test_metadata(server: Server, model: str, inputs: Any, outputs: Any) -> None:
    said = server.get(f"/v2/models/{model}").json()
    assert said["platform"] == "tensorflow_savedmodel"
    assert [(each["name"], each["datatype"], each["shape"]) for each in said["inputs"]] == inputs
    assert [(each["name"], each["datatype"], each["shape"]) for each in said["outputs"]] == outputs


# -- answers


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("datatype", "dtype", "array"), ECHOED, ids=[name for name, *_ in ECHOED])
def test_every_datatype(server: Server, datatype: str, dtype: Any, array: np.ndarray, binary: bool) -> None:
    answer = infer(server, "functions", {"x": array}, binary=binary, signature_name=datatype)
    assert answer.keys() == {"y", "twice"}
    assert_same(answer["y"], array)
    assert_same(answer["twice"], tf.stack([tf.constant(array, dtype)] * 2).numpy())


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (2, 0), (1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("binary", [False, True])
def test_every_shape(server: Server, shape: tuple[int, ...], binary: bool) -> None:
    array = np.ones(shape, np.float32)
    assert_same(infer(server, "any_rank", {"x": array}, binary=binary)["twice"], 2 * array)


@pytest.mark.parametrize("binary", [False, True])
def test_a_single_number_of_bf16(server: Server, binary: bool) -> None:
    array = np.array(-1.5, ml_dtypes.bfloat16)
    answer = infer(server, "functions", {"x": array}, ("y",), binary=binary, signature_name="BF16")
    assert_same(answer["y"], array)


@pytest.mark.parametrize("value", [b"", b"\0\xff", "\U0001f600".encode() * 1000])
def test_a_single_string_of_any_bytes(server: Server, value: bytes) -> None:
    array = np.array(value, object)
    answer = infer(server, "functions", {"x": array}, ("y",), binary=True, signature_name="BYTES")
    assert_same(answer["y"], value)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 1000])
def test_a_keras_model(server: Server, keras_model: Any, rows: int, binary: bool) -> None:
    features = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    answer = infer(server, "keras", {"features": features}, binary=binary, path="/versions/1")
    assert answer["output_0"].shape == (rows, 3)
    np.testing.assert_allclose(answer["output_0"], keras_model(features).numpy(), rtol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_bf16_by_default(server: Server, module: Functions, binary: bool) -> None:
    x = np.array([[0.1, 2, 3, -4]], ml_dtypes.bfloat16)
    assert_same(infer(server, "small", {"x": x}, binary=binary)["y"], module.small(x)["y"].numpy())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "outputs", [(), ("sums",), ("upper", "lengths_"), ("upper", "sums", "lengths_")]
)  # fmt: skip
def test_several_inputs_and_outputs(
    server: Server, module: Functions, outputs: tuple[str, ...], binary: bool
) -> None:
    numbers, words = np.array([[1, 2], [3, 4.5]], np.float32), np.array([b"a", b"b"], object)
    answer = infer(server, "functions", {"words": words, "numbers": numbers}, outputs, binary=binary)
    own = module.both(numbers=numbers, words=words)
    assert tuple(answer) == (outputs or ("lengths_", "sums", "upper"))
    for name, array in answer.items():
        assert_same(array, own[name].numpy())


def test_another_signature(server: Server) -> None:
    x = np.array([3, 7], np.int32)
    assert_same(
        infer(server, "functions", {"x": x}, signature_name="divide")["y"], np.array([33, 14], np.int32)
    )


def test_an_input_with_a_default_may_be_left_out(server: Server) -> None:
    one = np.ones(1, np.float32)
    assert infer(server, "optional", {"a": one})["sum"].tolist() == [11]
    assert infer(server, "optional", {"a": one, "b": one})["sum"].tolist() == [2]


# -- refusals: status 400, and what was expected

X = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("model", "inputs", "more", "text"),
    [
        ("keras", {"x": X}, {}, 'unexpected input "x"; the model takes "features" FP32 [-1, 4]'),
        ("keras", {}, {}, 'input "features" is missing; the model takes "features" FP32 [-1, 4]'),
        ("keras", {"features": X.astype("f8")}, {},
         'input "features" has the datatype FP64, expected FP32'),
        ("keras", {"features": X[:, :3]}, {}, 'input "features" has the shape [1, 3], expected [-1, 4]'),
        ("keras", {"features": X[0]}, {}, 'input "features" has the shape [4], expected [-1, 4]'),
        ("keras", {"features": X}, {"datatype": "FP33"}, "FP33"),
        ("keras", {"features": X}, {"outputs": ("nobody",)}, "nobody"),
        ("optional", {"b": X[0]}, {},
         'input "a" is missing; the model takes "a" FP32 [-1], "b" FP32 [-1]'),
        ("small", {"x": X}, {}, 'input "x" has the datatype FP32, expected BF16'),
        ("functions", {"x": X}, {"signature_name": "nobody"},
         'Serving signature key "nobody" not found. (set "signature_name" to one of: '),
        ("functions", {"x": X}, {"signature_name": 5}, 'parameter "signature_name" is no string'),
        ("functions", {"x": X}, {"signature_name": "divide"},
         'Type mismatch: actual float vs. expect int32 (input "x" came as float [1,4], signature "divide" '
         "says int32 [-1])"),
        ("functions", {"z": X}, {"signature_name": "divide"}, "Missing but required: {x}."),
        ("functions", {"x": np.zeros(1, np.int32)}, {"signature_name": "divide"}, "Integer division by zero"),
        ("functions", {"x": X}, {"signature_name": "FP32", "outputs": ("z",)},
         "output tensor alias not found in signature: z Outputs expected to be in the set {twice,y}."),
        ("functions", {"x": X}, {"signature_name": "FP32", "outputs": ("y", "y")},
         "duplicate output tensor alias: y"),
        ("decode", {"picture": np.array([b"no picture"], object)}, {}, "Unknown image file format"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("binary", [False, True])
def test_refused(server: Server, model: str, inputs: Any, more: Any, text: str, binary: bool) -> None:
    answer = infer(server, model, inputs, binary=binary, **more)
    assert answer["status"] == 400
    assert text in answer["error"]
    for inside in ("{{", "Node:", str(Path(__file__).parents[3])):
        assert inside not in answer["error"]


# -- V1 bodies of bytes


def png(value: int, size: int = 4) -> bytes:
    data: bytes = tf.io.encode_png(np.full((size, size, 3), value, np.uint8)).numpy()
    return data


def predict(server: Server, model: str, body: bytes, content_type: str) -> Any:
    answer = server.post(f"/v1/models/{model}:predict", body, content_type)
    return answer.json() if answer.status == 200 else (answer.status, answer.json()["error"])


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream"])
def test_a_saved_model_that_decodes_pictures_gets_the_file(server: Server, content_type: str) -> None:
    assert predict(server, "decode", png(7), content_type) == {"predictions": [7.0]}
    assert predict(server, "decode_one", png(7, 1), content_type) == {"outputs": [[[7, 7, 7]]]}
    status, text = predict(server, "decode", b"\xff\xd8 cut off", content_type)
    assert status == 400
    assert "{{" not in text


def test_rows_of_numbers_as_bytes(server: Server, keras_model: Any) -> None:
    features = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    answer = predict(server, "keras", features.tobytes(), "application/octet-stream")
    np.testing.assert_allclose(answer["predictions"], keras_model(features).numpy(), rtol=1e-5)
    assert predict(server, "keras", features.tobytes()[1:], "application/octet-stream") == (
        400,
        'The body has 47 bytes, expected a multiple of 16: input "features" takes rows of FP32 of shape [4], '
        "little-endian",
    )
    status, text = predict(server, "keras", png(1), "image/png")
    assert status == 415
    assert text.startswith("Content-Type 'image/png' is not for input \"features\", FP32 of shape [-1, 4].")


def test_what_json_has_no_form_for(server: Server) -> None:
    """BF16 rows reach the graph; the answer, as TensorFlow Serving has it, has no JSON form either."""
    body = np.zeros((1, 4), ml_dtypes.bfloat16).tobytes()
    status, text = predict(server, "small", body, "application/octet-stream")
    assert (status, text) == (400, "Failed to write JSON value for tensor type: bfloat16 (output y)")


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/png"])
@pytest.mark.parametrize(
    "body", ['{"instances": [[1, 2, 3, NaN]]}', '{"inputs": {"features": [[1, 2, 3, 4]]}}']
)
def test_json_is_json_whatever_its_type(server: Server, body: str, content_type: str) -> None:
    assert predict(server, "keras", body.encode(), content_type) == predict(
        server, "keras", body.encode(), ""
    )


def test_several_inputs_are_no_bytes(server: Server) -> None:
    status, text = predict(server, "functions", b"\xff\xd8", "image/png")
    assert (status, text[:16]) == (400, "JSON Parse error")


# -- sharing a run


def asked(model: Any, name: str, array: np.ndarray, outputs: Sequence[str] = ()) -> Any:
    """What the model's hooks get of a V2 request."""
    datatype = DATATYPES.get(array.dtype.type, "BYTES")
    tensor = InferInput(name, array.shape, datatype, array)
    wanted = [RequestedOutput(output) for output in outputs]
    return to_payload(InferRequest("m", [tensor], request_outputs=wanted or None), model)


class Runs:
    """How many rows each run of a model had."""

    def __init__(self, model: Any) -> None:
        self.rows: list[int] = []
        run = model._served.saved_model.run

        def counted(signature: Any, feeds: Any, *wanted: Any) -> Any:
            self.rows.append(len(feeds[0]))
            return run(signature, feeds, *wanted)

        model._served.saved_model.run = counted


def together(model: Any, *payloads: Any) -> list[Any]:
    """The answers to requests that come in the same turn of the loop, on a model thread as in the server."""

    async def ask() -> list[Any]:
        threads = ModelThreads("m")
        model.attach_runner(threads)
        try:
            return await asyncio.wait_for(asyncio.gather(*map(model, payloads), return_exceptions=True), 30)
        finally:
            threads.close()

    return asyncio.run(ask())


def test_v1_lists_and_arrays_and_v2_share_a_run(load: Any, keras_export: Path, keras_model: Any) -> None:
    model = load(keras_export)
    runs = Runs(model)
    features = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    answers = together(
        model,
        {"instances": features[:2].tolist()},
        {"instances": features[2:3]},
        asked(model, "features", features[3:6]),
        asked(model, "features", features[6:], ("output_0",)),
    )
    assert runs.rows == [7]
    got = np.concatenate([answer["predictions"] for answer in answers])
    np.testing.assert_allclose(got, keras_model(features).numpy(), rtol=1e-5)


def test_a_boolean_among_v1s_numbers_fails_alone(load: Any, keras_export: Path) -> None:
    """TensorFlow Serving's rules for JSON hold beside arrays, too."""
    model = load(keras_export)
    bad, good = together(model, {"instances": [[1.5, True, 2.0, 3.0]]}, asked(model, "features", X))
    assert "is not of expected type: float" in str(bad)
    assert len(good["predictions"]) == 1


class Sizes(tf.Module):
    """Tells with how many rows it is run."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def rows(self, x: Any) -> Any:
        return {"rows": tf.ones_like(x[:, 0]) * tf.cast(tf.shape(x)[0], tf.float32)}


@pytest.fixture(scope="module")
def sizes(exports: Path) -> Path:
    module, folder = Sizes(), exports / "v2_sizes"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.rows})
    return folder


def test_by_the_rules_of_enable_batching(load: Any, sizes: Path) -> None:
    """They wait for one another until the batch is full, and it has an allowed size."""
    two = np.ones((2, 2), np.float32)

    def rows(**parameters: Any) -> list[list[float]]:
        options = Options(batching=BatchingParameters(**parameters))
        model = load(sizes, options=options)
        answers = together(model, {"instances": two.tolist()}, {"instances": two}, asked(model, "x", two))
        return [answer["predictions"].tolist() for answer in answers]

    # A request that did not share the batch would wait ten minutes.
    assert rows(max_batch_size=6, batch_timeout_micros=600_000_000) == [[6, 6]] * 3
    padded = rows(max_batch_size=10, allowed_batch_sizes=(10,), batch_timeout_micros=200_000)
    assert padded == [[10, 10]] * 3


def test_requests_of_several_tensors_share_runs_with_one_another(load: Any, optional: Path) -> None:
    model = load(optional)
    runs = Runs(model)

    def request(*values: float) -> Any:
        array = np.array(values, np.float32)
        inputs = [InferInput(name, array.shape, "FP32", array) for name in "ab"]
        return to_payload(InferRequest("m", inputs), model)

    answers = together(model, request(1), request(2, 3))
    assert runs.rows == [3]
    assert all(isinstance(answer, TensorResponse) for answer in answers)
    assert [answer.outputs["sum"].tolist() for answer in answers] == [[2], [4, 6]]


def test_what_cannot_be_rows_is_asked_as_tensors(
    load: Any, v2_exports: dict[str, Path], keras_export: Path
) -> None:
    """A single value, no rows, BF16, text, outputs of any rank: V1's form would refuse or change them."""
    any_rank, small = load(v2_exports["any_rank"]), load(v2_exports["small"])
    for payload in (
        asked(any_rank, "x", np.array(1, np.float32)),
        asked(any_rank, "x", np.ones(3, np.float32)),
        asked(load(keras_export), "features", np.zeros((0, 4), np.float32)),
        asked(small, "x", X.astype(ml_dtypes.bfloat16)),
        asked(load(v2_exports["decode"]), "picture", np.array([b"x"], object)),
    ):
        assert isinstance(payload, TensorRequest)


def test_arrays_are_fed_as_they_are(load: Any, keras_export: Path) -> None:
    model = load(keras_export)
    signature = model._served.default
    array = np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)  # as from a body: read-only
    assert asked(model, "features", array)["instances"] is array
    assert feeds_from_request({"instances": array}, signature)[0] is array
    assert feeds_from_arrays({"features": array}, signature)[0] is array


def test_a_graph_leaves_the_body_as_it_is(load: Any, v2_exports: dict[str, Path]) -> None:
    """TensorFlow may work on the bytes themselves; it must not write to them."""
    body = bytes(np.ones(1 << 18, np.float32))
    array = np.frombuffer(body, np.float32)
    model = load(v2_exports["any_rank"])
    assert model.predict(TensorRequest({"x": array})).outputs["twice"].max() == 2
    assert array.min() == array.max() == 1


def test_the_answer_has_the_declared_names(load: Any, keras_export: Path) -> None:
    model = load(keras_export)
    request = InferRequest("m", [InferInput("features", X.shape, "FP32", X)], "id-1")
    response = to_response(asyncio.run(model(to_payload(request, model))), request, model, "m")
    (output,) = response.outputs
    assert (response.id, output.name, output.datatype, output.shape) == ("id-1", "output_0", "FP32", [1, 3])
