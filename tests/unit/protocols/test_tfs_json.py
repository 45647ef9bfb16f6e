"""TensorFlow Serving's bodies: what is read though it is no JSON, what is written, what is refused.

The expectations are the contract's (RapidJSON 1.1.0 as TensorFlow Serving calls it), not this parser's.
"""

import json
import math
import sys

import numpy as np
import pytest

from modelserver import InvalidInput
from modelserver.protocols import tfs_json, v1_json, v1_numbers
from modelserver.protocols.tfs_json import decode_request, encode_response

NAN, INF = float("nan"), float("inf")


def same(got, expected):
    """Equal, and of the same types; NaN equals NaN."""
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(got, float) and math.isnan(got)
    return type(got) is type(expected) and got == expected


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [NaN, Infinity, -Infinity]}', {"a": [NAN, INF, -INF]}),
        (b'{"a": [Inf, -Inf, -NaN, -1]}', {"a": [INF, -INF, NAN, -1]}),
        (b'{"a":NaN,"b":"Info -NaN \\" Inf","c":-Inf}', {"a": NAN, "b": 'Info -NaN " Inf', "c": -INF}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b' \t\r\n{"a": 1} and {more', {"a": 1}),
        (b'{"a": 1}\0', {"a": 1}),
        (b'{"a": 1}}', {"a": 1}),
        (b'{"instances": [1], "instances": [2]}', {"instances": [1]}),
        (b'{"inputs": 1, "signature_name": "x", "inputs": 2}', {"inputs": 1, "signature_name": "x"}),
        (b'{"signature_name": "a", "signature_name": 1}', {"signature_name": "a"}),
        (b'{"examples": [1], "context": {}, "examples": [], "context": 1}', {"examples": [1], "context": {}}),
        (b'{"inst\\u0061nces": 1, "instances": 2}', {"instances": 1}),
        (b'{"instances": 1, "signature\\u005fname": "a", "signature_name": "b"}',
         {"instances": 1, "signature_name": "a"}),
        (b'{"a": "instances", "instances": [{"instances": 1}]}',
         {"a": "instances", "instances": [{"instances": 1}]}),
        (b'{"a": "\xff\xc3\xa9\xe2\x82", "b": NaN}', {"a": "\udcffé\udce2\udc82", "b": NAN}),
        (b'{"a": [NaN, "\\ud83d\\ude00\\\\ud800"]}', {"a": [NAN, "\U0001f600\\ud800"]}),
        (b'{"a": [NaN, 18446744073709551615, 18446744073709551616, -9223372036854775808]}',
         {"a": [NAN, 18446744073709551615, 18446744073709551616.0, -(2**63)]}),
        (b'{"a": [NaN, -9223372036854775809, 1e-400, 1e0001, -0, -0.0]}',
         {"a": [NAN, -9223372036854775809.0, 0.0, 10.0, 0, -0.0]}),
        (b'{"a": 18446744073709551616}', {"a": 18446744073709551616.0}),
        (b'{"a": [1, 1.0, 1e2]}', {"a": [1, 1.0, 100.0]}),
        (b'{"a": {"b": 1, "b": 2}, "c": NaN}', {"a": {"b": 2}, "c": NAN}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["", "application/json", "image/png", "application/octet-stream"])
def test_what_is_read(body, value, content_type):
    assert same(decode_request(body, content_type), value)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"", 0),
        (b"  ", 2),
        (b"{", 1),
        (b'{"a": 1', 7),
        (b'{"a": [Nan]}', 7),
        (b'{"a": [nan]}', 7),
        (b'{"a": +NaN}', 6),
        (b'{"a": [Inf, Infx]}', 15),
        (b'{"a": [-Inf, Inf, Inf], x}', 24),
        (b'{"a": Infinit}', 9),
        (b'{"a": "\xc3\xa9\xff", x}', 13),
        (b'\xef\xbb\xbf{"a": x}', 9),
        (b'{"a": 1.}', 7),
        (b'{"a": 01}', 7),
        (b'{"a": .5}', 6),
        (b'{"a": 1e400}', 6),
        (b'{"a": [NaN, -1e400]}', 12),
        (b'{"a": 1' + b"0" * 400 + b"}", 6),
        (b'{"a": 1' + b"0" * 5000 + b"}", 6),
        (b'{"a": /* no */ 1}', 6),
        (b'{"a": "\n"}', 7),
        (b'{"a": "\\x"}', 7),
        (b'{"a": "\\ud800"}', 7),
        (b'{"a": "\\udc00"}', 7),
        (b"{'a': 1}", 1),
        (b"\xff", 0),
        (b"\0", 0),
    ],
)
def test_what_is_no_document(body, offset):
    with pytest.raises(InvalidInput, match=rf"^JSON Parse error: \S.* at offset: {offset}$"):
        decode_request(body, "")


@pytest.mark.parametrize("body", [b'{"a": [1,]}', b'{"a": 1,}'])
def test_a_comma_too_many(body):  # Python 3.13 names the comma, and not what stands behind it
    with pytest.raises(InvalidInput, match=r"^JSON Parse error: "):
        decode_request(body, "")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("end", [b"", b"NaN"])
def test_deep_nesting_is_refused(opening, end):
    with pytest.raises(InvalidInput, match=r"^JSON Parse error: "):
        decode_request(b'{"a":' + opening * 200_000 + end, "")


@pytest.mark.parametrize("body", [b"[1]", b"1", b"null", b'"x"', b"true", b"NaN", b"[NaN] x"])
def test_what_is_no_object(body):
    with pytest.raises(InvalidInput, match=r"^JSON Value: .* Is not object"):
        decode_request(body, "application/json")


def test_a_long_body_is_cut_in_a_message():
    with pytest.raises(InvalidInput) as caught:
        decode_request(b"[" + b"1," * 100_000 + b"1]", "")
    assert len(str(caught.value)) < 400


def test_npy_is_read_by_its_type():
    assert isinstance(decode_request(b'{"a": 1}', "text/x-npy"), dict)
    with pytest.raises(InvalidInput, match="npy"):
        decode_request(b'{"a": 1}', "application/x-npy")


class TestLargeBodies:
    """Rows that are read as one array mean the same, whatever stands beside them."""

    ROWS = b"[" + b"[1.5, 2, 3, 4]," * 1000 + b"[1.5, 2, 3, 4]]"

    def test_an_array(self):
        payload = decode_request(b'{"instances": ' + self.ROWS + b"}", "", "float32")
        assert payload["instances"].dtype == np.float32

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b'{"signature_name": "a", "signature_name": "b", "instances": ', b"}"),
            (b'{"signature_name": "a", "instances": ', b', "signature_name": "b"}'),
            (b'{"signature_name": "a", "instances": ', b', "instances": 1}'),
            (b'\xef\xbb\xbf{"signature_name": "a", "instances": ', b"}"),
            (b'{"signature_name": "a", "instances": ', b"} and more ]"),
        ],
    )
    def test_the_first_key_counts(self, before, after):
        payload = decode_request(before + self.ROWS + after, "", "float32")
        assert payload["signature_name"] == "a"
        assert np.shape(payload["instances"]) == (1001, 4)

    @pytest.mark.parametrize("word", [b"NaN", b"-Infinity", b"Inf"])
    def test_words_among_the_numbers(self, word):
        rows = self.ROWS.replace(b"1.5", word, 1)
        assert len(rows) > v1_numbers.LARGE
        payload = decode_request(b'{"instances": ' + rows + b"}", "", "float32")
        assert not math.isfinite(payload["instances"][0][0])
        assert payload["instances"][1] == [1.5, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": [NAN, INF, -INF, None, 1, 0.5, True]}, b'{"a":[NaN,Infinity,-Infinity,null,1,0.5,true]}'),
        ({"a": np.array([[NAN, 0.1], [INF, -INF]], np.float32)}, b'{"a":[[NaN,0.1],[Infinity,-Infinity]]}'),
        (np.array([0.1, NAN]), b"[0.1,NaN]"),
        (np.array(NAN), b"NaN"),
        ({"a": np.array([[INF, NAN], [-INF, 1]])}, b'{"a":[[Infinity,NaN],[-Infinity,1.0]]}'),
        ({"a": np.array(0.1, np.float32)}, b'{"a":0.1}'),
        (np.array("null"), b'"null"'),
        ((np.array([1, NAN]).reshape(2, 1).T[::-1],), b"[[[1.0,NaN]]]"),
        ([np.float32("nan"), np.float32(0.1), np.float64("inf")], b"[NaN,0.1,Infinity]"),
        ([np.array(0.1, np.float32), np.array(NAN, np.float32), np.array(3)], b"[0.1,NaN,3]"),
        ({"a": np.array([NAN, 2], np.float16)}, b'{"a":[NaN,2.0]}'),
        ({"null": [None, "null", "é"]}, '{"null":[null,"null","é"]}'.encode()),
        ({"a": [NAN, np.array([["x"]]), np.array([1, 2]), np.int64(3)]}, b'{"a":[NaN,[["x"]],[1,2],3]}'),
        ({"a": 'a\udcff"\n'}, b'{"a":"a\xff\\"\\n"}'),
        ({"a": ["\udcc3\udca9", NAN]}, '{"a":["é",NaN]}'.encode()),
        ({"a": np.array([9e6, 3e-05, 555557.5, 0.00760850124, 3], np.float32)},
         b'{"a":[9000000.0,0.00003,555557.5,0.0076085012,3.0]}'),
        ({"a": np.array([], np.float32)}, b'{"a":[]}'),
        ({"a": np.zeros((2, 0))}, b'{"a":[[],[]]}'),
    ],
)  # fmt: skip
def test_what_is_written(value, body):
    assert encode_response(value) == (body, "application/json")


class HasToList:
    def tolist(self):
        return [1, [NAN]]


def test_anything_with_tolist_is_looked_into():
    assert encode_response({"a": HasToList()})[0] == b'{"a":[1,[NaN]]}'


def test_numbers_read_back_as_they_were():
    """Section 6: float32 never widened, floats with a point or an exponent, integers without."""
    random = np.random.default_rng(5)
    floats = random.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    body, _ = encode_response({"a": floats})
    words = body[6:-2].split(b",")
    np.testing.assert_array_equal(np.array([np.float32(word) for word in words]), floats)
    finite = [word for word, number in zip(words, floats, strict=True) if np.isfinite(number)]
    assert all(b"." in word or b"e" in word for word in finite)
    assert max(map(len, finite)) < 22
    np.testing.assert_array_equal(np.array(json.loads(body)["a"], np.float32), floats)
    assert encode_response(np.array([2**63 - 1, -5]))[0] == b"[9223372036854775807,-5]"


@pytest.mark.parametrize("value", ["null", b"null", memoryview(b"null")])
def test_text_and_bytes_go_as_they_are(value):
    assert encode_response(value) == v1_json.encode_response(value)


@pytest.mark.parametrize("value", [None, {"a": {1}}, {"a": "\ud800"}, {"a": [NAN, 2**70]}, "\udcff"])
def test_what_has_no_form_is_refused_in_the_same_words(value):
    texts = []
    for module in (v1_json, tfs_json):
        with pytest.raises(TypeError) as caught:
            module.encode_response(value)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "body", [b'"\\"' * 200_000, b'{"a": Inf, "b": "' + b'\\"' * 500_000, b"Inf" * 200_000]
)
def test_hostile_bodies_take_no_longer(body):
    """The patterns go over a body once: a quadratic one would take minutes."""
    with pytest.raises(InvalidInput):
        decode_request(body, "")


def test_the_usual_body_takes_no_detour(monkeypatch):
    monkeypatch.setattr(tfs_json, "_read_leniently", lambda body: sys.exit("the long way"))
    monkeypatch.setattr(tfs_json, "_respelled", lambda value: sys.exit("the long way"))
    for body in (b'{"instances": [[1.5, 2]]}', b'{"signature_name": "a", "inputs": {"x": "\\u00e9"}}'):
        assert decode_request(body, "") == json.loads(body)
    encode_response({"predictions": np.ones(3, np.float32)})
