"""The examples of a request, as messages and as dictionaries."""

import pytest

from modelserver.errors import InvalidInput
from modelserver.protocols import examples
from modelserver.protocols.tf_messages import Example
from modelserver.protocols.tfs_messages import Input


def example(**features):
    made = Example()
    for name, values in features.items():
        kind = (
            {int: "int64_list", float: "float_list", bytes: "bytes_list"}[type(values[0])] if values else ""
        )
        feature = made.features.feature[name]
        if kind:
            getattr(feature, kind).value.extend(values)
    return made


def given(*rows, context=None):
    if context is None:
        return Input(example_list={"examples": rows})
    return Input(example_list_with_context={"examples": rows, "context": context})


def test_messages_stay_messages():
    one, other = example(a=[1]), example(b=[0.5])
    assert examples.serialized(given(one)) == {"examples": [one.SerializeToString()]}
    found = examples.serialized(given(one, context=other))
    assert found["context"] == other.SerializeToString()


def test_features_become_values_and_lists():
    row = example(one=[1], many=[0.5, 1.5], text=[b"x"], none=[])
    assert examples.plain(given(row)) == {
        "examples": [{"one": 1, "many": [0.5, 1.5], "text": b"x", "none": []}]
    }


def test_the_context_is_in_each_example_and_yields_to_it():
    found = examples.plain(given(example(a=[1]), example(b=[2]), context=example(a=[7], c=[3])))
    assert found == {"examples": [{"a": 1, "c": 3}, {"a": 7, "b": 2, "c": 3}]}


@pytest.mark.parametrize("empty", [Input(), given(), given(context=example(a=[1]))])
@pytest.mark.parametrize("form", [examples.serialized, examples.plain])
def test_no_example_is_refused(form, empty):
    with pytest.raises(InvalidInput, match=r"Input is empty\."):
        form(empty)
