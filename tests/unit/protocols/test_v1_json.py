"""V1 bodies: what is read as JSON, what is written, what is refused."""

import datetime

import numpy as np
import pytest

from modelserver import InvalidInput
from modelserver.protocols.v1_json import decode_request, encode_error, encode_response

BODY = b'{"instances": [1]}'


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/ld+json",
        "text/json",
    ],
)
def test_read_as_json(content_type):
    assert decode_request(BODY, content_type) == {"instances": [1]}


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "application/x-npz"])
def test_left_as_bytes(content_type):
    assert decode_request(BODY, content_type) == BODY


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a": 1} x', b"\0"]
)
def test_not_json_is_refused(body):
    with pytest.raises(InvalidInput, match=r"^Unrecognized request format: "):
        decode_request(body, "")


@pytest.mark.parametrize(
    ("body", "got"),
    [(b"[1]", "a list"), (b"1", "an integer"), (b"null", "null"), (b'"x"', "a string"), (b"true", "a bool")],
)
def test_no_object_at_the_top_is_refused(body, got):
    with pytest.raises(InvalidInput) as caught:
        decode_request(body, "")
    assert str(caught.value).startswith(f'Expected a JSON object such as {{"instances": [...]}}, got {got}')


class HasToList:
    def tolist(self):
        return [1, [2]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"predictions": [1, 0.5, "é", None, True]}, '{"predictions":[1,0.5,"é",null,true]}'),
        ([1], "[1]"),
        ((1, [2]), "[1,[2]]"),
        (np.array([[1.5]]), "[[1.5]]"),
        ({"a": np.float32(0.1), "b": np.int64(3), "c": np.bool_(True)}, '{"a":0.1,"b":3,"c":true}'),
        ({"a": np.array([[0.1, 2]], np.float32)}, '{"a":[[0.1,2.0]]}'),
        ({"a": np.arange(6).reshape(2, 3).T}, '{"a":[[0,3],[1,4],[2,5]]}'),
        ({"a": np.array(5)}, '{"a":5}'),
        ({"a": np.array(["x", "y"])}, '{"a":["x","y"]}'),
        ({"a": np.array([0.5], np.float16)}, '{"a":[0.5]}'),
        ({"a": HasToList()}, '{"a":[1,[2]]}'),
        ({"a": float("nan"), "b": np.array([np.inf], np.float32)}, '{"a":null,"b":[null]}'),
        ({"a": datetime.datetime(2020, 1, 2, 3, 4, 5)}, '{"a":"2020-01-02T03:04:05"}'),
        ({1: "number keys"}, '{"1":"number keys"}'),
    ],
)
def test_values_become_json(value, text):
    assert encode_response(value) == (text.encode(), "application/json")


def test_text_and_bytes_go_as_they_are():
    assert encode_response("é") == ("é".encode(), "text/plain; charset=utf-8")
    assert encode_response(b"\x00\xff") == (b"\x00\xff", "application/octet-stream")
    assert encode_response(memoryview(b"ab")) == (b"ab", "application/octet-stream")


def cyclic():
    value = {}
    value["self"] = value
    return value


NO_FORM = "the model returned an object of type dict that has no JSON form: "


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "the model returned None, expected dict, list, str or bytes"),
        (object(), "the model returned an object of type object, expected dict, list, str or bytes"),
        ({"a": {1, 2}}, "an object of type set has no JSON form"),
        ({"a": 1j}, "an object of type complex has no JSON form"),
        ({"a": np.array([1j])}, "an object of type complex has no JSON form"),
        ({"a": 2**70}, f"{NO_FORM}Integer exceeds 64-bit range"),
        (cyclic(), f"{NO_FORM}it holds itself, or is nested more than 253 levels deep"),
    ],
)
def test_what_has_no_json_form_is_named(value, text):
    with pytest.raises(TypeError) as caught:
        encode_response(value)
    assert str(caught.value) == text


def test_an_errors_text_is_always_valid_json():
    assert encode_error('say "é"\n') == '{"error":"say \\"é\\"\\n"}'.encode()
    assert encode_error("lone \udc80 surrogate") == b'{"error":"lone ? surrogate"}'
