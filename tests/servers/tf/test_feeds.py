"""Requests to arrays: TensorFlow Serving's rules, without TensorFlow."""

import base64
import binascii
import json
import time
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver import InvalidInput, ModelServerError
from modelserver.protocols import v1_numbers
from tfserver import feeds, json_values
from tfserver.feeds import feeds_from_request
from tfserver.signature import Signature, TensorSpec, dtype_named


def signature(**inputs: str) -> Signature:
    """A signature with these inputs, ``name="TensorFlow type"``."""
    specs = (TensorSpec(name, f"{name}:0", dtype_named(kind), None) for name, kind in sorted(inputs.items()))
    return Signature("test", tuple(specs), ())


def one(kind: str, **payload: Any) -> np.ndarray:
    """The array of the only input."""
    (array,) = feeds_from_request(payload, signature(x=kind))
    return array


def refusal(wanted: Signature, **payload: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        feeds_from_request(payload, wanted)
    return str(caught.value)


class TestValues:
    """Section 5 of the contract: which JSON value each dtype takes."""

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            *((kind, v) for kind in ("float", "double") for v in (True, None, "1", "NaN", {"b64": ""})),
            *((kind, 1.0) for kind in ("int8", "int16", "uint8", "int32", "int64", "uint32", "uint64")),
            *((kind, False) for kind in ("int8", "int32", "int64", "uint64")),
            ("int8", 2**31), ("int16", -(2**31) - 1), ("uint8", 2**31), ("int32", 2**31),
            ("int64", 2**63), ("int64", -(2**63) - 1), ("uint32", -1), ("uint32", 2**32), ("uint64", -1),
            ("uint64", 2**64), ("int32", "1"), ("int32", None),
            ("bool", 0), ("bool", 1), ("bool", 1.0), ("bool", "true"), ("bool", None),
            ("string", 1), ("string", True), ("string", None),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("nested", [False, True])
    def test_refused(self, kind: str, value: Any, nested: bool) -> None:
        wrong = [value] if nested else value
        good: Any = {"float": 0.5, "double": 0.5, "bool": True, "string": "a"}.get(kind, 7)
        expected = f"JSON Value: {json.dumps(value)} Type: "
        for text in (
            refusal(signature(x=kind), inputs=wrong),
            refusal(signature(x=kind), instances=[[good] if nested else good, wrong]),
        ):
            assert expected in text
            assert f"is not of expected type: {kind}" in text

    @pytest.mark.parametrize(
        ("kind", "values", "expected"),
        [
            ("float", [1, 2.5, 2**63, -(2**63)], np.array([1, 2.5, 2**63, -(2**63)], np.float32)),
            ("float", [1e300, float("nan")], np.array([np.inf, np.nan], np.float32)),
            ("double", [1e300, 1], np.array([1e300, 1])),
            ("int8", [127, 128, -129, 300], np.array([127, -128, 127, 44], np.int8)),
            ("uint8", [256, -1], np.array([0, 255], np.uint8)),
            ("int16", [-(2**31), 2**31 - 1], np.array([0, -1], np.int16)),
            ("int64", [2**63 - 1, -(2**63)], np.array([2**63 - 1, -(2**63)], np.int64)),
            ("uint64", [2**64 - 1, 2**63 + 1, 1], np.array([2**64 - 1, 2**63 + 1, 1], np.uint64)),
            ("bool", [True, False], np.array([True, False])),
        ],
    )
    def test_taken(self, kind: str, values: list[Any], expected: np.ndarray) -> None:
        for array in (one(kind, inputs=values), one(kind, instances=values)):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)

    def test_a_boolean_hidden_among_many_numbers(self) -> None:
        rows = np.linspace(2, 3, 4000).reshape(10, 20, 20).tolist()
        assert one("float", instances=rows).shape == (10, 20, 20)
        rows[7][3][5] = True
        assert "element: 7 of 'instances' list. Error: JSON Value: true" in refusal(
            signature(x="float"), instances=rows
        )
        rows[7][3][5] = 1
        assert one("float", instances=rows)[7, 3, 5] == 1

    def test_an_array_from_python_is_taken(self) -> None:
        rows = np.ones((3, 2))
        assert one("float", instances=rows).dtype == np.float32
        assert one("double", instances=rows) is rows or np.shares_memory(one("double", instances=rows), rows)
        assert "1.0 Type: Number" in refusal(signature(x="int32"), instances=rows)
        assert one("string", instances=np.array([b"a\x00"], dtype=object)).tolist() == [b"a\x00"]

    def test_a_dtype_without_json_form(self) -> None:
        with pytest.raises(ModelServerError) as caught:
            one("half", inputs=[1])
        assert (caught.value.status, str(caught.value)) == (501, "Conversion of JSON Value: 1 to type: half")
        assert "Conversion of JSON Value: 1 to type: qint8" in refusal(signature(x="qint8"), instances=[1])


class TestBase64:
    @pytest.mark.parametrize(
        ("text", "data"),
        [
            ("", b""),
            ("AA==", b"\0"),
            ("AA", b"\0"),
            ("AAA", b"\0\0"),
            (" A A\n=\t= ", b"\0"),
            ("+/+/", b"\xfb\xff\xbf"),
        ],
    )
    def test_taken(self, text: str, data: bytes) -> None:
        for payload in ({"instances": [{"b64": text}]}, {"inputs": [{"b64": text}]}):
            assert one("string", **payload).tolist() == [data]
        assert one("string", inputs={"b64": text}).tolist() == data
        assert one("string", instances=[{"x": {"b64": text}}]).tolist() == [data]

    @pytest.mark.parametrize("size", [3, 4, 5, 100_000])
    def test_is_decoded_once(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = []

        def decode(text: Any, **options: Any) -> bytes:
            decoded.append(text)
            return binascii.a2b_base64(text, **options)

        monkeypatch.setattr(json_values, "binascii", types.SimpleNamespace(a2b_base64=decode))
        text = base64.b64encode(bytes(size)).decode()
        for form in (text, text.rstrip("=")):
            decoded.clear()
            assert one("string", instances=[{"b64": form}]).tolist() == [bytes(size)]
            assert len(decoded) == 1
            assert one("string", instances=[{"x": {"b64": form}}]).tolist() == [bytes(size)]
            assert len(decoded) == 2

    @pytest.mark.parametrize("text", ["-_-_", "A", "AA=", "A===", "AAAA=", "AA==AA==", "é", "A*AA"])
    def test_refused(self, text: str) -> None:
        assert "Unable to base64 decode" in refusal(signature(x="string"), instances=["a", {"b64": text}])

    @pytest.mark.parametrize("value", [{"b64": 1}, {"b64": "AA==", "more": 1}])
    def test_an_object_that_is_no_base64(self, value: Any) -> None:
        assert "not formatted correctly for base64 data" in refusal(signature(x="string"), inputs=[value])


class TestRows:
    @pytest.mark.parametrize(
        ("instances", "shape"),
        [([1], (1,)), ([[1, 2]], (1, 2)), ([[], []], (2, 0)), ([[[1], [2]], [[3], [4]]], (2, 2, 1))],
    )
    @pytest.mark.parametrize("kind", ["float", "int32", "string"])
    def test_shapes(self, instances: Any, shape: tuple[int, ...], kind: str) -> None:
        if kind == "string":
            instances = json.loads("".join(f'"{c}"' if c.isdigit() else c for c in json.dumps(instances)))
        array = one(kind, instances=instances)
        assert array.shape == shape
        assert array.flags.c_contiguous

    @pytest.mark.parametrize(
        ("instances", "words"),
        [
            ([[1, 2], [3]], "element: 1 of 'instances' list. Error: Expecting tensor size: 2 but got: 1"),
            ([[1, 2], [3]], "(shape [1], the first has [2])"),
            ([[1, 2], [[3, 4]]], "element: 1 of 'instances' list. Error: Expecting shape [2] but got: [1,2]"),
            ([1, [1]], "Expecting shape [] but got: [1]"),
            ([[[1, 2], [3]]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
            ([[1, [2]]], "Encountered list at unexpected level: 1 expected < 1"),
            ([[[1], 2]], "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
            ([1, {"x": 1}], "Expecting value/list but got object at item 1 of input list"),
            ([{"x": 1}, [1]], "Expecting object but got list at item 1 of input list"),
            ([{"x": 1}, 1], "Expecting object but got Number at item 1 of input list"),
            ([{"y": 1}], "element: 0 key: y of 'instances' list. Error: JSON object: does not have named"),
            ([{"x": 1}, {}], 'element: 1 of \'instances\' list. JSON object: {} keys must be equal to: x'),
            ([{"x": 1}, {"x": "1"}], "element: 1 key: x of 'instances' list. Error: JSON Value: \"1\" Type:"),
        ],
    )  # fmt: skip
    def test_refused(self, instances: Any, words: str) -> None:
        assert words in refusal(signature(x="float"), instances=instances)

    def test_several_inputs(self) -> None:
        wanted = signature(a="float", s="string")
        instances = [{"s": "x", "a": [1, 2]}, {"a": [3, 4], "s": {"b64": "eQ"}}]
        a, s = feeds_from_request({"instances": instances}, wanted)
        np.testing.assert_array_equal(a, np.array([[1, 2], [3, 4]], np.float32))
        assert s.tolist() == [b"x", b"y"]
        instances[1] = {"a": [3, 4]}
        assert "keys must be equal to: a,s" in refusal(wanted, instances=instances)
        instances[1] = {"a": [3, 4], "s": "y", "z": 1}
        assert "element: 1 key: z of 'instances'" in refusal(wanted, instances=instances)
        assert "plain list" in refusal(wanted, instances=[[1, 2]])
        assert "plain list" in refusal(wanted, instances=[{"b64": "AA=="}])

    def test_no_inputs(self) -> None:
        assert refusal(signature(), instances=[1]).startswith("Failed to get input map for signature: test")


class TestColumns:
    @pytest.mark.parametrize(("inputs", "shape"), [(1, ()), ([], (0,)), ([[1]], (1, 1)), ({"x": [1]}, (1,))])
    def test_shapes(self, inputs: Any, shape: tuple[int, ...]) -> None:
        assert one("float", inputs=inputs).shape == shape
        assert one("string", inputs=json.loads(json.dumps(inputs).replace("1", '"a"'))).shape == shape

    def test_several_inputs(self) -> None:
        wanted = signature(a="float", b="int64")
        a, b = feeds_from_request({"inputs": {"b": [1, 2], "a": 0.5, "extra": None}}, wanted)
        assert (a.shape, b.tolist()) == ((), [1, 2])
        assert refusal(wanted, inputs={"a": 1}) == "Missing named input: b in 'inputs' object."
        assert "inputs is a plain value/list" in refusal(wanted, inputs=[1])


class TestHostileShapes:
    def test_deep_nesting(self) -> None:
        value: Any = 1.0
        for _ in range(900):
            value = [value]
        for payload in ({"instances": [value]}, {"inputs": value}, {"instances": [[1], value]}):
            assert "Encountered list at unexpected level" in refusal(signature(x="float"), **payload)

    def test_a_large_or_deep_value_is_quoted_short(self) -> None:
        deep: Any = {}
        for _ in range(900):
            deep = {"a": deep}
        for value in ("x" * 1_000_000, {"a": "x" * 1_000_000}, {"a": list(range(1_000_000))}, deep):
            started = time.perf_counter()
            text = refusal(signature(x="float"), inputs=[value])
            assert len(text) < 500
            assert time.perf_counter() - started < 1


_VALUES = st.one_of(
    st.integers(-(2**65), 2**65),
    st.integers(0, 1),
    st.booleans(),
    st.floats(),
    st.none(),
    st.text(max_size=2),
)


@given(
    value=st.recursive(_VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=12),
    kind=st.sampled_from(["float", "double", "int8", "int32", "int64", "uint32", "uint64", "bool"]),
)
def test_the_short_cut_agrees_with_the_contract(value: Any, kind: str) -> None:
    """Whatever ``_fast`` answers, reading value by value gives the same array; and it refuses nothing."""
    dtype = dtype_named(kind)
    fast = feeds._fast(value, dtype)
    column = json_values.Column(dtype)
    try:
        column.add(value)
    except InvalidInput:
        assert fast is None
        return
    slow = column.only()
    assert slow.dtype == dtype.numpy
    if fast is not None:
        assert (fast.dtype, fast.shape) == (slow.dtype, slow.shape)
        np.testing.assert_array_equal(fast, slow)


_NUMBERS = st.one_of(st.integers(0, 3), st.integers(-(2**65), 2**65), st.floats(allow_nan=False, width=32))


@given(
    rows=st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(_NUMBERS, min_size=n, max_size=n), min_size=1)
    ),
    kind=st.sampled_from(["float", "double", "int8", "uint8", "int32", "int64", "uint32", "uint64"]),
)
def test_rows_that_were_read_as_one_array_are_fed_as_lists_are(rows: Any, kind: str) -> None:
    """The dtype that ``TensorFlowModel`` names for large bodies changes nothing: not even what is refused."""
    body = json.dumps({"instances": rows}).encode()
    payload = v1_numbers.read_instances(body, dtype_named(kind).numpy)
    if payload is not None:
        expected, got = one(kind, instances=json.loads(body)["instances"]), one(kind, **payload)
        assert (got.dtype, got.shape, got.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
