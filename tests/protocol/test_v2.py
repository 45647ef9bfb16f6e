"""V2 over REST, case by case, on the wire. The cases are data: ``v2_cases.json``.

A ``body`` is sent as it is, one character for each byte. ``json_part`` is sent as JSON; with ``raw`` it is
the first part of a body of the binary tensor data extension, and the header says how long it is. ``binary``
and ``rest`` are the two parts of an answer. An id that a request does not have may be anything in its answer.
"""

import json
from pathlib import Path

import pytest
from harness import serving

CASES = json.loads((Path(__file__).parent / "v2_cases.json").read_text(encoding="utf-8"))
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    with serving([programs / "v2.py"], tmp_path_factory.mktemp("v2") / "log") as running:
        yield running.wait_ready("echo", "bare")


def sent(request):
    headers = dict(request.get("headers", {}))
    if "json_part" not in request:
        body = request.get("body")
        return body if body is None else body.encode("latin-1"), headers
    body = json.dumps(request["json_part"]).encode()
    if "raw" in request:
        headers[HEADER] = str(len(body))
        body += request["raw"].encode("latin-1")
    return body, headers


def without_own_id(answer, request):
    """An answer without the id that the server has made up, if it has."""
    if isinstance(answer, dict) and "id" not in request.get("json_part", {}):
        answer.pop("id", None)
    return answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(server, case):
    request = case["request"]
    body, headers = sent(request)
    response = server.request(request["method"], request["path"], body, headers=headers)
    assert response.status == case["status"], response.body
    assert response.headers["Allow"] == case.get("allow")
    head = response.body
    if "binary" in case:
        assert response.headers["Content-Type"] == "application/octet-stream"
        length = int(response.headers[HEADER])
        head, rest = response.body[:length], response.body[length:]
        assert rest == case["rest"].encode("latin-1")
    else:
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers[HEADER] is None
    answer = without_own_id(json.loads(head), request)
    wanted = case.get("binary", case.get("json"))
    if wanted is not None:
        assert answer == wanted
        assert json.dumps(answer, sort_keys=True) == json.dumps(wanted, sort_keys=True)  # 1 is not True here
    else:
        assert answer.keys() == {"error"}
        assert answer["error"].startswith(case["error_starts"]), answer
    assert b"Traceback" not in response.body


def test_names_of_cases_are_unique():
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)
