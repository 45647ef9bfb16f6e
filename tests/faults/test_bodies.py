"""Bodies that are not what they should be: a clear 4xx, never a 5xx, and the next request is right."""

import json

import numpy as np
import pytest
from wire import (
    GOOD,
    MIB,
    answer_to,
    assert_serves,
    bystanders,
    connect,
    cpu_s,
    head,
    log_lines,
    peak_growth,
    post,
    send_all,
    statuses,
    talk,
    until_closed,
)

from modelserver.protocols import v1_numbers

LARGE = v1_numbers.LARGE
MODELS = (
    "echo",
    "numbers",
)  # lists as they are; and rows as one array, by the short cut where they are large


def strict(text):
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


DEEP = {
    "lists": lambda levels: b'{"instances":' + b"[" * levels + b"1" + b"]" * levels + b"}",
    "objects": lambda levels: b'{"a":' * levels + b"1" + b"}" * levels,
    "never closed": lambda levels: b'{"instances":' + b"[" * levels,
    "beside a large array": lambda levels: (
        b'{"a":' + b"[" * levels + b"]" * levels + b',"instances":[' + b"1.5," * LARGE + b"1.5]}"
    ),
    "behind a large array": lambda levels: (
        b'{"instances":[' + b"1.5," * LARGE + b"1.5]" + b',"a":' + b"[" * levels + b"]" * levels + b"}"
    ),
}


# row 29
@pytest.mark.parametrize("levels", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("form", DEEP)
@pytest.mark.parametrize("model", MODELS)
def test_deep_json_is_refused(server, form, levels, model):
    with bystanders(server):
        used = cpu_s(server)
        answer = answer_to(server, DEEP[form](levels), model)
        assert cpu_s(server) - used < 5
    assert answer.status == 400
    assert answer.error().startswith("Unrecognized request format: ")


ODD_NUMBERS = [
    b"NaN",
    b"-NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"1" * 5000,
    b"-" + b"1" * 5000,
    b"0." + b"1" * 5000,
    b"1e" + b"1" * 5000,
    b"%d" % 2**70,
    b"%d" % -(2**70),
    b"%d" % 2**64,
    b"%d" % 2**63,
    b"-0",
    b"-0.0",
    b"01",
    b"+1",
    b".5",
    b"1.",
    b"1_0",
    b"0x10",
    "\N{ARABIC-INDIC DIGIT ONE}".encode(),
]


# row 30
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("model", MODELS)
def test_odd_numbers_are_refused_or_answered_as_strict_json(server, model, size):
    for number in ODD_NUMBERS:
        rows = [b"1.5"] * LARGE if size == "large" else [b"1.5"]
        answer = answer_to(server, b'{"instances":[%b]}' % b",".join([*rows, number]), model)
        assert answer.status in (200, 400), (number[:20], answer.body[:200])
        strict(answer.body)
    assert_serves(server)


ODD_TEXT = {
    "bad UTF-8": b'{"instances":["\xff"]}',
    "cut UTF-8": b'{"instances":["\xe2\x82"]}',
    "overlong UTF-8": b'{"instances":["\xc0\xaf"]}',
    "surrogate in UTF-8": b'{"instances":["\xed\xa0\x80"]}',
    "surrogate, escaped": b'{"instances":["\\ud800"]}',
    "surrogates in the wrong order": b'{"instances":["\\udc00\\ud800"]}',
    "UTF-16": '{"instances":[1]}'.encode("utf-16"),
    "UTF-16 without its mark": '{"instances":[1]}'.encode("utf-16-le"),
    "UTF-32": '{"instances":[1]}'.encode("utf-32"),
    "UTF-8 with a mark": GOOD.decode().encode("utf-8-sig"),
    "NUL in a text": b'{"instances":["\0"]}',
    "NUL behind": GOOD + b"\0",
    "NUL in front": b"\0" + GOOD,
    "nothing": b"",
    "blanks": b"   ",
    "two": GOOD + GOOD,
    "single quotes": b"{'instances':[1]}",
    "a comment": b'{"instances":[1]}//',
    "a comma too many": b'{"instances":[1,]}',
}


# row 31
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("model", MODELS)
def test_odd_text_is_refused(server, model, large):
    for what, body in ODD_TEXT.items():
        if large:
            if b'"instances":[' not in body:
                continue
            body = body.replace(b'"instances":[', b'"instances":[' + b"1.5," * LARGE)
        answer = answer_to(server, body, model)
        assert answer.status == 400, (what, answer.body[:200])
        assert answer.error()
    assert_serves(server)


# row 31
def test_of_a_key_that_comes_twice_the_last_counts(server):
    rows = b"[" + b"2.5," * LARGE + b"2.5]"
    for model, factor in (("echo", 1), ("numbers", 2)):
        answer = answer_to(server, b'{"instances":[1],"instances":[3]}', model)
        assert strict(answer.body) == {"predictions": [3 * factor]}
        for first, last, expected in ((b"[1]", rows, 2.5), (rows, b"[1]", 1)):
            answer = answer_to(server, b'{"instances":%b,"instances":%b}' % (first, last), model)
            assert strict(answer.body)["predictions"][0] == expected * factor
    answer = answer_to(server, b'{"instances":[1],"\\u0069nstances":[3]}')
    assert strict(answer.body) == {"predictions": [3]}


# row 31
def test_escaped_nul_and_other_escapes_come_back_as_they_were(server):
    answer = answer_to(server, b'{"instances":["\\u0000","\\ud83d\\ude00"]}')
    assert strict(answer.body) == {"predictions": ["\0", "\N{GRINNING FACE}"]}


CONTENT_TYPES = {
    None: "dict",
    "": "dict",
    "application/json": "dict",
    "application/json; charset=utf-8": "dict",
    "application/json; charset=no-such": "dict",  # JSON is UTF-8, whatever a charset says (RFC 8259, 11)
    "APPLICATION/JSON": "dict",
    "application/x-www-form-urlencoded": "dict",  # what curl -d says
    "text/plain": "dict",
    "application/vnd.api+json": "dict",
    "text/xml": "bytes",
    "application/xml; charset=utf-16": "bytes",
    "image/jpeg": "bytes",
    "multipart/form-data": "bytes",
    "multipart/form-data; boundary=" + "x" * 5000: "bytes",
    ";;;===": "dict",  # nothing stands before the parameters
    "\xff\xfe": "bytes",
    "application/json, text/xml": "bytes",
    "application/" + "x" * 10_000: "bytes",
}


# row 32
@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_every_content_type_is_answered(server, content_type):
    fields = () if content_type is None else (f"Content-Type: {content_type}",)
    answer = answer_to(server, GOOD, "anything", *fields)
    assert answer.status == 200
    assert strict(answer.body)["type"] == CONTENT_TYPES[content_type]
    answer = answer_to(server, b"<x/>", "echo", *fields)
    # As bytes they reach this model, which cannot do anything with them: that is its own failure, 500.
    assert answer.status == (400 if CONTENT_TYPES[content_type] == "dict" else 500)


FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
BOMBS = {
    "20,000 parts": (MULTIPART, PART * 20_000 + b"--b--\r\n"),
    "20,000 broken parts": (MULTIPART, b"--b\r\n" * 20_000 + b"--b--\r\n"),
    "a part with 100,000 parameters": (
        MULTIPART,
        PART.replace(b'"a"', b'"a"' + b'; x="y"' * 100_000) + b"--b--\r\n",
    ),
    "a boundary of nothing": (MULTIPART[:-1], b"x" * MIB),
    "100,000 fields": (FORM, b"&".join(b"field%d=1" % number for number in range(100_000))),
    "5,000,000 empty fields": (FORM, b"&" * 5_000_000),
}


# row 34
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/echo", "/v1/models/echo:predict", "/none"])
def test_form_bombs_are_never_parsed(server, bomb, method, path):
    content_type, body = BOMBS[bomb]
    with bystanders(server, count=1):
        seen = len(server.log.read_bytes())
        used = cpu_s(server)
        with connect(server.port) as sock:
            fields = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close")
            send_all(sock, head(path, *fields, method=method) + body)
            got = statuses(until_closed(sock))
        used = cpu_s(server) - used
    is_page = method == "GET" and path in ("/", "/v1/models", "/v1/models/echo")
    is_model_call = (method, path) == ("POST", "/v1/models/echo:predict")
    if is_page:
        assert got == (200,)  # a body means nothing there (RFC 9110, 9.3.1)
    elif is_model_call and content_type != FORM:
        assert got == (500,)  # bytes for the model, as an image would be; it takes none
    else:
        assert len(got) == 1
        assert 400 <= got[0] < 500
    assert used < 5
    if not is_model_call:
        assert not [line for line in log_lines(server, seen) if "modelserver.access" not in line]


# row 34
@pytest.mark.parametrize("bomb", BOMBS)
def test_form_bombs_for_a_page_of_the_users_own(server, bomb):
    content_type, body = BOMBS[bomb]
    with bystanders(server):
        seen, used = len(server.log.read_bytes()), cpu_s(server)
        answers = talk(server.port, post(body, "/form", f"Content-Type: {content_type}", "Connection: close"))
        assert cpu_s(server) - used < 5
    assert len(statuses(answers)) == 1
    assert 400 <= statuses(answers)[0] < 500
    assert len([line for line in log_lines(server, seen) if "modelserver.access" not in line]) <= 1


TOP_LEVELS = [
    b"[]",
    b"[[1,2]]",
    b"1",
    b"1.5",
    b'"instances"',
    b"true",
    b"null",
    b"{}",
    b'{"instance":[1]}',
    b'{"instances":null}',
    b'{"instances":{"a":1}}',
    b'{"instances":"abc"}',
    b'{"instances":7}',
]


# row 35
@pytest.mark.parametrize("body", TOP_LEVELS, ids=lambda body: body.decode())
def test_a_wrong_top_level_is_told_what_belongs_there(server, body):
    for model in MODELS:
        answer = answer_to(server, body, model)
        assert "instances" in answer.error()
        # KServe's contract: what a model's own code does not find there is its KeyError.
        is_models_own = model == "echo" and body in (b"{}", b'{"instance":[1]}')
        assert answer.status == (500 if is_models_own else 400)
    assert_serves(server)


# row 37
def test_no_rows_and_a_million_rows(server):
    for model, factor in (("echo", 1), ("numbers", 2), ("doubled", 2)):
        answer = answer_to(server, b'{"instances":[]}', model)
        assert (answer.status, strict(answer.body)) == (200, {"predictions": []})
        with bystanders(server, within_s=20):
            answer = answer_to(server, b'{"instances":[%b3]}' % (b"3," * 999_999), model)
        assert answer.status == 200
        assert np.array_equal(strict(answer.body)["predictions"], np.full(1_000_000, 3 * factor))


# row 35, in the other format
@pytest.mark.parametrize(
    "body",
    [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, b"x" * MIB],
    ids=["empty", "magic", "long header", "version 9", "no npy"],
)
def test_bodies_that_are_no_npy(server, body):
    with peak_growth(server) as growth, bystanders(server):
        answer = answer_to(server, body, "numbers", "Content-Type: application/x-npy")
    assert answer.status == 400
    assert ".npy" in answer.error()
    assert growth[0] < 8 * MIB


# row 35, in the other format
def test_an_npy_header_that_promises_more_than_there_is(server):
    for shape in ("(1000000000000,)", "(4294967296, 4294967296)", "(0, 99999999999, 99999999999)"):
        fields = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        body = b"\x93NUMPY\x01\x00" + len(fields).to_bytes(2, "little") + fields + b"\0" * 64
        with peak_growth(server) as growth:
            answer = answer_to(server, body, "numbers", "Content-Type: application/x-npy")
        assert answer.status == 400, shape
        assert growth[0] < 8 * MIB
    assert_serves(server)
