"""V1, case by case, on the wire. The cases are data: ``v1_cases.json``."""

import json
from pathlib import Path

import pytest
from harness import wait_until

CASES = json.loads((Path(__file__).parent / "v1_cases.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(zoo, case):
    sent = case["request"]
    response = zoo.request(sent["method"], sent["path"], sent.get("body"), headers=sent.get("headers"))
    assert response.status == case["status"], response.body
    assert response.headers["Content-Type"] == "application/json"
    if "json" in case:
        assert response.json() == case["json"]
    if "error_starts" in case:
        assert response.json()["error"].startswith(case["error_starts"])
    assert response.headers["Allow"] == case.get("allow")
    assert "Traceback" not in response.body.decode()
    assert response.headers["x-injected"] is None


def test_names_of_cases_are_unique():
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)


def test_text_and_bytes_keep_their_types(zoo):
    text = zoo.predict({"instances": ["text"]}, "typed")
    assert (text.body, text.headers["Content-Type"]) == (b"plain", "text/plain; charset=utf-8")
    binary = zoo.predict({"instances": ["bytes"]}, "typed")
    assert (binary.body, binary.headers["Content-Type"]) == (b"\x00\x01", "application/octet-stream")


def test_headers_in_and_out(zoo):
    response = zoo.predict({"instances": [1, 2]}, "headers", headers={"X-Agent": "me"})
    assert response.json() == {"predictions": ["me"]}
    assert response.headers["x-rows"] == "2"


def test_a_failure_is_logged_once_with_its_traceback(zoo):
    response = zoo.predict({"instances": ["value"]}, "raises")
    named = f"[{response.headers['X-Request-ID']}]"
    wait_until(lambda: "Traceback" in zoo.text().partition(named)[2])  # a thread writes the log
    assert zoo.text().count(named) == 1
    after = zoo.text().partition(named)[2]
    assert after.lstrip("]: ").startswith("ValueError : bad value")
    assert "Traceback (most recent call last)" in after


def test_head_of_a_page_has_no_body(zoo):
    response = zoo.request("HEAD", "/v1/models")
    assert (response.status, response.body) == (405, b"")
