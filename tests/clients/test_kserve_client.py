"""The real KServe's clients, 0.21, against our servers: each case of `kserve_client.py` by its name."""

import pytest

SUMS = {"sums": ["FP32", "float32", [2], [3.5, -1.5]]}
SUM, DIFFERENCE = ["INT32", "int32", [3], [6, 9, 12]], ["INT32", "int32", [3], [4, 5, 6]]
BOTH = {"OUTPUT0": SUM, "OUTPUT1": DIFFERENCE}
TWICE = ["FP32", "float32", [2, 2], [3.0, 4.0, 6.0, -9.0]]
RETURNS = {
    "dictionary": {"twice": TWICE},
    "list": {"output-0": ["FP64", "float64", *TWICE[2:]]},
    "array": {"output-0": TWICE},
}
INTEGERS = [f"{sign}INT{bits}" for bits in (8, 16, 32, 64) for sign in ("", "U")]
TYPED = dict.fromkeys(["BOOL", *INTEGERS, "FP32", "FP64"], True)
UNKNOWN = "Model with name nobody does not exist."
NOT_READY = "Model with name not-ready is not ready."
WRONG_SHAPE = 'input "rows" has the shape [1, 3], expected [-1, 4]'
GIVEN = {"text": "é", "flag": False, "number": 7}


def addsub(outputs):
    return {"id": "one", "model": "addsub", "parameters": {}, "outputs": outputs}


def style(*, from_grpc):
    parameters = {"tenant": "", "from_grpc": from_grpc, "rank": 2}
    return {"id": "one", "model": "style", "parameters": parameters, "outputs": SUMS}


EXPECTED = {
    "v1_infer": {"predictions": [3, 7]},
    "v1_explain": {"explanations": [2]},
    "v1_health": [True, True, False],
    "v1_model_ready_unknown": [404, UNKNOWN],
    "v1_no_list": [400, 'Expected "instances" to be a list'],
    "v1_unknown": [404, UNKNOWN],
    "v1_not_ready": [503, NOT_READY],
    "v2_json": style(from_grpc=False),
    "v2_binary_in": style(from_grpc=False),
    "v2_binary_both_ways": addsub(BOTH),
    "v2_two_inputs": addsub(BOTH),
    "v2_one_binary_one_json": addsub(BOTH),
    "v2_requested_outputs": addsub({"OUTPUT1": DIFFERENCE, "OUTPUT0": SUM}),
    "v2_headers": ["acme", "application/json"],
    "v2_types_json": TYPED,
    "v2_types_binary": TYPED | {"FP16": True},
    "v2_texts": 2 * [{"text": ["BYTES", "object", [1, 2], ["a", "Grüezi"]]}],
    "v2_parameters": GIVEN,
    "v2_returns": RETURNS,
    "v2_health": [True, True, True, False, False],
    "v2_server_not_ready": [503, f"Server is not ready. {NOT_READY}"],
    "v2_errors": {
        "input": [400, "row 3 is too long"],
        "not ready": [503, "Model with name other is not ready."],
        "value": [500, "ValueError : cannot read the weights"],
        "later": [501, "later"],
        "unknown model": [404, UNKNOWN],
        "not-ready": [503, NOT_READY],
    },
    "v2_wrong_shape": [400, WRONG_SHAPE],
    "v2_wrong_output": [400, "Unexpected inference output 'OUTPUT9' for model 'addsub'"],
    "grpc_typed": style(from_grpc=True),
    "grpc_raw": style(from_grpc=True),
    "grpc_metadata": "acme",
    "grpc_two_inputs": addsub(BOTH),
    "grpc_requested_outputs": addsub({"OUTPUT1": DIFFERENCE, "OUTPUT0": SUM}),
    "grpc_types_typed": TYPED,
    "grpc_types_raw": TYPED | {"FP16": True},
    "grpc_texts": [["BYTES", "object", [1, 2], ["a", "é"]], ["ff00", ""]],
    "grpc_parameters": GIVEN,
    "grpc_returns": RETURNS,
    "grpc_health": [True, True, False, True, False],
    "grpc_model_ready_unknown": ["NOT_FOUND", UNKNOWN],
    "grpc_errors": {
        "input": ["INVALID_ARGUMENT", "row 3 is too long"],
        "not ready": ["UNAVAILABLE", "Model with name other is not ready."],
        "value": ["INTERNAL", "ValueError : cannot read the weights"],
        "later": ["UNIMPLEMENTED", "later"],
        "unknown model": ["NOT_FOUND", UNKNOWN],
        "not-ready": ["UNAVAILABLE", NOT_READY],
    },
    "grpc_wrong_shape": ["INVALID_ARGUMENT", WRONG_SHAPE],
}
PREDICTIONS = ("v1_packaged", "v2_packaged", "grpc_packaged")
REFUSED_BY_THE_CLIENT = ("v2_explain",)


@pytest.fixture(scope="module")
def results(talk):
    return talk("kserve_client.py")


def test_every_case_is_judged(results):
    assert set(results) == {*EXPECTED, *PREDICTIONS, *REFUSED_BY_THE_CLIENT}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_it_gives(results, name):
    assert results[name] == {"gave": EXPECTED[name]}


@pytest.mark.parametrize("model", ["iris", "iris_tf"])
def test_packaged_models_predict_the_same_by_every_way(results, packaged, model):
    rows = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    expected = packaged.predict({"instances": rows}, model).json()["predictions"]
    (by_v1,) = (answer["predictions"] for answer in results["v1_packaged"]["gave"][model == "iris_tf" :][:1])
    assert by_v1 == expected
    flat = [value for row in expected for value in row]
    v2, grpc = results["v2_packaged"]["gave"], results["grpc_packaged"]["gave"]
    for outputs in (v2[f"{model} json"], v2[f"{model} binary"], grpc[model]):
        ((datatype, _, shape, values),) = outputs.values()
        assert (datatype, shape) == ("FP32", [2, 3])
        assert values == pytest.approx(flat, rel=1e-5)


def test_its_client_has_no_explain_of_v2(results):
    assert results["v2_explain"] == {"raised": "UnsupportedProtocol", "text": "Unsupported protocol v2."}
