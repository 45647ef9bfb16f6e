"""The real tritonclient, HTTP and gRPC, against our servers: each case of the two scripts by its name."""

import pytest

SUM, DIFFERENCE = ["INT32", "int32", [3], [6, 9, 12]], ["INT32", "int32", [3], [4, 5, 6]]
ROWS = ["FP32", "float32", [2, 2], [1.5, 2.0, 3.0, -4.5]]
TWICE = ["FP32", "float32", [2, 2], [3.0, 4.0, 6.0, -9.0]]
RETURNS = {
    "dictionary": {"twice": TWICE},
    "list": {"output-0": ["FP64", "float64", *TWICE[2:]]},
    "array": {"output-0": TWICE},
}
INTEGERS = [f"{sign}INT{bits}" for bits in (8, 16, 32, 64) for sign in ("", "U")]
TYPES = dict.fromkeys(["BOOL", *INTEGERS, "FP16", "FP32", "FP64"], True)
UNKNOWN = "Model with name nobody does not exist."
NOT_READY = "Model with name not-ready is not ready."
GIVEN = {"text": "é", "flag": True, "number": 7}
BF16 = ["bfloat16", [[1.5, -3.140625], [3.00405527047391e38, 0.0]]]
EMPTY_AND_SCALAR = {"none": ["FP32", "float32", [0, 3], []], "scalar": ["FP64", "float64", [], [2.5]]}
ADDSUB = {
    "name": "addsub",
    "versions": ["1"],
    "inputs": [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [-1]} for n in (0, 1)],
    "outputs": [{"name": f"OUTPUT{n}", "datatype": "INT32", "shape": [-1]} for n in (0, 1)],
}
IRIS = {
    "name": "iris",
    "versions": ["1"],
    "platform": "pytorch",
    "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "predictions", "datatype": "FP32", "shape": [-1, 3]}],
}
IRIS_TF = {
    "name": "iris_tf",
    "versions": ["1"],
    "platform": "tensorflow_savedmodel",
    "inputs": [{"name": "measurements", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "output_0", "datatype": "FP32", "shape": [-1, 3]}],
}
WRONG = {
    "shape": 'input "rows" has the shape [2, 3], expected [-1, 4]',
    "datatype": 'input "rows" has the datatype BYTES, expected FP32',
    "name": 'unexpected input "nothing"; the model takes "measurements" FP32 [-1, 4]',
    "version": "Servable not found for request: Specific(iris, 7)",
}
ERRORS = {
    "input": ("INVALID_ARGUMENT", 400, "row 3 is too long"),
    "not ready": ("UNAVAILABLE", 503, "Model with name other is not ready."),
    "value": ("INTERNAL", 500, "ValueError : cannot read the weights"),
    "later": ("UNIMPLEMENTED", 501, "later"),
    "unknown model": ("NOT_FOUND", 404, UNKNOWN),
    "not-ready": ("UNAVAILABLE", 503, NOT_READY),
    "output": ("INVALID_ARGUMENT", 400, "Unexpected inference output 'OUTPUT9' for model 'addsub'"),
}
INDEX = {
    **dict.fromkeys(["style", "addsub", "echo", "dictionary", "list", "array", "failing"], True),
    "not-ready": False,
}


def binary(output):
    """An output that came as bytes."""
    return [*output, True]


def sized(metadata):
    """gRPC's JSON writes 64 bit integers as text, and nothing for what is empty."""
    tensors = {
        side: [each | {"shape": [str(size) for size in each["shape"]]} for each in metadata[side]]
        for side in ("inputs", "outputs")
    }
    return metadata | tensors


HTTP = {
    "health": [True, True, False, True, False, False, True],
    "model_metadata": [
        ADDSUB | {"platform": ""},
        {"name": "echo", "versions": ["1"], "platform": "", "inputs": [], "outputs": []},
    ],
    "model_metadata_packaged": [IRIS, IRIS_TF],
    "model_metadata_unknown": ["404", UNKNOWN],
    "one_output": {"OUTPUT1": binary(DIFFERENCE)},
    "binary": {"OUTPUT0": binary(SUM), "OUTPUT1": binary(DIFFERENCE)},
    "all_json": {"OUTPUT0": [*SUM, False], "OUTPUT1": [*DIFFERENCE, False]},
    "mixed": {"OUTPUT1": [*DIFFERENCE, False], "OUTPUT0": binary(SUM)},
    "id_and_parameters": {
        "model_name": "echo",
        "model_version": "1",
        "id": "r-17",
        "parameters": GIVEN | {"share": 0.25},
        "outputs": {"x": binary(ROWS)},
    },
    "headers": {"tenant": "acme", "from_grpc": False, "rank": 2},
    "types_binary": TYPES,
    "types_json": TYPES,
    "bf16": BF16,
    "texts": [["ff00", "", "Grüezi".encode().hex()], ["61", "Grüezi".encode().hex()]],
    "texts_as_json": {"x": ["BYTES", "object", [2], ["a", "Grüezi"], False]},
    "empty_and_scalar": {name: binary(output) for name, output in EMPTY_AND_SCALAR.items()},
    "big": [[5, 1024, 1024], True],
    "after_too_big": {"OUTPUT0": binary(SUM), "OUTPUT1": binary(DIFFERENCE)},
    "returns": {
        model: {name: binary(output) for name, output in outputs.items()}
        for model, outputs in RETURNS.items()
    },
    "gzip_request": {"OUTPUT0": binary(SUM), "OUTPUT1": binary(DIFFERENCE)},
    "deflate_request": ["415", "Content-Encoding is 'deflate', expected gzip or none"],
    "gzip_answer": [True, True],
    "deflate_answer": {"OUTPUT0": binary(SUM), "OUTPUT1": binary(DIFFERENCE)},
    "asynchronous": ["0", "1", "2", "3"],
    "packaged_wrong": {name: ["404" if name == "version" else "400", text] for name, text in WRONG.items()},
    "errors": {name: [str(status), text] for name, (_, status, text) in ERRORS.items()},
    "shared_memory": ["404", "invalid path"],
    "aio": [True, True, "addsub", [4, 5, 6], "a", "404"],
}
GRPC = {
    "health": [True, True, False, True, False, True],
    "ready_unknown": ["StatusCode.NOT_FOUND", UNKNOWN],
    "model_metadata": [sized(ADDSUB), {"name": "echo", "versions": ["1"]}],
    "model_metadata_packaged": [sized(IRIS), sized(IRIS_TF)],
    "infer": {
        "id": "r-17",
        "model_name": "addsub",
        "parameters": {},
        "outputs": {"OUTPUT0": SUM, "OUTPUT1": DIFFERENCE},
    },
    "outputs": [["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]],
    "parameters": GIVEN,
    "headers": {"tenant": "acme", "from_grpc": True, "rank": 2},
    "types": TYPES,
    "bf16": BF16,
    "texts": [[1, 3], ["ff00", "", "Grüezi".encode().hex()]],
    "empty_and_scalar": EMPTY_AND_SCALAR,
    "big": [[5, 1024, 1024], True],
    "too_big": "StatusCode.RESOURCE_EXHAUSTED",
    "returns": RETURNS,
    "compression": [True, True],
    "asynchronous": ["0", "1", "2", "3"],
    "packaged_wrong": {
        name: [f"StatusCode.{'NOT_FOUND' if name == 'version' else 'INVALID_ARGUMENT'}", text]
        for name, text in WRONG.items()
    },
    "errors": {name: [f"StatusCode.{code}", text] for name, (code, _, text) in ERRORS.items()},
    "statistics": "StatusCode.UNIMPLEMENTED",
    "aio": [True, True, "addsub", [4, 5, 6], "a", "StatusCode.NOT_FOUND"],
}
OTHERWISE = ("server_metadata", "index", "packaged", "admin")
"""Judged by tests of their own."""


@pytest.fixture(scope="module")
def http(talk):
    return talk("triton_http_client.py")


@pytest.fixture(scope="module")
def grpc(talk):
    return talk("triton_grpc_client.py")


def test_every_case_is_judged(http, grpc):
    assert set(http) == {*HTTP, *OTHERWISE, "too_big"}
    assert set(grpc) == {*GRPC, *OTHERWISE}


@pytest.mark.parametrize("name", HTTP)
def test_http(http, name):
    assert http[name] == {"gave": HTTP[name]}


@pytest.mark.parametrize("name", GRPC)
def test_grpc(grpc, name):
    assert grpc[name] == {"gave": GRPC[name]}


def test_a_request_over_the_limit_says_so(http):
    status, text = http["too_big"]["gave"]
    assert status == "413"
    assert "the limit is 67108864" in text


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_server_says_what_it_can(protocol, request):
    said = request.getfixturevalue(protocol)["server_metadata"]["gave"]
    assert said["name"] == "modelserver"
    assert "binary_tensor_data" in said["extensions"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_index_has_every_model_and_what_is_ready(protocol, request):
    found = request.getfixturevalue(protocol)["index"]["gave"]
    models = found["models"] if protocol == "grpc" else found
    assert {each["name"]: each["state"] == "READY" for each in models} == INDEX
    assert {each["version"] for each in models} == {"1"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", ["iris", "iris_tf"])
def test_packaged_models_predict_the_same_by_every_way(request, packaged, model, protocol):
    rows = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    expected = packaged.predict({"instances": rows}, model).json()["predictions"]
    given = request.getfixturevalue(protocol)["packaged"]["gave"]
    for outputs in (given[model], given[f"{model} 1"]):
        ((datatype, _, shape, values, *_),) = outputs.values()
        assert (datatype, shape) == ("FP32", [2, 3])
        assert values == pytest.approx([value for row in expected for value in row], rel=1e-5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_models_are_unloaded_and_loaded_in_every_worker(protocol, request):
    seen = request.getfixturevalue(protocol)["admin"]["gave"]
    refusals = {name: seen.pop(name) for name in ("without token", "infer", "unknown")}
    statuses = {name: said if isinstance(said, str) else said[0] for name, said in refusals.items()}
    if protocol == "http":
        assert statuses == {"without token": "401", "infer": "503", "unknown": "404"}
    else:
        codes = {"without token": "UNAUTHENTICATED", "infer": "UNAVAILABLE", "unknown": "NOT_FOUND"}
        assert statuses == {name: f"StatusCode.{code}" for name, code in codes.items()}
    assert len(seen.pop("answers")) == 6
    assert seen == {
        "at first": [True],
        "unloaded": [False],
        "index": {"iris": "READY", "iris_tf": "UNAVAILABLE"},
        "loaded": [True],
    }
