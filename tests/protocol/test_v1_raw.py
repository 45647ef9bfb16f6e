"""V1 bodies of bytes, on the wire: what reaches a model, by what it says of its input."""

import struct

import pytest
from harness import serving

ROWS = struct.pack("<4f", 1, 2, 3, 4.5)
FILE = b"\xff\xd8\xff\xe0"
JSON = b'{"instances": [[1.5, 2]]}'
OCTETS = "application/octet-stream"
MODELS = ("numbers", "open", "pictures", "texts", "text", "undeclared", "plain")


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    with serving([programs / "raw.py"], tmp_path_factory.mktemp("raw") / "log") as running:
        yield running.wait_ready(*MODELS)


def seen(kind, values):
    return {"kind": kind, "values": values}


@pytest.mark.parametrize(
    ("model", "content_type", "body", "answer"),
    [
        ("numbers", OCTETS, ROWS, seen("float32", [[1, 2], [3, 4.5]])),
        ("numbers", "Application/Octet-Stream; x=y", ROWS, seen("float32", [[1, 2], [3, 4.5]])),
        ("numbers", OCTETS, JSON, seen("float32", [[1.5, 2]])),
        ("numbers", "image/png", JSON, seen("float32", [[1.5, 2]])),
        ("numbers", "text/csv", ROWS, {"bytes": 16}),
        ("texts", OCTETS, FILE, seen("list", [FILE.hex()])),
        ("texts", "image/jpeg", FILE, seen("list", [FILE.hex()])),
        ("texts", "video/mp4", FILE, seen("list", [FILE.hex()])),
        ("texts", "application/pdf", FILE, {"bytes": 4}),
        ("texts", OCTETS, b"", seen("list", [""])),
        ("texts", OCTETS, JSON, seen("list", [[1.5, 2]])),
        ("text", "image/jpeg", FILE, seen("bytes", FILE.hex())),
        ("pictures", "image/jpeg", FILE, seen("float32", [[4, 0]])),
        ("pictures", OCTETS, ROWS, seen("float32", [[16, 0]])),
        ("undeclared", OCTETS, ROWS, {"bytes": 16}),
        ("plain", OCTETS, ROWS, {"bytes": 16}),
        ("plain", "image/jpeg", FILE, {"bytes": 4}),
        ("plain", OCTETS, JSON, {"bytes": 25}),
    ],
)
def test_what_reaches_a_model(server, model, content_type, body, answer):
    response = server.post(f"/v1/models/{model}:predict", body, content_type)
    assert (response.status, response.json()) == (200, answer)


@pytest.mark.parametrize(
    ("model", "content_type", "body", "status", "text"),
    [
        (
            "numbers", OCTETS, ROWS[:-1], 400,
            'The body has 15 bytes, expected a multiple of 8: input "x" takes rows of FP32 of shape [2], '
            "little-endian",
        ),
        (
            "numbers", "image/png", FILE, 415,
            "Content-Type 'image/png' is not for input \"x\", FP32 of shape [-1, 2]. Send its rows as JSON "
            "or application/x-npy, or as application/octet-stream: rows of 8 bytes, little-endian.",
        ),
        (
            "open", OCTETS, ROWS, 415,
            "Content-Type 'application/octet-stream' is not for input \"x\", FP32 of shape [-1, -1]. Send "
            "its rows as JSON or application/x-npy.",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(server, model, content_type, body, status, text):
    response = server.post(f"/v1/models/{model}:predict", body, content_type)
    assert (response.status, response.json()) == (status, {"error": text})


def test_explain_gets_rows_too(server):
    response = server.post("/v1/models/numbers:explain", ROWS, OCTETS)
    assert response.json() == seen("float32", [[1, 2], [3, 4.5]])


def test_a_large_body_and_one_in_chunks(server):
    count = 200_000
    body = struct.pack("<2f", 1, 0) * count
    assert len(server.post("/v1/models/numbers:predict", body, OCTETS).json()["values"]) == count
    chunked = iter([ROWS[:3], ROWS[3:]])
    response = server.request("POST", "/v1/models/numbers:predict", chunked, headers={"Content-Type": OCTETS})
    assert response.json() == seen("float32", [[1, 2], [3, 4.5]])
