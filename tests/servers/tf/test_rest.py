"""The contract as a client sees it: bytes to a real server, answers held against TensorFlow's own."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from harness import Server, serving


@pytest.fixture(scope="module")
def server(
    functions_export: Path,
    keras_export: Path,
    reference_counter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    models = [f"functions={functions_export}", f"keras={keras_export}", f"counter={reference_counter}"]
    with serving(["-m", "modelserver", *models], tmp_path_factory.mktemp("rest") / "log") as server:
        yield server.wait_ready("functions", "keras", "counter")


def parse(body: bytes) -> Any:
    return json.loads(body.decode("utf-8", "surrogateescape"))


def predict(server: Server, body: bytes | str, model: str = "functions", content_type: str = "") -> Any:
    data = body.encode() if isinstance(body, str) else body
    answer = server.post(f"/v1/models/{model}:predict", data, content_type)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, parse(answer.body)


def echoed(dtype: str, form: str, values: str) -> str:
    return f'{{"signature_name": "echo_{dtype}", "{form}": {values}}}'


# What TensorFlow makes of the numbers, for each way to write them.
TAKEN: list[tuple[str, str, Any]] = [
    ("float32", "[0.1, 1, -2.5e-3, 1E2]", tf.constant([0.1, 1, -2.5e-3, 100])),
    ("float32", "[NaN, Infinity, -Infinity, Inf, -Inf, -NaN]",
     tf.constant([np.nan, np.inf, -np.inf, np.inf, -np.inf, np.nan])),
    ("float32", "[1e39, -1e39, 1e-50, 16777217, 18446744073709551616]",
     tf.cast(tf.constant([1e39, -1e39, 1e-50, 16777217, 2.0**64], tf.float64), tf.float32)),
    ("float32", "[[], []]", tf.zeros([2, 0])),
    ("float64", "[0.1, 9007199254740993, NaN]", tf.constant([0.1, 9007199254740992, np.nan], tf.float64)),
    ("int8", "[300, -129, 5]", tf.cast(tf.constant([300, -129, 5]), tf.int8)),
    ("int16", "[40000, -2147483648]", tf.cast(tf.constant([40000, -(2**31)]), tf.int16)),
    ("uint8", "[300, -1]", tf.cast(tf.constant([300, -1]), tf.uint8)),
    ("int32", "[2147483647, -0]", tf.constant([2**31 - 1, 0])),
    ("int64", "[9223372036854775807, -9223372036854775808]", tf.constant([2**63 - 1, -(2**63)], tf.int64)),
    ("uint32", "[4294967295]", tf.constant([2**32 - 1], tf.uint32)),
    ("uint64", "[18446744073709551615, 0]", tf.constant([2**64 - 1, 0], tf.uint64)),
    ("bool", "[[true], [false]]", tf.constant([[True], [False]])),
    ("string", '["\\u00e9", {"b64": "/w"}, "\\ud83d\\ude00", ""]',
     tf.constant(["é", b"\xff", "\U0001f600", ""])),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "values", "own"), TAKEN)
@pytest.mark.parametrize(("form", "key"), [("instances", "predictions"), ("inputs", "outputs")])
def test_values_go_in_and_come_out(
    server: Server, dtype: str, values: str, own: Any, form: str, key: str
) -> None:
    status, answer = predict(server, echoed(dtype, form, values))
    assert status == 200
    assert list(answer) == [key]
    if dtype == "string":
        assert [text.encode("utf-8", "surrogateescape") for text in answer[key]] == own.numpy().tolist()
        return
    got = np.array(answer[key], own.numpy().dtype).reshape(own.shape)
    np.testing.assert_array_equal(got, own.numpy())
    leaves = np.array(answer[key], object).ravel()
    assert {type(leaf) for leaf in leaves} <= {
        float if "float" in dtype else bool if dtype == "bool" else int
    }


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"instances": [2]} behind it', [1.0]),
        (b'{"instances": [2], "instances": [4]}', [1.0]),
        (b'{"instances": [2], "parameters": {"a": null}}', [1.0]),
        (b'{"signature_name": "", "instances": [2]}', [1.0]),
    ],
)
@pytest.mark.parametrize(
    "content_type", ["", "application/json", "application/x-www-form-urlencoded", "image/png", "text/xml"]
)
def test_bodies_are_json_whatever_their_type(
    server: Server, body: bytes, value: Any, content_type: str
) -> None:
    body = body.replace(b"[2]", b"[[2, 0, 0, 0]]").replace(b"[4]", b"[[4, 0, 0, 0]]")
    status, answer = predict(server, body, "keras", content_type)
    assert status == 200
    assert len(answer["predictions"]) == len(value)
    assert predict(server, b'{"instances": [[2, 0, 0, 0]]}', "keras")[1] == answer


def test_gzip(server: Server) -> None:
    data = gzip.compress(echoed("float32", "inputs", "[NaN, 0.5]").encode())
    answer = server.post("/v1/models/functions:predict", data, Content_Encoding="gzip")
    assert answer.body == b'{"outputs":[NaN,0.5]}'


def test_bytes_that_are_no_utf8_pass_as_they_are(server: Server) -> None:
    body = b'{"signature_name": "join", "inputs": {"left": ["a\xff"], "right": ["\xc3\xa9"]}}'
    answer = server.post("/v1/models/functions:predict", body)
    joined = tf.strings.join([b"a\xff", b"\xc3\xa9"]).numpy()
    assert b'"text":["' + joined + b'"]' in answer.body
    assert parse(answer.body)["outputs"]["raw_bytes"] == [{"b64": base64.b64encode(joined).decode()}]


def test_a_model_with_reference_variables(server: Server) -> None:
    values = [predict(server, '{"instances": [1.5]}', "counter")[1]["predictions"] for _ in range(2)]
    assert values[1][0] == values[0][0] + 1.5


def test_a_large_body_with_nan(server: Server, functions: Any) -> None:
    rows = np.random.default_rng(1).random((1000, 4), np.float32)
    rows[500, 2] = np.nan
    _, answer = predict(server, json.dumps({"instances": rows.tolist()}))
    np.testing.assert_allclose(
        np.array(answer["predictions"], np.float32), functions.matmul(rows)["logits"], rtol=1e-5
    )
    assert np.isnan(answer["predictions"][500]).all()


REFUSED: list[tuple[bytes, int, str]] = [
    (b"", 400, "JSON Parse error: The document is empty at offset: 0"),
    (b'{"instances": [Nan]}', 400, "JSON Parse error: "),
    (b'{"instances": [1,]}', 400, "JSON Parse error: "),
    (b'{"instances": [1.]}', 400, "JSON Parse error: "),
    (b'{"instances": [1e400]}', 400, "JSON Parse error: "),
    (b'{"instances": ' + b"[" * 100_000, 400, "JSON Parse error: "),
    (b'{"a":' * 100_000, 400, "JSON Parse error: "),
    (b"[1]", 400, "Is not object"),
    (b"{}", 400, "Missing 'inputs' or 'instances' key"),
    (b'{"instances": [1], "inputs": 1}', 400, "Not formatted correctly expecting only one of"),
    (b'{"instances": 1}', 400, "Expecting 'instances' to be an list/array"),
    (b'{"instances": []}', 400, "No values in 'instances' array"),
    (b'{"signature_name": 1, "instances": [1]}', 400, "'signature_name' key must be a string value"),
    (b'{"signature_name": "\xff", "instances": [1]}', 400, "not found in signature def"),
    (b'{"signature_name": "x", "instances": [1]}', 400, 'signature name: "x" not found in signature def'),
    (b'{"instances": [[1, 2], [3]]}', 400, "Expecting tensor size: 2 but got: 1"),
    (b'{"instances": [[1, 2], [[3, 4]]]}', 400, "Expecting shape [2] but got: [1,2]"),
    (b'{"instances": [[1, [2]]]}', 400, "Encountered list at unexpected level"),
    (b'{"instances": [null]}', 400, "element: 0 of 'instances' list. Error: JSON Value: null Type: Null is"),
    (b'{"instances": ["\xff"]}', 400, "Type: String is not of expected type: float"),
    (b'{"instances": [{"b64": "AA"}]}', 400, "Type: Object is not of expected type: float"),
    (b'{"signature_name": "echo_int32", "instances": [1.0]}', 400, "is not of expected type: int32"),
    (b'{"signature_name": "echo_int32", "instances": [2147483648]}', 400, "is not of expected type: int32"),
    (b'{"signature_name": "echo_int8", "instances": [2147483648]}', 400, "is not of expected type: int8"),
    (b'{"signature_name": "echo_uint32", "instances": [-1]}', 400, "is not of expected type: uint32"),
    (b'{"signature_name": "echo_uint64", "inputs": 18446744073709551616}', 400, "0 to 18446744073709551615"),
    (b'{"signature_name": "echo_int64", "inputs": [true]}', 400, "Type: True is not of expected type: int64"),
    (b'{"signature_name": "echo_bool", "inputs": [1]}', 400, "is not of expected type: bool"),
    (b'{"signature_name": "echo_string", "inputs": [1]}', 400, "is not of expected type: string"),
    (b'{"signature_name": "echo_string", "inputs": {"b64": "_"}}', 400, "Unable to base64 decode"),
    (b'{"signature_name": "add", "instances": [1]}', 400, "instances is a plain list"),
    (b'{"signature_name": "add", "instances": [{"a": 1}]}', 400, "keys must be equal to: a,b"),
    (b'{"signature_name": "add", "instances": [{"a": 1, "b": 1, "c": 1}]}', 400, "have named input: c"),
    (b'{"signature_name": "add", "inputs": {"a": 1}}', 400, "Missing named input: b"),
    (b'{"signature_name": "from_half", "inputs": [1]}', 501, "Conversion of JSON Value: 1 to type: half"),
    (b'{"signature_name": "from_half", "instances": [1]}', 400, "Conversion of JSON Value: 1 to type: half"),
    (b'{"signature_name": "halve", "inputs": [1]}', 400, "Failed to write JSON value for tensor type: half"),
    (b'{"signature_name": "summary", "instances": [1]}', 400, "has no shape information"),
    (
        b'{"signature_name": "uneven", "instances": [1, 2]}',
        400,
        "has inconsistent batch size: 1 expecting: 2",
    ),
    (b'{"signature_name": "divide", "instances": [0]}', 400, "Integer division by zero"),
    (b'{"instances": [[1, 2, 3]]}', 400, "Matrix size-incompatible"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED)
def test_refused(server: Server, body: bytes, status: int, words: str) -> None:
    got, answer = predict(server, body)
    assert list(answer) == ["error"]
    assert (got, words in answer["error"]) == (status, True), answer
    assert len(answer["error"]) < 1500


def test_examples(server: Server) -> None:
    """The verbs arrive; what they do is tested beside."""
    for verb in ("classify", "regress"):
        answer = server.post(f"/v1/models/functions:{verb}", {"examples": []})
        assert (answer.status, parse(answer.body)) == (400, {"error": "'examples' value is an empty array"})
        answer = server.post(f"/v1/models/functions:{verb}", {"examples": [{}]})
        assert answer.status == 400
        assert "inputs found in SignatureDef" in parse(answer.body)["error"]


def test_no_request_was_the_servers_fault(server: Server) -> None:
    assert "Traceback" not in server.text()
