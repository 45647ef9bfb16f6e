"""The Open Inference Protocol's infer over REST: bodies as they come over a socket, memory, shared calls."""

import concurrent.futures
import gzip
import json

import numpy as np
import pytest
import wire
from harness import serving, wait_until

from modelserver import datatypes

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    with serving([programs / "infer.py"], tmp_path_factory.mktemp("infer") / "log") as running:
        yield running.wait_ready("echo", "sum", "rows", "joined", "release")


def tensor(name, array, datatype):
    raw = bytes(datatypes.pack(array, datatype))
    described = {"name": name, "shape": list(array.shape), "datatype": datatype}
    return {**described, "parameters": {"binary_data_size": len(raw)}}, raw


def binary_body(*tensors, **message):
    described, raw = zip(*tensors, strict=True)
    head = json.dumps({"inputs": described, **message}).encode()
    return head + b"".join(raw), len(head)


def infer(server, body, length=None, model="echo", **headers):
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    if length is not None:
        fields[HEADER] = str(length)
    return server.request("POST", f"/v2/models/{model}/infer", body, headers=fields, timeout_s=120)


def outputs(response):
    """The answer's JSON, and the raw bytes of its outputs by name."""
    assert response.status == 200, response.body
    length = int(response.headers.get(HEADER, len(response.body)))
    message, raw = json.loads(response.body[:length]), response.body[length:]
    found = {}
    for output in message["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        found[output["name"]], raw = raw[:size], raw[size:]
    assert raw == b""
    return message, found


@pytest.mark.parametrize("datatype", datatypes.DATATYPES)
def test_every_datatype_as_json_and_binary_in_one_request(server, datatype):
    if datatype == "BYTES":
        array = np.array([["a", "é"], ["", "b" * 500]], object)
    else:
        array = np.array([[1, 0], [0, 1]]).astype(datatypes.numpy_dtype(datatype))
    described, raw = tensor("b", array, datatype)
    as_json = {"name": "j", "shape": [2, 2], "datatype": datatype, "data": array.tolist()}
    wanted = [{"name": "j_out", "parameters": {"binary_data": True}}, {"name": "b_out"}]
    head = json.dumps({"id": "7", "inputs": [as_json, described], "outputs": wanted}).encode()
    response = infer(server, head + raw, len(head))
    assert response.headers["Content-Type"] == "application/octet-stream"
    message, found = outputs(response)
    assert (message["id"], message["model_name"], message["model_version"]) == ("7", "echo", "1")
    assert [output["name"] for output in message["outputs"]] == ["j_out", "b_out"]
    assert found["j_out"] == raw
    assert message["outputs"][1]["data"] == array.reshape(-1).tolist()


def test_an_answer_without_binary_tensors_is_json(server):
    body, length = binary_body(tensor("x", np.float32([1.5, 2.5]), "FP32"))
    response = infer(server, body, length)
    assert response.headers["Content-Type"] == "application/json"
    assert HEADER not in response.headers
    assert response.json()["outputs"][0]["data"] == [1.5, 2.5]


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/json", "text/plain"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_the_content_type_says_nothing(server, content_type, is_binary):
    if is_binary:
        body, length = binary_body(tensor("x", np.float32([1, 2]), "FP32"))
    else:
        body, length = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}', None
    response = infer(server, body, length, Content_Type=content_type)
    assert response.json()["outputs"][0]["data"] == [1.0, 2.0]


@pytest.mark.parametrize("count", [10, 1_000_003])
def test_arrays_lie_where_numbers_may(server, count):
    """A large body is read into place; a model may write into its input."""
    array = np.arange(count, dtype=np.float64)
    body, length = binary_body(tensor("x", array, "FP64"), parameters={"binary_data_output": True})
    message, found = outputs(infer(server, body, length))
    assert found["x_out"] == array.tobytes()
    if count > 10:
        assert message["parameters"] == {"writeable": True, "aligned": True}


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_chunked_and_gzip_bodies(server, size):
    array = np.random.default_rng(0).integers(0, 9, size, np.uint8)
    body, length = binary_body(tensor("x", array, "UINT8"), parameters={"binary_data_output": True})
    response = infer(server, gzip.compress(body, 1), length, Content_Encoding="gzip")
    assert outputs(response)[1]["x_out"] == array.tobytes()
    pieces = (body[start : start + 70_000] for start in range(0, len(body), 70_000))
    assert outputs(infer(server, pieces, length))[1]["x_out"] == array.tobytes()


def test_a_hook_s_headers_are_on_binary_answers(server):
    body, length = binary_body(tensor("x", np.float32([1]), "FP32"), parameters={"binary_data_output": True})
    response = infer(server, body, length, X_Tag="a")
    assert response.headers["X-Tag"] == "a"
    assert outputs(response)[1]["x_out"] == np.float32([1]).tobytes()


@pytest.mark.parametrize("count", [40_000, 2_000_000])
def test_the_connection_goes_on_behind_a_large_answer(server, count):
    array = np.arange(count, dtype=np.float32)
    body, length = binary_body(tensor("x", array, "FP32"), parameters={"binary_data_output": True})
    request = (
        f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n{HEADER}: {length}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with wire.connect(server.port) as sock, concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sock.sendall, request * 2)
        for _ in range(2):
            answer = wire.read_answer(sock)
            assert answer.status == 200
            assert answer.body.endswith(array.tobytes())
        sending.result()


def test_a_client_that_leaves_a_large_answer_harms_nobody(server):
    body, length = binary_body(
        tensor("x", np.zeros(20_000_000, np.uint8), "UINT8"), parameters={"binary_data_output": True}
    )
    with wire.connect(server.port) as sock:
        sock.sendall(
            f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n{HEADER}: {length}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert sock.recv(12) == b"HTTP/1.1 200"
    wait_until(
        lambda: "modelserver_requests_in_flight 1" in server.get("/metrics").body.decode(), what="it is over"
    )
    assert "could not be sent" not in server.text()


@pytest.mark.parametrize("model", ["sum", "echo"])
def test_a_large_tensor_takes_its_own_size_and_little_more(server, model):
    """Measured with 100 MB: 1.0 times its size, in and out, with and without uvloop."""
    array = np.ones(16 << 20, np.float32)
    body, length = binary_body(tensor("x", array, "FP32"), parameters={"binary_data_output": True})
    infer(server, *binary_body(tensor("x", array[:10], "FP32")), model=model)
    with wire.peak_growth(server) as grown:
        response = infer(server, body, length, model=model)
    found = outputs(response)[1]
    assert found["x_out" if model == "echo" else "predictions"]
    assert grown[0] < 1.3 * array.nbytes


def shared(server, model, asks):
    """The answers to requests that wait while the model is held."""
    with concurrent.futures.ThreadPoolExecutor(len(asks) + 1) as pool:
        hold, length = binary_body(tensor("x", np.float32([[-1, 0]]), "FP32"))
        first = pool.submit(infer, server, hold, length, model)
        waiting = f'modelserver_queue_length{{model="{model}"}}'
        wait_until(lambda: f"{waiting} 1" in server.get("/metrics").body.decode(), what="the model is held")
        others = [pool.submit(ask) for ask in asks]
        wait_until(
            lambda: f"{waiting} {len(asks) + 1}" in server.get("/metrics").body.decode(),
            what="all of them wait",
        )
        server.predict({"instances": [model]}, "release")
        assert first.result().status == 200
        return [other.result() for other in others]


def test_v1_and_v2_share_calls(server):
    def v1():
        return server.predict({"instances": [[1.5, 2.5]]}, "rows")

    def v2():
        return infer(
            server, *binary_body(tensor("x", np.float32([[1.5, 2.5], [3, 4]]), "FP32")), model="rows"
        )

    answers = shared(server, "rows", [v1, v2, v1, v2])
    assert [answer.status for answer in answers] == [200] * 4
    assert [answers[n].json()["predictions"] for n in (0, 2)] == [[[4.0, 6.0]]] * 2
    for n in (1, 3):
        (output,) = answers[n].json()["outputs"]
        assert (output["name"], output["shape"], output["datatype"]) == ("predictions", [2, 2], "FP32")
        assert output["data"] == [4.0, 6.0, 7.0, 6.0]


def test_own_models_of_tensors_share_calls(server):
    def ask():
        return infer(server, *binary_body(tensor("x", np.float32([[1, 2]]), "FP32")), model="joined")

    answers = shared(server, "joined", [ask] * 5)
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[5]] * 5


@pytest.fixture(scope="module")
def uncollected(programs, tmp_path_factory):
    with serving([programs / "uncollected.py"], tmp_path_factory.mktemp("uncollected") / "log") as running:
        yield running.wait_ready("echo", "sum", "refuses")


@pytest.mark.parametrize("path", ["/v2/models/{}/infer", "/v1/models/{}:predict"])
@pytest.mark.parametrize("model", ["echo", "sum", "refuses"])
def test_a_request_is_gone_when_it_is_answered(uncollected, model, path):
    """Not when the garbage collector comes, which may be long: nothing in it may hold what holds it."""
    body, length = binary_body(
        tensor("x", np.ones(8 << 20, np.uint8), "UINT8"), parameters={"binary_data_output": True}
    )
    fields = {HEADER: str(length), "Content-Type": "application/octet-stream"}

    def ask():
        uncollected.request("POST", path.format(model), body, headers=fields, timeout_s=120)

    ask()
    before = wire.rss(uncollected)
    for _ in range(10):
        ask()
    assert wire.rss(uncollected) - before < 2 * len(body)
