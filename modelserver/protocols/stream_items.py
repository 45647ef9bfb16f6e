"""The bytes of an answer that comes piece by piece: as they are, as lines of JSON, or as server-sent events.

Rules of the room: bytes and header values. An item is encoded by the protocol's own ``encode_response``; here
it gets what tells it from the next one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from modelserver.protocols.v1_json import JSON_TYPE, encode_error

TEXT = "text/plain; charset=utf-8"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"

_LINE_END = re.compile(rb"\r\n|\r|\n")


def type_of_stream(content_type: str) -> str:
    """The Content-Type of a stream whose first item has this one: JSON documents come one to a line."""
    return LINES if content_type == JSON_TYPE else content_type


def as_piece(body: bytes, content_type: str) -> bytes:
    """An item among others: a JSON document ends with its line, text and bytes are as they are."""
    return body + b"\n" if content_type == JSON_TYPE else body


def as_event(body: bytes, content_type: str) -> bytes:
    """An item as a server-sent event (WHATWG HTML, 9.2): each of its lines is a line of data.

    >>> as_event(b"two\\nlines", TEXT)
    b'data: two\\ndata: lines\\n\\n'

    Raises:
        TypeError: bytes that are no text.
    """
    if not content_type.startswith((JSON_TYPE, "text/")):
        try:
            body.decode()
        except UnicodeDecodeError:
            raise TypeError(
                f"the model gave {len(body)} bytes that are no UTF-8 text, and server-sent events are text"
            ) from None
    return b"".join(b"data: %b\n" % line for line in _LINE_END.split(body)) + b"\n"


def error_event(reason: str) -> bytes:
    """The last event of a stream that failed: of type ``error``, its data what an error's body is."""
    return b"event: error\ndata: %b\n\n" % encode_error(reason)


@lru_cache(maxsize=256)
def wants_events(accept: str, otherwise: str) -> bool:
    """Whether a client wants server-sent events (RFC 9110, 12.5.1). It has to say so: ``*/*`` does not.

    Args:
        accept: the request's header, empty if there is none.
        otherwise: the Content-Type of the answer if not.

    >>> wants_events("application/json, text/event-stream", LINES), wants_events("*/*", LINES)
    (True, False)
    >>> wants_events("text/event-stream;q=0.5, application/x-ndjson", LINES)
    False
    """
    if EVENTS not in accept.lower():
        return False
    qualities = {}
    for item in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        qualities[media_range] = _quality(parameters)
    wanted = qualities.get(EVENTS, 0.0)
    plain = otherwise.partition(";")[0].strip().lower()
    ranges = (plain, f"{plain.partition('/')[0]}/*", "*/*")
    other = next((qualities[each] for each in ranges if each in qualities), 0.0)
    return 0 < wanted >= other


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0  # not understood: not asked for
    return 1.0
