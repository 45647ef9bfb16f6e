"""A field of bytes found in a message, and written behind one."""

import pytest

from modelserver.protocols import wire
from modelserver.protocols.v2_messages import ModelInferRequest

RAW = 7


def message(*raw, **fields):
    return ModelInferRequest(raw_input_contents=raw, **fields).SerializeToString()


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b"", []),
        (message(model_name="m"), []),
        (message(b"", b"a", b"b" * 127, b"c" * 128), [b"", b"a", b"b" * 127, b"c" * 128]),
        (message(b"d" * 70_000), [b"d" * 70_000]),
        (message(b"after", model_name="m", id="1", inputs=[{"name": "x", "shape": [2**40]}]), [b"after"]),
        # Before other fields, and between them; unknown fields of every type of the wire.
        (message(b"before") + message(model_name="m") + message(b"behind"), [b"before", b"behind"]),
        (b"\x98\x06\x80\x01" + b"\x99\x06" + b"8" * 8 + b"\x9d\x06" + b"4" * 4 + message(b"x"), [b"x"]),
    ],
)  # fmt: skip
def test_a_field_is_found_and_the_rest_is_the_same_message(body, raw):
    rest, found = wire.without(body, RAW)
    assert [bytes(each) for each in found] == raw
    whole, left = ModelInferRequest.FromString(body), ModelInferRequest.FromString(rest)
    assert list(whole.raw_input_contents) == raw
    assert not left.raw_input_contents
    left.raw_input_contents.extend(raw)
    assert left == whole


def test_what_is_found_is_not_copied():
    body = message(b"x" * 1000)
    [found] = wire.without(body, RAW)[1]
    assert found.obj is body


@pytest.mark.parametrize(
    "body",
    [
        b"\x3a",  # no length
        b"\x3a\x05abc",  # cut off
        b"\x3a\xff",  # half a length
        b"\x3a" + b"\xff" * 12,  # a length of more than 64 bits
        b"\x08" + b"\x80" * 12 + b"\0",  # a number of more
        b"\x3b\x3c",  # a group
        b"\x3e\x00\x00",  # no type of the wire
        b"\x39\x00",  # eight bytes, of which one is there
        b"\x3a\x00" * 5000,  # more fields than are looked through
    ],
)
def test_what_is_no_such_message_is_left_alone(body):
    assert wire.without(body, RAW) is None


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_a_field_is_written_as_protobuf_writes_it(size):
    data = b"x" * size
    assert b"".join(wire.field(RAW, data)) == message(data)
