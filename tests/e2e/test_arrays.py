"""Rows of numbers as one array, over HTTP: small and large JSON, and ``.npy``."""

import concurrent.futures
import io

import numpy as np
import pytest
from harness import serving

SMALL = [[1, 2.5, 3]]
LARGE = [[1, 2.5, 3]] * 2000


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    with serving([programs / "arrays.py"], tmp_path_factory.mktemp("arrays") / "log") as running:
        yield running.wait_ready("rows", "batched", "plain")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def post(server, model, body, content_type="application/json"):
    return server.post(f"/v1/models/{model}:predict", body, content_type)


@pytest.mark.parametrize("rows", [SMALL, LARGE])
def test_rows_are_one_array_whatever_their_number(server, rows):
    seen = post(server, "rows", {"instances": rows}).json()
    assert seen == {"type": "ndarray", "dtype": "float32", "sum": 6.5 * len(rows)}


@pytest.mark.parametrize("rows", [SMALL, LARGE])
def test_a_model_that_names_no_dtype_gets_lists(server, rows):
    assert post(server, "plain", {"instances": rows}).json()["type"] == "list"


@pytest.mark.parametrize("rows", [SMALL, LARGE])
def test_what_does_not_fit_is_named(server, rows):
    response = post(server, "rows", {"instances": [*rows, [1, 2]]})
    assert response.status == 400
    assert response.json() == {
        "error": f'"instances"[{len(rows)}] has shape [2], expected [3] as in "instances"[0]'
    }


@pytest.mark.parametrize("rows", [SMALL, LARGE])
@pytest.mark.parametrize(("model", "dtype"), [("rows", "float32"), ("plain", "float64")])
def test_npy_is_an_array_for_every_model(server, rows, model, dtype):
    seen = post(server, model, npy(np.array(rows)), "application/x-npy").json()
    assert seen == {"type": "ndarray", "dtype": dtype, "sum": 6.5 * len(rows)}


def test_npy_that_cannot_be_read_is_a_400(server):
    response = post(server, "plain", npy(np.array(SMALL))[:-1], "application/x-npy")
    assert response.status == 400
    assert response.json()["error"].startswith("Unrecognized .npy body: 23 bytes of data")


def test_small_large_and_npy_share_a_model_that_batches(server):
    def ask(number):
        rows = np.full((2000 if number % 3 == 1 else 1 + number % 5, 3), number)
        sent = (npy(rows), "application/x-npy") if number % 3 == 2 else ({"instances": rows.tolist()},)
        return post(server, "batched", *sent).json() == {"predictions": [3.0 * number] * len(rows)}

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert all(pool.map(ask, range(60)))
