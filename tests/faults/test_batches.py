"""Rows that are wrong: told which and why, and whoever shares their batch is not harmed."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import serving
from wire import connect, post, read_answer

ROW = [6.8, 2.8, 4.8, 1.4]


@pytest.fixture(scope="module")
def iris(trained_pytorch, trained_tensorflow, tmp_path_factory):
    """Both iris models, in one process."""
    models = [f"torch={trained_pytorch.archive}", f"tf={trained_tensorflow.archive}"]
    log = tmp_path_factory.mktemp("iris") / "log"
    with serving(["-m", "modelserver", *models, "--max_batch_size", "32"], log) as running:
        yield running.wait_ready("torch", "tf")


def ask(port, model, instances):
    with connect(port) as sock:
        sock.sendall(post(json.dumps({"instances": instances}).encode(), f"/v1/models/{model}:predict"))
        return read_answer(sock)


def at_once(port, model, requests):
    """The answers to requests that are sent at the same moment, each on a connection of its own."""
    gate = threading.Barrier(len(requests))

    def one(instances):
        with connect(port) as sock:
            data = post(json.dumps({"instances": instances}).encode(), f"/v1/models/{model}:predict")
            gate.wait()
            sock.sendall(data)
            return read_answer(sock)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


# row 38
def test_poison_in_a_batch_harms_nobody_else(server):
    for place in range(8):
        requests = [[number] for number in range(8)]
        requests[place] = [-1]  # a number, like the others: text would not be joined with them
        answers = at_once(server.port, "doubled", requests)
        for number, answer in enumerate(answers):
            if number == place:
                assert answer.status == 500
                assert "ZeroDivisionError" in answer.error()
            else:
                assert (answer.status, json.loads(answer.body)) == (200, {"predictions": [2 * number]})
    assert json.loads(ask(server.port, "doubled", [21]).body) == {"predictions": [42]}
    joined = [int(rows) for rows in re.findall(r"^rows (\d+)$", server.text(), re.MULTILINE)]
    assert max(joined) > 1  # or nothing was shown


# What is sent, and what the answer must name.
WRONG_ROWS = {
    "ragged": ([ROW, ROW[:3]], "1"),
    "too short": ([ROW[:3]], "3"),
    "too long": ([[*ROW, 1.0]], "5"),
    "too deep": ([[ROW]], "4"),
    "a number": ([1.0], ""),
    "text": ([[6.8, "2.8", 4.8, 1.4]], "2.8"),
    "null": ([[6.8, None, 4.8, 1.4]], ""),
    "an object": ([{"a": 1}], ""),
    "true among numbers": ([[True, 2.8, 4.8, 1.4], [{}, 1, 1, 1]], ""),
    "bad base64": ([{"b64": "***"}], ""),
    "base64 where numbers belong": ([{"b64": "AAAA"}], ""),
    "2^70": ([[2**70, 1, 1, 1], ["x"]], ""),
}

# The network itself takes these: a linear layer any number of dimensions, a sum of matrices a single number
# (as under TensorFlow Serving). Their senders get what it makes of them.
TAKEN = {("too deep", "torch"), ("a number", "tf")}


# row 36
@pytest.mark.parametrize("model", ["torch", "tf"])
@pytest.mark.parametrize("kind", WRONG_ROWS)
def test_wrong_rows_are_told_apart_and_harm_nobody(iris, kind, model):
    rows, names = WRONG_ROWS[kind]
    good = [[6.0 + number / 10, 3.4, 4.5, 1.6] for number in range(7)]
    expected = [json.loads(ask(iris.port, model, [row]).body)["predictions"] for row in good]
    answers = at_once(iris.port, model, [*([row] for row in good), rows])
    if (kind, model) not in TAKEN:
        assert answers[-1].status == 400, answers[-1].body
        assert names in answers[-1].error()
    for answer, predictions in zip(answers[:-1], expected, strict=True):
        assert answer.status == 200
        assert np.allclose(json.loads(answer.body)["predictions"], predictions, rtol=1e-4)


# row 36
@pytest.mark.parametrize("model", ["torch", "tf"])
def test_the_refusal_says_row_expected_and_got(iris, model):
    ragged = ask(iris.port, model, [ROW, ROW, ROW[:3]]).error()
    row, got, expected = {
        "torch": ('"instances"[2]', "[3]", "expected [4]"),
        "tf": ("element: 2", "got: 3", "tensor size: 4"),  # TensorFlow Serving's words
    }[model]
    assert row in ragged
    assert got in ragged
    assert expected in ragged
    wrong = ask(iris.port, model, [ROW[:3]]).error()
    assert "[1, 3]" in wrong or "[1,3]" in wrong
    assert "4]" in wrong


# row 35, 37
@pytest.mark.parametrize("body", [{}, {"instance": [ROW]}, [ROW], 7, None, "instances", {"instances": None}])
@pytest.mark.parametrize("model", ["torch", "tf"])
def test_a_wrong_top_level(iris, model, body):
    answer = iris.post(f"/v1/models/{model}:predict", body)
    assert answer.status == 400
    assert "instances" in answer.json()["error"]
    assert ask(iris.port, model, [ROW]).status == 200


# row 37
@pytest.mark.parametrize("model", ["torch", "tf"])
def test_no_rows_and_a_million_rows(iris, model):
    empty = ask(iris.port, model, [])
    assert empty.status == 400
    assert empty.error()
    body = b'{"instances":[%b[1,2,3,4]]}' % (b"[1,2,3,4]," * 999_999)
    with connect(iris.port, 120) as sock:
        sock.sendall(post(body, f"/v1/models/{model}:predict"))
        answer = read_answer(sock)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert len(json.loads(answer.body)["predictions"]) == 1_000_000
    assert ask(iris.port, model, [ROW]).status == 200
