"""A program written for KServe 0.21 and V2 runs here with one line changed, and answers as it does there.

Both servers run in the environment of the real KServe, with the same numpy and pandas.
"""

import contextlib
import json
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from harness import START_S, environment, request, serving, wait_until

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import kserve\n"
V2 = "/v2/models/"


def tensor(name, datatype, shape, data, **parameters):
    made = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return made | ({"parameters": parameters} if parameters else {})


def infer(model, *inputs, id="1", **rest):
    return f"{V2}{model}/infer", {"id": id, "inputs": list(inputs), **rest}


def binary(model, tensors, **rest):
    """A request whose tensors follow its JSON as bytes."""
    inputs, raw = [], b""
    for name, datatype, shape, data in tensors:
        inputs.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": len(data)},
            }
        )
        raw += data
    head = json.dumps({"id": "b", "inputs": inputs, **rest}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return f"{V2}{model}/infer", head + raw, headers


ROWS = tensor("rows", "FP32", [2, 2], [6.0, 3.5, 5.0, 2.25])
PAIR = (tensor("a", "INT32", [3], [5, 7, 9]), tensor("b", "INT32", [3], [1, 2, 3]))
FIRST = ("a", "INT32", [2], struct.pack("<2i", 7, -1))
SECOND = ("b", "INT32", [2], struct.pack("<2i", 3, 2))
WORDS = ("w", "BYTES", [2], struct.pack("<I", 2) + b"ab" + struct.pack("<I", 3) + "aé".encode())

CASES = {
    "json": infer("scaler", ROWS),
    "json, nested": infer("scaler", tensor("rows", "FP32", [2, 2], [[6.0, 3.5], [5.0, 2.25]])),
    "json, one row": infer("scaler", tensor("rows", "FP32", [1, 2], [6.0, 3.5]), id="other"),
    "binary in": binary("scaler", [("rows", "FP32", [2, 2], struct.pack("<4f", 6, 3.5, 5, 2.25))]),
    "an input of another name": infer("scaler", tensor("lines", "FP32", [1, 2], [1.0, 2.0])),
    "a data frame": infer(
        "frame",
        tensor("city", "BYTES", [4], ["Bern", "Graz", "Bern", "Ulm"]),
        tensor("amount", "INT64", [4], [1, 2, 3, 4]),
    ),
    "two inputs, two outputs": infer("addsub", *PAIR),
    "one output, asked for": infer("addsub", *PAIR, outputs=[{"name": "difference"}]),
    "outputs in the other order": infer("addsub", *PAIR, outputs=[{"name": "difference"}, {"name": "sum"}]),
    "an output that is not there": infer("addsub", *PAIR, outputs=[{"name": "product"}]),
    "two binary inputs": binary("addsub", [FIRST, SECOND]),
    "binary out by its own wish": infer(
        "addsub",
        *PAIR,
        outputs=[{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}],
    ),
    "binary out for all": infer("addsub", *PAIR, parameters={"binary_data_output": True}),
    "V2 answered with a dictionary": infer("dictionary", tensor("x", "INT64", [2, 2], [1, 2, 3, 4])),
    "V1 of the same model": ("/v1/models/dictionary:predict", {"instances": [[1, 2], [3, 4]]}),
    "every datatype": infer(
        "echo",
        tensor("bool", "BOOL", [2], [True, False]),
        *(
            tensor(f"{sign}{bits}", f"{sign}{bits}", [2], [1, 100])
            for sign in ("UINT", "INT")
            for bits in (8, 16, 32, 64)
        ),
        tensor("fp32", "FP32", [1, 2], [0.5, -2.0]),
        tensor("fp64", "FP64", [2, 1], [0.1, 1e300]),
        tensor("bytes", "BYTES", [1], ["Grüezi"]),
    ),
    "integers beyond 2**53": infer(
        "echo", tensor("x", "INT64", [2], [2**63 - 1, -(2**63)]), tensor("y", "UINT64", [1], [2**64 - 1])
    ),
    "parameters of every kind": infer(
        "echo", tensor("x", "INT32", [1], [1]), parameters={"s": "text", "b": True, "i": 3}
    ),
    "texts as bytes": binary("echo", [WORDS]),
    "a tensor of no dimension": infer("echo", tensor("x", "FP64", [], [2.5])),
    "objects made by the model": (*infer("built", ROWS), {"X-Tenant": "acme"}),
    "it raises InvalidInput": infer("failing", tensor("kind", "BYTES", [1], ["input"])),
    "it raises ValueError": infer("failing", tensor("kind", "BYTES", [1], ["value"])),
    "it raises ModelNotFound": infer("failing", tensor("kind", "BYTES", [1], ["not found"])),
    "it raises ModelNotReady": infer("failing", tensor("kind", "BYTES", [1], ["not ready"])),
    "it raises InferenceError": infer("failing", tensor("kind", "BYTES", [1], ["inference"])),
    "it raises NotImplementedError": infer("failing", tensor("kind", "BYTES", [1], ["later"])),
    "no such model": infer("nobody", ROWS),
    "no JSON": (f"{V2}scaler/infer", b"{"),
    "no inputs": (f"{V2}scaler/infer", {"id": "1"}),
    "an unknown datatype": infer("scaler", tensor("rows", "FP33", [1, 2], [1.0, 2.0])),
    "too little data": infer("scaler", tensor("rows", "FP32", [2, 2], [1.0, 2.0, 3.0])),
    "no data": infer("scaler", {"name": "rows", "datatype": "FP32", "shape": [1, 2]}),
    "all JSON, and no type of content": (*infer("scaler", ROWS), {"Content-Type": ""}),
    "half precision as JSON": infer("echo", tensor("x", "FP16", [1], [0.5])),
    "metadata of the server": (V2.removesuffix("/models/"), None),
    "metadata": (f"{V2}scaler", None),
    "metadata, none said": (f"{V2}echo", None),
    "live": ("/v2/health/live", None),
    "ready": ("/v2/health/ready", None),
    "models": ("/v2/models", None),
    "model ready": (f"{V2}scaler/ready", None),
    "model ready, unknown": (f"{V2}nobody/ready", None),
}


DIFFERENT = {
    "no JSON": "400 and `error`, as the protocol says; KServe: 422 and `detail`",
    "no inputs": "the same",
    "no data": "the same",
    "an unknown datatype": "our text says what came, and which there are",
    "too little data": "400 and what was expected; KServe: 500",
    "all JSON, and no type of content": "read, as tritonclient sends it; KServe: 400",
    "half precision as JSON": "read and written; KServe: 400",
    "metadata of the server": "its name is another",
    "metadata": "versions and platform; KServe: null and an empty text",
    "metadata, none said": "the same",
}
"""Where our answer is another on purpose (docs/protocol-v2.md)."""

OURS = {
    "no JSON": 400,
    "no inputs": 400,
    "no data": 400,
    "an unknown datatype": 400,
    "too little data": 400,
    "all JSON, and no type of content": 200,
    "half precision as JSON": 200,
    "metadata of the server": 200,
    "metadata": 200,
    "metadata, none said": 200,
}


def ask(port, path, body, headers=None):
    """Status, what was said in JSON, and the bytes behind it."""
    sent = {"Content-Type": "application/json"} | dict(headers or {})
    sent = {name: value for name, value in sent.items() if value}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    answer = request(port, "GET" if data is None else "POST", path, data, sent, timeout_s=60)
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.body)))
    return answer.status, without_nulls(json.loads(answer.body[:length])), answer.body[length:]


def without_nulls(value):
    """KServe writes `"parameters": null` and the like where there is nothing to say."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def ours(programs, clients_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    program = (programs / "kserve_v2.py").read_text()
    assert program.count(IMPORT) == 1
    (folder / "program.py").write_text(program.replace(IMPORT, "import modelserver as kserve\n"))
    env = {"PYTHONPATH": str(ROOT)}
    with serving([folder / "program.py"], folder / "log", env=env, executable=clients_python) as server:
        yield server.wait_ready("scaler", "failing").port


@pytest.fixture(scope="module")
def kserves(programs, clients_python, tmp_path_factory):
    log = tmp_path_factory.mktemp("kserve") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [clients_python, programs / "kserve_v2.py", "--http_port", str(port), "--enable_grpc", "false"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment()
        )
    try:

        def answers():
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(ConnectionError):
                return request(port, "GET", "/").status == 200

        wait_until(answers, START_S, "KServe's server")
        yield port
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("name", CASES)
def test_both_servers_answer_alike(ours, kserves, name):
    got, theirs = ask(ours, *CASES[name]), ask(kserves, *CASES[name])
    if name not in DIFFERENT:
        if "outputs" in theirs[1] and "model_version" not in theirs[1]:
            # KServe knows no versions. Ours is what metadata says.
            assert got[1].pop("model_version") == "1"
        assert got == theirs
        return
    assert got != theirs, f"now alike: {name}: {DIFFERENT[name]}"
    status, said, _ = got
    assert status == OURS[name]
    assert ("error" in said) == (status != 200)
