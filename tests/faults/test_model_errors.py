"""Models that raise, and models that answer with junk: in a thread, in place, in a task, in a joined call."""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path

import orjson
import pytest
from harness import serving, wait_until

PROGRAM = Path(__file__).parents[1] / "e2e" / "programs" / "failing.py"
MODELS = ("threaded", "in-place", "async", "hooks")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving([PROGRAM], tmp_path_factory.mktemp("failing") / "log") as server:
        yield server.wait_ready("threaded")


@pytest.fixture(scope="module", autouse=True)
def short(server):
    """Calls of the model in place have proven short: they run on the event loop from now on."""
    for _ in range(100):
        assert server.predict({"instances": ["echo", ""]}, "in-place").status == 200


def ask(server, model, action, text="", **kwargs):
    """What the model's action comes to; the process is the same afterwards, and right."""
    response = server.predict({"instances": [action, text]}, model, **kwargs)
    assert server.process.poll() is None
    good = server.predict({"instances": ["echo", "good"]}, model)
    assert (good.status, good.json()) == (200, {"predictions": ["good"]})
    return response


def error(response):
    assert response.headers["Content-Type"] == "application/json"
    (text,) = orjson.loads(response.body).values()
    return text


RAISED = [
    ("invalid", "row 3 is too long", 400, "row 3 is too long"),
    ("value", "bad value", 500, "ValueError : bad value"),
    ("value", "two\r\nlines", 500, "ValueError : two\r\nlines"),
    ("silent", "", 500, "Silent : (an exception whose text cannot be read)"),
    ("no_reason", "", 500, "NoReason : "),
    ("no_status", "nothing", 500, "nothing"),
    ("empty", "nothing", 500, "nothing"),
    ("memory", "", 503, "Not enough memory for this request."),
    ("array_memory", "", 503, "Not enough memory for this request."),
    ("exit", "3", 500, "the model called SystemExit"),
    ("interrupt", "", 500, "the model called KeyboardInterrupt"),
    ("cancelled", "", 500, "CancelledError : "),
    ("generator", "", 500, "GeneratorExit : "),
    ("stop", "", 500, "StopIteration : "),
    ("base", "odd", 500, "Exits : odd"),
    ("recursion", "", 500, "RecursionError : maximum recursion depth exceeded"),
    ("assertion", "", 500, "AssertionError : "),
    ("timeout", "late", 500, "TimeoutError : late"),
    ("missing", "", 500, "FileNotFoundError : No such file or directory"),
]


# row 7, and row 6 where the request is answered
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("action", "text", "status", "told"), RAISED, ids=lambda value: str(value)[:20])
def test_what_a_hook_raises_is_that_requests_answer(server, model, action, text, status, told):
    response = ask(server, model, action, text, headers={"X-Request-ID": f"{model}-{action}"})
    said = error(response)
    if action == "stop" and model != "in-place":  # Python turns it into another on its way
        assert (response.status, "StopIteration" in said) == (500, True)
        return
    assert (response.status, said[: len(told)]) == (status, told)
    assert response.headers["X-Request-ID"] == f"{model}-{action}"
    assert "Traceback" not in response.body.decode()
    if status >= 500:
        logged = f"predict of model {model} failed [{model}-{action}]: "
        wait_until(lambda: logged in server.text())
        trace = server.text().partition(logged)[2].partition("\n2026")[0]
        assert "\n  Traceback (most recent call last):" in trace


# row 7
@pytest.mark.parametrize("action", ["value", "exit", "base", "memory", "cancelled"])
def test_preprocess_may_fail_too(server, action):
    response = server.predict({"instances": [action, "pre"]}, "hooks")
    assert response.status in (500, 503)
    assert server.predict({"instances": ["echo", "good"]}, "hooks").json() == {"predictions": ["good"]}


# row 7
@pytest.mark.parametrize("action", ["value", "exit", "base", "cancelled", "memory"])
def test_a_joined_call_may_fail_too(server, action):
    response = server.predict({"instances": [[action, "x"]]}, "joined")
    assert response.status == (503 if action == "memory" else 500)
    good = server.predict({"instances": [["echo", "a"], ["echo", "b"]]}, "joined")
    assert good.json() == {"predictions": [["a"], ["b"]]}


# row 7
def test_no_path_and_no_address_goes_out(server):
    for model in MODELS:
        said = error(ask(server, model, "leak"))
        assert said == "RuntimeError : cannot use failing.py with <__main__.Thing object at 0x...> and 'w.pt'"


NO_FORM = "TypeError : the model returned an object of type dict that has no JSON form: "
JUNK = [
    ("none", "TypeError : the model returned None, expected dict, list, str or bytes"),
    ("number", "TypeError : the model returned an object of type int, expected dict, list, str or bytes"),
    ("only_a_set", "TypeError : the model returned an object of type set, expected dict, list, str or bytes"),
    (
        "only_an_object",
        "TypeError : the model returned an object of type Thing, expected dict, list, str or bytes",
    ),
    ("generated", "TypeError : the model returned an object of type int, expected dict, list, str or bytes"),
    ("set", "TypeError : an object of type set has no JSON form"),
    ("object", "TypeError : an object of type Thing has no JSON form"),
    ("class", "TypeError : an object of type type has no JSON form"),
    ("complex", "TypeError : an object of type complex has no JSON form"),
    ("bytes_inside", "TypeError : an object of type bytes has no JSON form"),
    ("objects", "TypeError : an object of type set has no JSON form"),
    ("huge", f"{NO_FORM}Integer exceeds 64-bit range"),
    ("cyclic", f"{NO_FORM}it holds itself, or is nested more than 253 levels deep"),
    ("cyclic_array", f"{NO_FORM}it holds itself, or is nested more than 253 levels deep"),
    ("deep", f"{NO_FORM}it holds itself, or is nested more than 253 levels deep"),
    ("surrogate", NO_FORM),
    ("surrogate_text", "TypeError : the model returned an object of type str that is no Unicode: "),
    ("keys", NO_FORM),
    ("list_value", "ValueError : from tolist"),
]


# row 8
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("action", "told"), JUNK)
def test_junk_is_a_500_that_names_the_type(server, model, action, told):
    response = ask(server, model, action)
    assert (response.status, error(response)[: len(told)]) == (500, told)
    assert int(response.headers["Content-Length"]) == len(response.body)


# row 8
@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("nan", b'{"predictions":[null,null,null]}'),
        ("nan_array", b'{"predictions":[null,null,1.5]}'),
        ("ordered", b'{"predictions":["2020-01-02"]}'),
    ],
)
def test_what_has_a_documented_form_is_sent_in_it(server, action, body):
    response = ask(server, "threaded", action)
    assert (response.status, response.body) == (200, body)


# row 8
@pytest.mark.parametrize("model", MODELS)
def test_an_exit_inside_an_answer_is_a_failure_too(server, model):
    assert ask(server, model, "list_exit").status == 500


def read_all(server, action, size, model="threaded"):
    """Status and length of an answer, read in pieces; the length is what its head says."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        client.request("POST", f"/v1/models/{model}:predict", json.dumps({"instances": [action, str(size)]}))
        response = client.getresponse()
        length = int(response.headers["Content-Length"])
        got = 0
        while piece := response.read(2**20):
            got += len(piece)
        assert got == length
        return response.status, got


# row 8
@pytest.mark.parametrize(("action", "size", "more"), [("big_bytes", 2**30, 0), ("big", 2**28, 18)])
def test_an_answer_of_a_gigabyte_comes_whole(server, action, size, more):
    assert read_all(server, action, size) == (200, size + more)
    assert ask(server, "threaded", "echo").status == 200


# row 6: where the request is answered
def test_a_request_for_which_there_is_no_memory_is_a_503(tmp_path):
    with serving([PROGRAM], tmp_path / "log", env={"MOST_BYTES": str(2**31)}) as server:
        server.wait_ready("threaded")
        for model in MODELS:
            response = server.predict({"instances": ["big_bytes", str(2**31)]}, model)
            assert (response.status, error(response)) == (503, "Not enough memory for this request.")
            assert read_all(server, "big_bytes", 2**28, model) == (200, 2**28)
        wait_until(lambda: server.text().count("failed [") == len(MODELS))
        assert server.text().count("  MemoryError") == len(MODELS)
