"""Requests and answers coded as gzip, on a real server with its default limits."""

import gzip
import json

import pytest

ROWS = {"instances": [[1.5, 2.5]] * 10}


@pytest.mark.parametrize("coding", ["gzip", "x-gzip"])
def test_a_gzip_request_is_answered_as_the_plain_one(zoo, coding):
    body = gzip.compress(json.dumps(ROWS).encode())
    response = zoo.post("/v1/models/echo:predict", body, Content_Encoding=coding)
    assert (response.status, response.json()) == (200, {"predictions": ROWS["instances"]})


@pytest.mark.parametrize(
    ("body", "coding", "status", "text"),
    [
        (b'{"instances": []}', "gzip", 400, "Content-Encoding is gzip and the body is not, or is damaged"),
        (gzip.compress(b"{}")[:-3], "gzip", 400, "The gzip body is cut short"),
        (b"{}", "br", 415, "Content-Encoding is 'br', expected gzip or none"),
        (
            gzip.compress(bytes(100_000_000)), "gzip", 413,
            "The inflated request body has at least 10485761 bytes and the limit is 10485760. Raise it with "
            "--max_buffer_size (bytes).",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_inflated_is_refused_and_the_server_goes_on(zoo, body, coding, status, text):
    response = zoo.post("/v1/models/echo:predict", body, Content_Encoding=coding)
    assert (response.status, response.json()) == (status, {"error": text})
    assert zoo.predict(ROWS, "echo").status == 200


@pytest.mark.parametrize("rows", [5_000, 50_000])  # coded on the loop, and on a thread
def test_a_large_answer_is_gzip_for_who_asks(zoo, rows):
    request = {"instances": [[number, 0.5] for number in range(rows)]}
    plain = zoo.predict(request, "echo")
    coded = zoo.predict(request, "echo", headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert coded.headers["Content-Encoding"] == "gzip"
    assert coded.headers["Vary"] == "Accept-Encoding"
    assert coded.headers["Content-Type"] == "application/json"
    assert len(coded.body) < len(plain.body) / 2
    assert gzip.decompress(coded.body) == plain.body


@pytest.mark.parametrize("accepts", ["gzip;q=0", "br", ""])
def test_and_for_nobody_else(zoo, accepts):
    request = {"instances": [[number, 0.5] for number in range(5000)]}
    response = zoo.predict(request, "echo", headers={"Accept-Encoding": accepts})
    assert "Content-Encoding" not in response.headers
    assert response.json() == {"predictions": request["instances"]}


def test_a_small_answer_is_not_worth_it(zoo):
    response = zoo.predict(ROWS, "echo", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers
