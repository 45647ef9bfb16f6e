"""What a line of the log looks like: text or JSON.

Rules of the room: records in, text out. Whatever a client or a model has put into a message, a line of text
begins with a time and holds printable ASCII only, and the lines of a traceback are indented: nobody can
forge a line, nor steer a terminal. A line of JSON is one object, in ASCII.
"""

from __future__ import annotations

import io
import logging
import time
import traceback
from collections.abc import Callable
from json.encoder import encode_basestring_ascii

FORMATS = ("text", "json")

_MOST_CHARACTERS = 64 * 1024
_ESCAPES = {number: f"\\x{number:02x}" for number in [*range(32), 127]} | {
    ord("\r"): "\\r",
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}


def escaped(text: str) -> str:
    r"""Text with everything escaped that is not printable ASCII.

    >>> escaped("one\r\ntwo \x1b[31m ü")
    'one\\r\\ntwo \\x1b[31m \\xfc'
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES).encode("ascii", "backslashreplace").decode("ascii")


def quoted(text: str) -> str:
    r"""Text as a string of JSON, in ASCII.

    >>> quoted('"\x1b ü \udc80')
    '"\\"\\u001b \\u00fc \\\\udc80"'
    """
    if not text.isascii():  # half a surrogate pair is no Unicode, and no parser takes it
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return encode_basestring_ascii(text)


class TextFormat(logging.Formatter):
    """``2026-01-31 12:00:00,123 17 INFO modelserver.server: message``, and an indented traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and those of its traceback."""
        head = f"{self.formatTime(record)} {record.process} {record.levelname} {record.name}:"
        line = f"{head} {escaped(_cut(record.getMessage()))}"
        trace = _trace(record)
        return "\n  ".join([line, *map(escaped, trace.split("\n"))]) if trace else line


class JsonFormat(logging.Formatter):
    """One object for each record: time, level, logger, pid, message; if any ``request_id``, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        second = int(record.created)
        fields = [
            f'"time":"{iso_second(second)}.{int(record.msecs):03d}{zone(second)}"',
            f'"level":{quoted(record.levelname)}',
            f'"logger":{quoted(record.name)}',
            f'"pid":{record.process or 0}',
            f'"message":{quoted(_cut(record.getMessage()))}',
        ]
        request_id = getattr(record, "request_id", None)
        if isinstance(request_id, str):
            fields.append(f'"request_id":{quoted(request_id)}')
        trace = _trace(record)
        if trace:
            fields.append(f'"exception":{quoted(trace)}')
        return f"{{{','.join(fields)}}}"


MAKERS: dict[str, Callable[[], logging.Formatter]] = {"text": TextFormat, "json": JsonFormat}


def iso_second(second: int) -> str:
    """Local time, as ISO 8601 writes it, up to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))


def zone(second: int) -> str:
    """Local time's distance from UTC at a moment: ``+02:00``."""
    text = time.strftime("%z", time.localtime(second))
    return f"{text[:3]}:{text[3:5]}"


def _trace(record: logging.LogRecord) -> str:
    """The traceback of a record, and its stack where that was asked for."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        stream = io.StringIO()
        traceback.print_exception(*record.exc_info, file=stream)
        parts.append(stream.getvalue().rstrip("\n"))
    if record.stack_info:
        parts.append(record.stack_info)
    return _cut("\n".join(parts), from_end=True)


def _cut(text: str, *, from_end: bool = False) -> str:
    """A text of bounded length; of a traceback the end says most."""
    surplus = len(text) - _MOST_CHARACTERS
    if surplus <= 0:
        return text
    note = f"({surplus} characters are left out)"
    return f"{note} ... {text[surplus:]}" if from_end else f"{text[:_MOST_CHARACTERS]} ... {note}"
