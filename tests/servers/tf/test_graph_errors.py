"""TensorFlow's messages to the client's. The messages are real ones of TensorFlow 2.21."""

import numpy as np
import pytest

from modelserver import InferenceError, InvalidInput
from tfserver.graph_errors import first_line, public_error
from tfserver.signature import Signature, TensorSpec, dtype_named

_SIGNATURE = Signature(
    "serving_default",
    (
        TensorSpec("a", "a:0", dtype_named("float"), (-1, 4)),
        TensorSpec("b", "b:0", dtype_named("float"), None),
        TensorSpec("c", "c:0", dtype_named("float"), (-1, -1)),
    ),
    (),
)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Matrix size-incompatible: In[0]: [2,3], In[1]: [4,10]\n\t [[{{node a/b/MatMul}}]]",
            "Matrix size-incompatible: In[0]: [2,3], In[1]: [4,10]",
        ),
        (
            "assertion failed: [bad]\n\t [[{{function_node __inference_f_8}}{{node Assert}}]]",
            "assertion failed: [bad]",
        ),
        ("{{function_node __wrapped__Div}} Integer division by zero", "Integer division by zero"),
        (
            "2 root error(s) found.\n"
            "  (0) INVALID_ARGUMENT: Integer division by zero\n\t [[{{node floordiv}}]]\n"
            "  (1) INVALID_ARGUMENT: other",
            "Integer division by zero",
        ),
        (
            "Graph execution error:\n\n"
            "Detected at node 'save/RestoreV2' defined at (most recent call last):\n"
            "    File \"/somewhere/main.py\", line 3, in f\n      load()\nNode: 'save/RestoreV2'\n"
            "Read less bytes than requested\n\t [[{{node save/RestoreV2}}]]\n\nOriginal stack trace",
            "Read less bytes than requested",
        ),
        ("", "no message"),
        ("{{node x}}", "{{node x}}"),
    ],
)
def test_first_line(message: str, line: str) -> None:
    assert first_line(message) == line


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (1, 499), (2, 500), (3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429), (9, 400), (10, 409),
        (11, 400), (12, 501), (13, 500), (14, 503), (15, 500), (16, 401), (99, 500),
    ],
)  # fmt: skip
def test_status(code: int, status: int) -> None:
    """Section 8 of the contract."""
    feeds = [np.zeros(shape, np.float32) for shape in ((1, 4), 3, (1, 1))]
    error = public_error(code, "the words", _SIGNATURE, feeds)
    assert (error.status, str(error)) == (status, "the words")
    assert isinstance(error, InvalidInput) == (status == 400)
    assert isinstance(error, InferenceError) == (status == 500)


def test_a_400_names_the_inputs_unlike_the_signature() -> None:
    feeds = [np.zeros(shape, np.float32) for shape in ((2, 3), (), 5)]
    assert str(public_error(3, "no", _SIGNATURE, feeds)) == (
        'no (input "a" came as [2,3], signature "serving_default" says [-1,4]; '
        'input "c" came as [5], signature "serving_default" says [-1,-1])'
    )


def test_it_names_the_dtypes_too_where_they_differ() -> None:
    feeds = [np.zeros((1, 4)), np.array(["a"], object), np.array([["a"]])]
    assert str(public_error(3, "no", _SIGNATURE, feeds)) == (
        'no (input "a" came as double [1,4], signature "serving_default" says float [-1,4]; '
        'input "b" came as string [1], signature "serving_default" says float [?]; '
        'input "c" came as string [1,1], signature "serving_default" says float [-1,-1])'
    )
