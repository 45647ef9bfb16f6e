"""Dialects are driven by hand: what they ask is looked at, and the replies are written here."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from modelserver import InferInput, InferRequest, InvalidInput, RequestedOutput
from modelserver.client.calls import Answer, Question, Reply
from modelserver.client.dialects import V1, V2
from modelserver.client.failures import CallFailed, ServerUnreachable, UnreadableAnswer
from modelserver.protocols import v2_rest
from modelserver.protocols.v2_values import Response, Tensor

URL = "http://h:8080"
ROWS = np.array([[1, 2], [3, 4]], np.float32)


def reply(value, status=200, **headers):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    fields = {name.replace("_", "-"): each for name, each in headers.items()}
    return Reply(status, fields, memoryview(body))


def drive(steps, *replies):
    """Run a dialect's generator with these replies; what it has asked, and its result."""
    calls, rest = [], iter(replies)
    try:
        call = next(steps)
        while True:
            calls.append(call)
            answer = next(rest)
            call = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return SimpleNamespace(calls=calls, result=end.value)


def body_of(call):
    return b"".join(call.body)


def ask_v1(inputs, answer=b'{"predictions":[1]}', *, headers=None, **options):
    driven = drive(V1(URL).infer(Question("m", inputs, **options)), reply(answer, **(headers or {})))
    return driven.calls[0], driven.result


# -- V1


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        (ROWS, '{"instances":[[1.0,2.0],[3.0,4.0]]}'),
        (ROWS.T, '{"instances":[[1.0,3.0],[2.0,4.0]]}'),
        (np.array([[0.1]], np.float16), '{"instances":[[0.099975586]]}'),
        (np.array([np.nan, np.inf]), '{"instances":[NaN,Infinity]}'),
        (np.array([True]), '{"instances":[true]}'),
        (np.array(["ä", "b"]), '{"instances":["ä","b"]}'),
        (np.array([b"a", b"\xff"], object), '{"instances":["a",{"b64":"/w=="}]}'),
        ([{"a": 1}, {"a": [2]}], '{"instances":[{"a":1},{"a":[2]}]}'),
        ({"a": ROWS, "b": ["x", "y"]}, '{"instances":[{"a":[1.0,2.0],"b":"x"},{"a":[3.0,4.0],"b":"y"}]}'),
        ({"a": [1, 2]}, '{"instances":[1,2]}'),
    ],
)
def test_v1_instances(inputs, body):
    call, _ = ask_v1(inputs)
    assert body_of(call).decode() == body
    assert (call.method, call.path) == ("POST", "/v1/models/m:predict")
    assert call.headers == {"Content-Type": "application/json"}


def test_v1_takes_an_infer_request():
    given = InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(ROWS)
    call, _ = ask_v1(InferRequest("other", [given]))
    assert body_of(call) == b'{"instances":[[1.0,2.0],[3.0,4.0]]}'


def test_v1_further_keys_and_an_id():
    call, answer = ask_v1(ROWS, id="7", parameters={"signature_name": "s"}, headers={"x_request_id": "7"})
    assert json.loads(body_of(call)) == {"instances": ROWS.tolist(), "signature_name": "s"}
    assert call.headers["X-Request-ID"] == "7"
    assert (answer.id, answer.model_name) == ("7", "m")


@pytest.mark.parametrize(
    ("version", "path"),
    [(12, "/versions/12"), ("12", "/versions/12"), ("stable", "/labels/stable"), ("a/b", "/labels/a%2Fb")],
)
def test_v1_versions(version, path):
    assert ask_v1(ROWS, version=version)[0].path == f"/v1/models/m{path}:predict"


@pytest.mark.parametrize("dialect", [V1, V2])
def test_names_are_encoded(dialect):
    [call] = drive(dialect(URL).is_ready("ü b/c:%", None), reply({"ready": True})).calls
    assert "/models/%C3%BC%20b%2Fc%3A%25" in call.path


@pytest.mark.parametrize(
    ("answer", "arrays"),
    [
        ({"predictions": [[0.5, 1], [2, 3]]}, {"predictions": [[0.5, 1.0], [2.0, 3.0]]}),
        ([1, 2], {"predictions": [1, 2]}),
        ({"outputs": {"a": [1], "b": [["x"]]}}, {"a": [1], "b": [[b"x"]]}),
        ({"predictions": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}, {"a": [1, 2], "b": [b"x", b"y"]}),
        ({"predictions": [{"b64": "AAE="}, "ä\0"]}, {"predictions": [b"\0\1", "ä\0".encode()]}),
        (b'{"predictions":[NaN,-Infinity,1]}', {"predictions": [np.nan, -np.inf, 1]}),
        ({"predictions": [True]}, {"predictions": [True]}),
        ({"predictions": []}, {"predictions": []}),
    ],
)
def test_v1_answers(answer, arrays):
    _, result = ask_v1(ROWS, answer)
    assert list(result) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(result[name], np.array(values, result[name].dtype))
        assert result[name].tolist() == values or answer[:1] == b"{"


def test_v1_chosen_outputs():
    answer = {"outputs": {"a": [1], "b": [2], "c": [3]}}
    assert list(ask_v1(ROWS, answer, outputs=["c", "a"])[1]) == ["c", "a"]
    with pytest.raises(InvalidInput, match="model m has no output d, it answers with: a, b, c"):
        ask_v1(ROWS, answer, outputs=["d"])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"a": ROWS, "b": [1]}, "different numbers of rows"),
        ({}, "no inputs"),
        ([{1, 2}], "the request has no JSON form: .*set"),
        (np.array(1), "a single value"),
    ],
)
def test_v1_inputs_that_cannot_be_sent(inputs, text):
    with pytest.raises(InvalidInput, match=text):
        ask_v1(inputs)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"<html>", "the answer cannot be read"),
        (b"\xff", "the answer cannot be read"),
        ({}, "no predictions"),
        (None, "no predictions"),
        ("text", "no predictions"),
        ({"predictions": [[1], [2, 3]]}, "is no tensor"),
        ({"predictions": [None]}, "is no tensor"),
        ({"predictions": [{"b64": 1}]}, "the answer cannot be read"),
    ],
)
def test_v1_answers_that_hold_no_arrays(answer, text):
    with pytest.raises(UnreadableAnswer, match=f"^{URL}/v1/models/m:predict: .*{text}"):
        ask_v1(ROWS, answer)


def test_v1_explanations_are_as_they_come():
    driven = drive(V1(URL).explain(Question("m", ROWS)), reply({"explanations": [[{"a": None}]]}))
    assert driven.calls[0].path == "/v1/models/m:explain"
    assert driven.result == {"explanations": [[{"a": None}]]}
    with pytest.raises(ValueError, match='V2 has no explain: ask with protocol="v1"'):
        V2(URL).explain(Question("m", ROWS))


@pytest.mark.parametrize(
    ("page", "status", "is_ready"),
    [
        ({"name": "m", "ready": True}, 200, True),
        ({"name": "m", "ready": False}, 200, False),
        ({"error": "not ready"}, 503, False),
        ({"model_version_status": [{"state": "LOADING"}, {"state": "AVAILABLE"}]}, 200, True),
        ({"model_version_status": [{"state": "LOADING"}]}, 200, False),
    ],
)
def test_v1_readiness(page, status, is_ready):
    driven = drive(V1(URL).is_ready("m", None), reply(page, status))
    assert driven.result is is_ready
    assert status in driven.calls[0].answers


def test_v1_all_are_ready_if_each_is():
    names, ready, not_ready = reply({"models": ["a", "b"]}), reply({"ready": True}), reply({"ready": False})
    driven = drive(V1(URL).is_ready(None, None), names, ready, ready)
    assert driven.result is True
    assert [call.path for call in driven.calls] == ["/v1/models", "/v1/models/a", "/v1/models/b"]
    assert drive(V1(URL).is_ready(None, None), names, not_ready).result is False


@pytest.mark.parametrize("dialect", [V1, V2])
def test_a_server_that_cannot_be_reached_is_not_well(dialect):
    gone = ServerUnreachable(URL, "no")
    assert drive(dialect(URL).is_live(), gone).result is False
    assert drive(dialect(URL).is_ready("m", None), gone).result is False
    assert drive(dialect(URL).is_ready(None, None), gone).result is False
    assert drive(dialect(URL).is_live(), reply({}, 503)).result is False
    assert drive(dialect(URL).is_live(), reply({})).result is True
    with pytest.raises(CallFailed):
        drive(dialect(URL).is_ready("m", None), CallFailed(URL, 404, "no such model"))


# -- V2


METADATA = {"name": "m", "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 2]}]}
TWO = {"inputs": [{"name": "a", "datatype": "INT64"}, {"name": "b", "datatype": "BYTES"}]}


def answered(*tensors, **fields):
    """The reply with these outputs: raw bytes, or JSON."""
    parts, json_length = v2_rest.encode_response(Response("m", tensors, **fields))
    headers = {} if json_length is None else {"inference_header_content_length": str(json_length)}
    return reply(b"".join(parts), **headers)


def tensor(array, name="out", is_binary=True, datatype="FP32"):
    return Tensor(name, datatype, array.shape, array, is_binary=is_binary)


DONE = answered(tensor(ROWS))


def sent(call):
    """The request in a call."""
    length = call.headers.get(v2_rest.HEADER)
    return v2_rest.decode_request(body_of(call), None if length is None else int(length))


@pytest.mark.parametrize("binary", [True, False])
def test_v2_an_array_goes_under_the_name_of_the_only_input(binary):
    dialect = V2(URL, binary=binary)
    first = drive(dialect.infer(Question("m", ROWS)), reply(METADATA), DONE)
    assert [call.path for call in first.calls] == ["/v2/models/m", "/v2/models/m/infer"]
    [second] = drive(dialect.infer(Question("m", ROWS)), DONE).calls  # it is asked once
    for call in (first.calls[1], second):
        [given] = sent(call).inputs
        assert (given.name, given.datatype, given.shape, given.is_binary) == ("rows", "FP32", [2, 2], binary)
        np.testing.assert_array_equal(given.array, ROWS)
        assert sent(call).parameters.get("binary_data_output", False) is binary
        kind = "octet-stream" if binary else "json"
        assert call.headers["Content-Type"] == f"application/{kind}"
    np.testing.assert_array_equal(first.result.array, ROWS)


def test_v2_the_name_is_asked_for_again_after_a_failure():
    dialect = V2(URL)
    drive(dialect.infer(Question("m", ROWS)), reply(METADATA), DONE)
    with pytest.raises(CallFailed):
        drive(dialect.infer(Question("m", ROWS)), CallFailed(URL, 400, "no input rows"))
    assert len(drive(dialect.infer(Question("m", ROWS)), reply(METADATA), DONE).calls) == 2


def test_v2_arrays_by_name_need_no_metadata():
    [call] = drive(V2(URL).infer(Question("m", {"a": ROWS, "b": np.array(["ä\0"], object)})), DONE).calls
    first, second = sent(call).inputs
    assert (first.name, first.datatype) == ("a", "FP32")
    assert (second.name, second.datatype, second.array.tolist()) == ("b", "BYTES", ["ä\0".encode()])
    assert call.body[1].obj is not None  # a view of the array, not a copy
    assert np.shares_memory(np.frombuffer(call.body[1], np.uint8), ROWS)


@pytest.mark.parametrize(
    ("inputs", "metadata", "wanted"),
    [
        ([[1, 2]], METADATA, [("rows", "FP32", [[1.0, 2.0]])]),
        ({"rows": [[1, 2]]}, METADATA, [("rows", "FP32", [[1.0, 2.0]])]),
        ({"a": [1], "b": ["x\0"]}, TWO, [("a", "INT64", [1]), ("b", "BYTES", [b"x\0"])]),
        ([[1, 2]], {}, [("input-0", "INT64", [[1, 2]])]),
        ([1.5], {"inputs": None}, [("input-0", "FP64", [1.5])]),
        (["x"], {"inputs": []}, [("input-0", "BYTES", [b"x"])]),
        ({"other": [True]}, METADATA, [("other", "BOOL", [True])]),
    ],
)
def test_v2_lists_become_what_the_model_takes(inputs, metadata, wanted):
    call = drive(V2(URL).infer(Question("m", inputs)), reply(metadata), DONE).calls[1]
    assert [(each.name, each.datatype, each.array.tolist()) for each in sent(call).inputs] == wanted


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([["x"]], r'input "rows"\[0\]\[0\] is a string'),
        ([[1, 2], [3]], r'input "rows"\[1\] has shape \[1\], expected \[2\]'),
        (np.array([1j]), 'input "rows": there are no tensors of complex128'),
        ({"a": np.array([{}])}, "there are no tensors of dict"),
    ],
)
def test_v2_inputs_that_cannot_be_sent(inputs, text):
    with pytest.raises(InvalidInput, match=text):
        drive(V2(URL).infer(Question("m", inputs)), reply(METADATA))


def test_v2_one_array_for_several_inputs():
    with pytest.raises(InvalidInput, match="model m has 2 inputs, expected a dictionary with: a, b"):
        drive(V2(URL).infer(Question("m", ROWS)), reply(TWO))


def test_v2_everything_else_of_a_request():
    question = Question(
        "m", {"a": ROWS}, version=3, outputs=["x", "y"], parameters={"n": 1}, id="7", headers={"A": "b"}
    )
    [call] = drive(V2(URL).infer(question), DONE).calls
    assert call.path == "/v2/models/m/versions/3/infer"
    assert call.headers["A"] == "b"
    request = sent(call)
    assert (request.id, request.parameters["n"]) == ("7", 1)
    assert [wanted.name for wanted in request.outputs] == ["x", "y"]


def test_v2_takes_an_infer_request():
    given = InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(ROWS, binary_data=False)
    request = InferRequest(
        "other", [given], request_id="9", parameters={"n": 1}, request_outputs=[RequestedOutput("y")]
    )
    dialect = V2(URL)
    [call] = drive(dialect.infer(Question("m", request)), DONE).calls
    assert call.path == "/v2/models/m/infer"
    got = sent(call)
    assert (got.id, got.parameters["n"], [each.name for each in got.outputs]) == ("9", 1, ["y"])
    [call] = drive(dialect.infer(Question("m", request, id="7", parameters={"n": 2})), DONE).calls
    assert (sent(call).id, sent(call).parameters["n"]) == ("7", 2)


@pytest.mark.parametrize("is_binary", [True, False])
def test_v2_answers(is_binary):
    texts = np.array(["a", "ä\0"], object)
    outputs = [tensor(ROWS, is_binary=is_binary), tensor(texts, "texts", is_binary, "BYTES")]
    done = answered(*outputs, model_version="3", id="7", parameters={"n": 1})
    answer = drive(V2(URL).infer(Question("m", {"a": ROWS})), done).result
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    assert answer.parameters == {"n": 1}
    assert answer["out"].dtype == np.float32
    np.testing.assert_array_equal(answer["out"], ROWS)
    assert answer["texts"].tolist() == [b"a", "ä\0".encode()]
    with pytest.raises(ValueError, match="the answer has 2 outputs, take one by its name: out, texts"):
        answer.array  # noqa: B018


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>"),
        reply({"outputs": [{"name": "a"}]}),
        reply({"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1]}]}),
        reply({}, inference_header_content_length="3"),
        reply({}, inference_header_content_length="x"),
        reply({"outputs": []}, content_encoding="gzip"),
    ],
)
def test_v2_answers_that_cannot_be_read(answer):
    with pytest.raises(UnreadableAnswer, match=f"^{URL}/v2/models/m/infer: the answer cannot be read: "):
        drive(V2(URL).infer(Question("m", {"a": ROWS})), answer)


def test_v2_metadata_that_cannot_be_read():
    for metadata in (b"[", {"inputs": [1]}, {"inputs": [{"name": "a"}]}, []):
        with pytest.raises(UnreadableAnswer):
            drive(V2(URL).infer(Question("m", ROWS)), reply(metadata))


def test_an_answer_is_a_mapping():
    answer = Answer({"a": ROWS}, "m", "1")
    assert dict(answer)["a"] is answer.array is answer["a"]
    assert (len(answer), "a" in answer, "b" in answer) == (1, True, False)
    assert repr(answer) == "Answer(model_name='m', model_version='1', {'a': 'float32[2, 2]'})"


@pytest.mark.parametrize("dialect", [V1, V2])
def test_headers_that_would_break_a_request(dialect):
    question = Question("m", {"a": ROWS}, headers={"X": "a\r\nY: b"})
    with pytest.raises(ValueError, match="the header 'X' cannot be sent"):
        drive(dialect(URL).infer(question))
    with pytest.raises(ValueError, match="the header 'X-Request-ID' cannot be sent"):
        drive(V1(URL).infer(Question("m", ROWS, id="a\nb")))


# -- text and bytes


def test_v1_lists_may_hold_bytes():
    for inputs in ([b"a", b"\xff", "b"], {"q": [b"a", b"\xff", "b"]}):
        call, _ = ask_v1(inputs)
        assert body_of(call) == b'{"instances":["a",{"b64":"/w=="},"b"]}'
    call, _ = ask_v1([{"t": (b"\xff", 1)}])
    assert body_of(call) == b'{"instances":[{"t":[{"b64":"/w=="},1]}]}'


def test_v1_answers_with_text_beside_bytes():
    _, result = ask_v1([1], '{"predictions":["é",{"b64":"/w=="}]}'.encode())
    assert result.array.tolist() == ["é".encode(), b"\xff"]


def test_v2_text_beside_bytes_that_are_none():
    driven = drive(V2(URL).infer(Question("m", {"q": np.array([1]), "t": ["a", b"\xff"]})), *META_AND_EMPTY)
    assert body_of(driven.calls[-1]).endswith(b"\1\0\0\0a\1\0\0\0\xff")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["\ud800"], "surrogates not allowed"),
        ([["a", "b"], ["c"]], "rows of different lengths"),
        ([["a", b"\xff"], ["c"]], "rows of different lengths"),
        ([2**70, None], "no tensors of int"),
    ],
)
def test_v2_inputs_that_cannot_be_sent_are_named(value, text):
    with pytest.raises(InvalidInput, match=f'input "t": .*{text}'):
        drive(V2(URL).infer(Question("m", {"q": np.array([1]), "t": value})), META_AND_EMPTY[0])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (["\ud800"], "no JSON form: .*surrogates"),
        ({"t": ["\ud800"]}, "no JSON form: .*surrogates"),
        ({"t": [["a", "b"], ["c"]]}, 'input "t": rows of different lengths'),
    ],
)
def test_v1_text_that_cannot_be_sent(inputs, text):
    with pytest.raises(InvalidInput, match=text):
        ask_v1(inputs)


META_AND_EMPTY = (
    reply({"name": "m", "inputs": []}),
    reply({"model_name": "m", "outputs": []}),
)
