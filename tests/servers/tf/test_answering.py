"""What a loaded model answers, against TensorFlow's own answers."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from modelserver import InvalidInput, ModelNotReady, ModelServerError
from modelserver.protocols.tfs_json import decode_request, encode_response

IRIS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture
def functions_model(load: Any, functions_export: Any) -> Any:
    return load(functions_export)


class TestRows:
    def test_a_keras_export_answers_as_keras_does(
        self, load: Any, ask: Any, keras_model: Any, keras_export: Any
    ) -> None:
        model = load(keras_export)
        answer = ask(model, {"instances": IRIS})
        assert list(answer) == ["predictions"]
        np.testing.assert_allclose(
            answer["predictions"], keras_model(np.array(IRIS, np.float32)).numpy(), rtol=1e-6
        )

    def test_float32_stays_float32(self, functions_model: Any, ask: Any) -> None:
        answer = ask(functions_model, {"signature_name": "echo_float32", "instances": [0.1]})
        assert answer["predictions"].dtype == np.float32

    def test_a_single_input_may_be_named(self, functions_model: Any, functions: Any, ask: Any) -> None:
        plain_rows = ask(functions_model, {"instances": IRIS})["predictions"]
        named_rows = ask(functions_model, {"instances": [{"x": row} for row in IRIS]})["predictions"]
        np.testing.assert_array_equal(plain_rows, named_rows)
        np.testing.assert_allclose(plain_rows, functions.matmul(tf.constant(IRIS))["logits"], rtol=1e-6)

    def test_several_inputs_and_outputs(
        self, functions_model: Any, functions: Any, ask: Any, plain: Any
    ) -> None:
        answer = ask(
            functions_model,
            {"signature_name": "add", "instances": [{"a": 1.5, "b": 2}, {"b": 5, "a": 4}]},
        )
        own = functions.add(tf.constant([1.5, 4.0]), tf.constant([2, 5]))
        assert plain(answer) == {
            "predictions": [
                {"product": int(product), "sum": float(total)}
                for product, total in zip(own["product"], own["sum"], strict=True)
            ]
        }

    def test_tf1_several_inputs_and_outputs(
        self, load: Any, ask: Any, tf1_functions: Any, plain: Any
    ) -> None:
        answer = ask(load(tf1_functions), {"instances": [{"a": [3, 4], "b": [1, 1]}]})
        assert plain(answer) == {"predictions": [{"difference": [2.0, 3.0], "sum": [4.0, 5.0]}]}

    def test_an_output_may_be_an_input(self, load: Any, ask: Any, tf1_functions: Any, plain: Any) -> None:
        answer = ask(load(tf1_functions), {"signature_name": "same", "instances": [[1, 2]]})
        assert plain(answer) == {"predictions": [{"a": [1, 2], "again": [1, 2], "double": [2, 4]}]}

    @pytest.mark.parametrize("instances", [[1.0, 2.0, 5.0], [[1.0], [2.0]], [[1.0, 2.0], [3.0, 4.0]], [[]]])
    def test_shapes_are_not_checked_against_the_signature(
        self, load: Any, ask: Any, half_plus_two: Any, instances: Any
    ) -> None:
        answer = ask(load(half_plus_two), {"instances": instances})["predictions"]
        np.testing.assert_array_equal(answer, np.array(instances, np.float32) * 0.5 + 2)

    def test_strings(self, functions_model: Any, ask: Any) -> None:
        body = {
            "signature_name": "join",
            "instances": [{"left": "bœuf", "right": "!"}, {"left": b64(b"a\x00"), "right": b64(b"\x00")}],
        }
        assert ask(functions_model, body) == {
            "predictions": [
                {"text": "bœuf!", "raw_bytes": b64("bœuf!".encode())},
                {"text": "a\x00\x00", "raw_bytes": b64(b"a\x00\x00")},
            ]
        }

    def test_bytes_that_are_not_utf8_are_sent_as_they_are_and_told_once(
        self, functions_model: Any, ask: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = {"signature_name": "join", "instances": [{"left": b64(b"\xff"), "right": "x"}]}
        for _ in range(2):
            answer = ask(functions_model, body)
            assert answer["predictions"] == [{"text": "\udcffx", "raw_bytes": b64(b"\xffx")}]
            assert b'"text":"\xffx"' in encode_response(answer)[0]
        assert [record.getMessage() for record in caplog.records if "UTF-8" in record.message] == [
            "output 'text' holds bytes that are not UTF-8; they are sent as they are, which is no JSON. "
            "Export it under a name that ends in _bytes to send base64"
        ]

    @pytest.mark.parametrize(
        ("dtype", "sent", "got"),
        [
            ("float32", [1, 2.5, -3], [1.0, 2.5, -3.0]),
            ("float32", [1e39, -1e39, 1e-50], [float("inf"), float("-inf"), 0.0]),
            ("float64", [[0.1], [1]], [[0.1], [1.0]]),
            ("int8", [300, -129, 5], [44, 127, 5]),
            ("int16", [40000], [-25536]),
            ("uint8", [300, -1], [44, 255]),
            ("int32", [2**31 - 1, -(2**31)], [2**31 - 1, -(2**31)]),
            ("int64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
            ("uint32", [2**32 - 1], [2**32 - 1]),
            ("uint64", [2**64 - 1, 1], [2**64 - 1, 1]),
            ("bool", [True, False], [True, False]),
            ("string", ["a", {"b64": "Yg"}], ["a", "b"]),
            ("string", [["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
            ("float32", [[], []], [[], []]),
        ],
    )
    def test_every_dtype_goes_in_and_comes_out(
        self, functions_model: Any, ask: Any, plain: Any, dtype: str, sent: Any, got: Any
    ) -> None:
        answer = ask(functions_model, {"signature_name": f"echo_{dtype}", "instances": sent})
        assert plain(answer) == {"predictions": got}


class TestArrays:
    """Rows that come as one array, because the body is large or ``.npy``."""

    def test_the_dtype_that_rows_may_be_read_as(
        self, load: Any, half_plus_two: Any, counter_export: Any
    ) -> None:
        assert load(half_plus_two).instances_dtype == np.float32
        assert load(counter_export).instances_dtype == np.int64

    @pytest.mark.parametrize(
        ("names", "dtype"),
        [
            (["summary", "uneven"], np.float32),
            (["summary", "divide"], None),
            (["summary", "add"], None),
            (["add"], None),
            (["read"], None),
            (["from_half"], None),
        ],
    )
    def test_there_is_none_where_signatures_differ(
        self, load: Any, functions: Any, tmp_path: Any, names: list[str], dtype: Any
    ) -> None:
        signatures = functions.signatures()
        tf.saved_model.save(functions, str(tmp_path), signatures={name: signatures[name] for name in names})
        assert load(tmp_path).instances_dtype == dtype

    @pytest.mark.parametrize("others", [{}, {"signature_name": "serving_default"}])
    def test_a_large_body_is_answered_as_its_lists_are(
        self, load: Any, ask: Any, keras_export: Any, others: Any
    ) -> None:
        model = load(keras_export)
        body = {"instances": IRIS * 500, **others}
        payload = decode_request(json.dumps(body).encode(), "", model.instances_dtype)
        assert isinstance(payload["instances"], np.ndarray)
        np.testing.assert_array_equal(ask(model, payload)["predictions"], ask(model, body)["predictions"])

    @pytest.mark.parametrize(
        "body",
        [
            {"instances": IRIS * 500, "signature_name": "nobody"},
            {"instances": IRIS * 500, "inputs": 1},
            {"instances": [[1, 2]] * 2000},
            {"instances": [*IRIS * 500, [1.5]]},
            {"instances": [*IRIS * 500, [1.5, 2, 3, None]]},
        ],
    )
    def test_a_large_body_is_refused_as_its_lists_are(
        self, load: Any, ask: Any, keras_export: Any, body: Any
    ) -> None:
        model = load(keras_export)
        payload = decode_request(json.dumps(body).encode(), "", model.instances_dtype)
        texts = []
        for each in (payload, body):
            with pytest.raises(InvalidInput) as caught:
                ask(model, each)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]

    def test_integers_stay_strict(self, load: Any, ask: Any, counter_export: Any) -> None:
        model = load(counter_export)
        payload = decode_request(json.dumps({"instances": [1.0] * 5000}).encode(), "", model.instances_dtype)
        with pytest.raises(InvalidInput, match=r"JSON Value: 1\.0 Type: .* expected type: int64"):
            ask(model, payload)

    @pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int64"])
    def test_arrays_of_any_dtype(self, load: Any, ask: Any, keras_export: Any, dtype: str) -> None:
        model = load(keras_export)
        rows = np.array(IRIS).astype(dtype)
        rows.flags.writeable = False
        expected = ask(model, {"instances": rows.astype(float).tolist()})["predictions"]
        np.testing.assert_array_equal(ask(model, {"instances": rows})["predictions"], expected)


class TestColumns:
    def test_one_input_and_output(self, functions_model: Any, ask: Any, functions: Any) -> None:
        expected = functions.matmul(tf.constant(IRIS))["logits"]
        for inputs in (IRIS, {"x": IRIS}, {"x": IRIS, "other": "ignored"}):
            answer = ask(functions_model, {"inputs": inputs})
            assert list(answer) == ["outputs"]
            np.testing.assert_allclose(answer["outputs"], expected, rtol=1e-6)

    def test_several_inputs_and_outputs(self, functions_model: Any, ask: Any, plain: Any) -> None:
        body = {"signature_name": "add", "inputs": {"a": [1.5, 4], "b": [2, 5]}}
        assert plain(ask(functions_model, body)) == {"outputs": {"product": [2, 20], "sum": [3.5, 9.0]}}

    def test_scalars_and_mixed_sizes(self, functions_model: Any, ask: Any, plain: Any) -> None:
        summary = ask(functions_model, {"signature_name": "summary", "inputs": [1, 2, 3]})
        assert plain(summary) == {"outputs": 6.0}
        uneven = ask(functions_model, {"signature_name": "uneven", "inputs": [1, 2, 3]})
        assert plain(uneven) == {"outputs": {"all": [1.0, 2.0, 3.0], "first": [1.0]}}
        assert plain(ask(functions_model, {"signature_name": "echo_float32", "inputs": 7})) == {
            "outputs": 7.0
        }
        assert plain(ask(functions_model, {"signature_name": "echo_float32", "inputs": []})) == {
            "outputs": []
        }
        assert ask(functions_model, {"signature_name": "echo_string", "inputs": b64(b"x")}) == {
            "outputs": "x"
        }


class TestSignatureNames:
    def test_empty_means_serving_default(self, functions_model: Any, ask: Any, plain: Any) -> None:
        named, unnamed = (
            plain(ask(functions_model, {"signature_name": name, "instances": IRIS}))
            for name in ("", "serving_default")
        )
        assert named == unnamed

    def test_the_only_signature_is_the_default(
        self, load: Any, ask: Any, counter_export: Any, plain: Any
    ) -> None:
        model = load(counter_export)
        assert plain(ask(model, {"instances": [10]})) == {"predictions": [11]}

    def test_unknown(self, functions_model: Any, ask: Any) -> None:
        with pytest.raises(InvalidInput) as caught:
            ask(functions_model, {"signature_name": "x", "instances": [1]})
        assert str(caught.value).startswith('Serving signature name: "x" not found in signature def')
        assert "divide" in str(caught.value)

    @pytest.mark.parametrize("name", [None, 1, ["a"], True])
    def test_not_a_string(self, functions_model: Any, ask: Any, name: Any) -> None:
        with pytest.raises(InvalidInput, match="'signature_name' key must be a string value"):
            ask(functions_model, {"signature_name": name, "instances": [1]})

    def test_no_default_among_several_names_them(
        self, load: Any, ask: Any, exports: Any, functions: Any, tmp_path: Any
    ) -> None:
        tf.saved_model.save(
            functions, str(tmp_path / "two"), signatures={"a": functions.matmul, "b": functions.divide}
        )
        model = load(tmp_path / "two")
        assert model.example_request() is None
        assert model.get_input_types() == []
        with pytest.raises(InvalidInput, match=r'"serving_default" not found .* one of: a, b\)'):
            ask(model, {"instances": [1]})


def _named(signature_name: str, **body: Any) -> dict[str, Any]:
    return {"signature_name": signature_name, **body}


REFUSED: list[tuple[Any, int, str]] = [
    ({}, 400, "Missing 'inputs' or 'instances' key"),
    ({"instances": [], "inputs": []}, 400, "expecting only one of 'inputs' or 'instances' keys"),
    ({"instances": None}, 400, "Expecting 'instances' to be an list/array, got Null"),
    ({"instances": {"x": 1}}, 400, "Expecting 'instances' to be an list/array, got Object"),
    ({"instances": []}, 400, "No values in 'instances' array"),
    ({"instances": [[1, 2, 3]]}, 400, "Matrix size-incompatible: In[0]: [1,3], In[1]: [4,3]"),
    ({"instances": [[1, 2, 3]]}, 400, 'input "x" came as [1,3], signature "serving_default" says [-1,4]'),
    ({"instances": [[1, 2, 3, 4], [5]]}, 400, "process element: 1 of 'instances' list. Error: Expecting"),
    ({"instances": [[1, 2, 3, "4"]]}, 400, '"4" Type: String is not of expected type: float'),
    ({"instances": [[1, 2, 3, True]]}, 400, "true Type: True is not of expected type: float"),
    ({"instances": [[1, 2, 3, None]]}, 400, "null Type: Null is not of expected type: float"),
    ({"instances": [[{"b64": "AA=="}]]}, 400, "base64 is for string inputs only"),
    ({"inputs": {"y": [1]}}, 400, "Missing named input: x in 'inputs' object."),
    (_named("divide", instances=[5, 0]), 400, "Integer division by zero"),
    (_named("divide", instances=[1.0]), 400, "1.0 Type: Number is not of expected type: int32"),
    (_named("add", instances=[1]), 400, "instances is a plain list"),
    (_named("add", inputs=[1]), 400, "inputs is a plain value/list"),
    (_named("summary", instances=[1]), 400, "Tensor name: total has no shape information"),
    (_named("uneven", instances=[1, 2]), 400, "name: first has inconsistent batch size: 1 expecting: 2"),
    (_named("halve", instances=[1]), 400, "Failed to write JSON value for tensor type: half"),
    (_named("halve", inputs=[1]), 400, "Failed to write JSON value for tensor type: half"),
    (_named("from_half", instances=[1]), 400, "Conversion of JSON Value: 1 to type: half"),
    (_named("from_half", inputs=[1]), 501, "Conversion of JSON Value: 1 to type: half"),
    (_named("read", instances=["no-such-file"]), 404, "no-such-file; No such file"),
    (b"not JSON", 400, "Is not object"),
]


class TestRefusals:
    """Wrong requests: 400 with the words that help, and the model answers the next one."""

    @pytest.mark.parametrize(("body", "status", "words"), REFUSED)
    def test_words_and_status(
        self, functions_model: Any, ask: Any, body: Any, status: int, words: str
    ) -> None:
        with pytest.raises(ModelServerError) as caught:
            ask(functions_model, body)
        assert caught.value.status == status
        assert words in str(caught.value)
        assert "{{" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(ask(functions_model, {"instances": IRIS})["predictions"]) == 2

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("lying", "Type mismatch: actual float vs. expect string"),
            ("constant", "Failed to get input map for signature: constant"),
            ("twice", '"twice" cannot be served: Endpoint "a:0" fed more than once.'),
        ],
    )
    def test_odd_signatures(self, load: Any, ask: Any, tf1_functions: Any, name: str, words: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            ask(load(tf1_functions), {"signature_name": name, "instances": [1]})
        assert words in str(caught.value)

    def test_before_load_and_after_stop(self, load: Any, ask: Any, half_plus_two: Any) -> None:
        from tfserver.model import TensorFlowModel

        with pytest.raises(ModelNotReady):
            ask(TensorFlowModel("early", half_plus_two), {"instances": [1]})
        model = load(half_plus_two)
        model.stop()
        assert not model.ready
        with pytest.raises(ModelNotReady):
            ask(model, {"instances": [1]})
