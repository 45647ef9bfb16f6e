"""What forward may return, and what one prediction is then."""

import asyncio

import numpy as np
import orjson
import pytest
import torch

import modelserver
from pytorchserver.outputs import predictions

from .conftest import ask

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.fixture
def returns(folder):
    """A model whose forward returns the expression."""

    def load(expression):
        code = (
            "import collections\nimport numpy\nimport torch\n"
            "Point = collections.namedtuple('Point', 'left right')\n"
            "class Net(torch.nn.Module):\n"
            "    def forward(self, x):\n"
            f"        return {expression}\n"
        )
        (folder.path / "model.py").write_text(code)
        return folder.load()

    return load


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("x", ROWS),
        ("x.sum(1)", [3, 7, 11]),
        ("x.argmax(1)", [1, 1, 1]),
        ("x > 3", [[False, False], [False, True], [True, True]]),
        ("x.bfloat16()", ROWS),
        ("x.half()", ROWS),
        ("x.double()", ROWS),
        ("x.t().contiguous().t()", ROWS),  # not C-contiguous
        ("x.to_sparse()", ROWS),
        ("(x, x.sum(1))", [[[1, 2], 3], [[3, 4], 7], [[5, 6], 11]]),
        ("[x, x.sum(1)]", [[[1, 2], 3], [[3, 4], 7], [[5, 6], 11]]),
        ("(x,)", [[[1, 2]], [[3, 4]], [[5, 6]]]),
        ("x.max(1)", [[2, 1], [4, 1], [6, 1]]),
        ("Point(x.sum(1), x[:, 0])", [[3, 1], [7, 3], [11, 5]]),
        ("{'p': x, 's': x.sum(1)}", [{"p": [1, 2], "s": 3}, {"p": [3, 4], "s": 7}, {"p": [5, 6], "s": 11}]),
        (
            "{'a': {'b': x.sum(1)}, 't': (x[:, 0], x[:, 1])}",
            [{"a": {"b": 3}, "t": [1, 2]}, {"a": {"b": 7}, "t": [3, 4]}, {"a": {"b": 11}, "t": [5, 6]}],
        ),
        (
            "{'s': x.sum(1), 'v': 1, 'n': None, 'm': 'abc', 't': x.sum()}",
            [{"s": s, "v": 1, "n": None, "m": "abc", "t": 21} for s in (3, 7, 11)],
        ),
        ("(x.sum(1), None)", [[3, None], [7, None], [11, None]]),
        (
            "{'l': ['a', 'b', 'c'], 's': x.sum(1)}",
            [{"l": "a", "s": 3}, {"l": "b", "s": 7}, {"l": "c", "s": 11}],
        ),
        ("{1: x.sum(1)}", [{"1": 3}, {"1": 7}, {"1": 11}]),
        ("{'a': numpy.arange(3)}", [{"a": 0}, {"a": 1}, {"a": 2}]),
        ("x.numpy()", ROWS),
        ("['a', 'b', 'c']", ["a", "b", "c"]),
        ("[{'box': row[None], 'n': 1} for row in x]", [{"box": [row], "n": 1} for row in ROWS]),
        (
            "[{'boxes': row[:i], 'labels': ['u'] * i} for i, row in enumerate(x)]",
            [
                {"boxes": [], "labels": []},
                {"boxes": [3], "labels": ["u"]},
                {"boxes": [5, 6], "labels": ["u", "u"]},
            ],
        ),
        ("[[1], [2, 3], []]", [[1], [2, 3], []]),
        ("{}", [{}, {}, {}]),
    ],
)
def test_one_prediction_per_row(returns, expression, wanted):
    model = returns(expression)
    assert ask(model, ROWS) == wanted
    answer = asyncio.run(model({"instances": ROWS}))
    written = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    assert orjson.loads(written)["predictions"] == wanted, "JSON can be written from it as it is"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("x[:2]", "returned shape [2, 2] for 3 rows, expected [3, ...]: one prediction per row"),
        ("x.sum()", "returned shape [] for 3 rows"),
        ("(x, x[:1])", "returned shape [1, 2] in output[1] for 3 rows"),
        ("{'a': x, 'b': {'c': x[:2]}}", "returned shape [2, 2] in output['b']['c'] for 3 rows"),
        ("['a', 'b']", "returned 2 items for 3 rows"),
        ("None", "returned NoneType for 3 rows, expected a tensor"),
        ("7", "returned int for 3 rows"),
        ("'text'", "returned str for 3 rows"),
        ("object()", "returned object, expected tensors"),
        ("{'a': {1, 2}}", "returned set in output['a'], expected tensors"),
        ("torch.complex(x, x)", "complex numbers"),
    ],
)
def test_anything_else_is_an_error_that_names_the_shapes(returns, expression, said):
    with pytest.raises(modelserver.InferenceError) as caught:
        ask(returns(expression), ROWS)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "expression", ["x.sum(1).squeeze()", "x.squeeze()", "(x.squeeze(), x.sum(1).squeeze())"]
)
def test_a_squeeze_takes_no_row_away(returns, expression):
    model = returns(expression)
    assert ask(model, ROWS[:1]) == ask(model, ROWS)[:1]


def test_float32_stays_float32():
    assert predictions(torch.ones(2, 3), 2).dtype == np.float32
