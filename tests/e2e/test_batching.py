"""Requests that wait at the same time share calls, and nobody notices but the clock."""

import concurrent.futures
import random

import pytest
from harness import serving

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6], [5.1, 3.5, 1.4, 0.2], [6.5, 3.0, 5.8, 2.2]]


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    with serving([programs / "batches.py"], tmp_path_factory.mktemp("batches") / "log") as running:
        yield running.wait_ready("squares", "sums", "headers")


def all_at_once(server, bodies, model, clients=24, **kwargs):
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda body: server.predict(body, model, **kwargs), bodies))


def test_each_gets_its_own_answer_from_shared_calls(server):
    bodies = [{"instances": list(range(n, n + 1 + n % 3))} for n in range(60)]
    responses = all_at_once(server, bodies, "squares")
    shared = set()
    for body, response in zip(bodies, responses, strict=True):
        predictions = response.json()["predictions"]
        assert [square for square, _ in predictions] == [n * n for n in body["instances"]]
        shared.update(rows for _, rows in predictions)
    assert max(shared) > 3
    assert max(shared) <= 8


def test_a_lone_request_is_a_call_of_its_own(server):
    assert server.predict({"instances": [3]}, "squares").json() == {"predictions": [[9, 1]]}


def test_a_poisoned_request_fails_alone(server):
    bodies = [{"instances": ["poison"]} if n % 8 == 3 else {"instances": [n]} for n in range(32)]
    for n, response in enumerate(all_at_once(server, bodies, "squares", 32)):
        if n % 8 == 3:
            assert (response.status, response.json()) == (400, {"error": "poison"})
        else:
            assert response.json()["predictions"][0][0] == n * n


def test_headers_stay_with_their_request(server):
    def ask(n):
        response = server.predict({"instances": [n]}, "squares", headers={"X-Tag": str(n)})
        return response.headers["x-tag"], response.json()["predictions"][0][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(32))) == [(str(n), n * n) for n in range(32)]


def test_a_model_that_mixes_its_rows_fails_loudly_and_never_shifts(server):
    assert server.predict({"instances": [1, 2]}, "sums").json() == {"predictions": [3]}
    statuses = set()
    for n, response in enumerate(all_at_once(server, [{"instances": [n, n]} for n in range(24)], "sums")):
        statuses.add(response.status)
        if response.status == 200:
            assert response.json() == {"predictions": [2 * n]}
        else:
            assert "must return one for each instance" in response.json()["error"]
    assert 500 in statuses


def test_a_predict_that_takes_headers_is_not_joined(server):
    responses = all_at_once(server, [{"instances": [n]} for n in range(8)], "headers")
    assert {response.json()["predictions"][0][1] for response in responses} == {1}


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_built_in_models_answer_the_crowd_as_they_answer_one(framework, request, tmp_path):
    archive = request.getfixturevalue(f"trained_{framework}").archive
    bodies = [{"instances": ROWS[: 1 + n % 4]} for n in range(200)]
    wrong = [{"instances": [[1.0, 2.0]]}, {"instances": [["a"]]}, {"instances": [[1.0] * 4, [1.0] * 3]}, {}]
    for n in range(0, 200, 9):
        bodies[n] = wrong[n % 4]
    with serving(["-m", "modelserver", f"iris={archive}"], tmp_path / "log") as server:
        server.wait_ready("iris")
        alone = {str(body): server.predict(body, "iris") for body in bodies}
        mixed = list(enumerate(bodies))
        random.Random(1).shuffle(mixed)
        for body, response in zip(
            [body for _, body in mixed],
            all_at_once(server, [body for _, body in mixed], "iris", 32),
            strict=True,
        ):
            expected = alone[str(body)]
            assert response.status == expected.status
            if expected.status == 200:
                for got, want in zip(
                    response.json()["predictions"], expected.json()["predictions"], strict=True
                ):
                    assert got == pytest.approx(want, abs=1e-6)
            else:
                assert response.json() == expected.json()
