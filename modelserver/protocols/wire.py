"""The bytes of a protocol buffer message, for fields that are too large to be copied.

Rules of the room: bytes in, views of them out, and the other way round; no message class. What is wrong with
the bytes ``protobuf`` says: here they are only not looked through.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

_LENGTH_DELIMITED = 2
_SIZES = {1: 8, 5: 4}
"""Bytes of a value, by the type of the wire that says so."""
_MOST_FIELDS = 4096
_MOST_BITS = 63


def without(body: bytes, number: int) -> tuple[bytes, list[memoryview]] | None:
    """A message without one of its fields.

    Args:
        body: the message.
        number: of the field: bytes, any number of them.

    Returns:
        The message without them, and they, as views of ``body``. ``None``: it is not for this function to
        read, since it has very many fields or is no message.
    """
    wanted = _tag(number)
    view = memoryview(body)
    found: list[memoryview] = []
    rest: list[memoryview] = []
    start = position = 0
    try:
        for _ in range(_MOST_FIELDS):
            if position >= len(body):
                break
            begin = position
            tag, position = _varint(body, position)
            kind = tag & 7
            if kind == _LENGTH_DELIMITED:
                length, value = _varint(body, position)
                position = value + length
                if tag == wanted:
                    rest.append(view[start:begin])
                    found.append(view[value:position])
                    start = position
            elif kind == 0:
                _, position = _varint(body, position)
            else:
                position += _SIZES[kind]
    except (IndexError, KeyError):
        return None
    if position != len(body):
        return None
    return b"".join((*rest, view[start:])), found


def field(number: int, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """What of a message one field of bytes is: its head and its value, to be joined.

    Args:
        number: of the field, up to 15.
        data: its value.
    """
    head = bytearray((_tag(number),))
    size = len(data)
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head), data


def _tag(number: int) -> int:
    return number << 3 | _LENGTH_DELIMITED


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > _MOST_BITS:
            raise IndexError(position)
