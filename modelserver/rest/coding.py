"""Content codings: gzip request bodies in, gzip answers out (RFC 9110, 8.4 and 12.5.3).

Rules of the room: bytes and header values only. Sizes are bounded before memory is: a request is inflated up
to the limit of a body and no further.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple

from modelserver.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from modelserver.settings import Settings

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: with a gzip header and checksum
_FASTEST = 1
_IN_PLACE = 128 * 1024
_PIECE = 64 * 1024
"""Read at a time: zlib copies what is behind a member, which for many members in one piece is quadratic."""
_MOST_MEMBERS = 1000
"""A file has one; tools that make blocks (bgzip) have one for each 64 KiB. An empty one takes 20 bytes."""


class BodySizes(NamedTuple):
    """Bounds of bodies, in bytes."""

    most_in: int
    """Of a request, as it comes and inflated."""

    gzip_from: int
    """Of an answer, to be sent as gzip to who accepts it; 0: never."""

    most_held: int = 512 * 1024 * 1024
    """Of all requests that are being read and answered, in one worker."""

    @classmethod
    def of(cls, settings: Settings) -> BodySizes:
        """The bounds that a server is told; one body of the largest size always has room."""
        most_held = max(settings.max_in_flight_bytes, settings.max_buffer_size)
        return cls(settings.max_buffer_size, settings.gzip_min_bytes, most_held)


def inflate(body: bytes | memoryview, coding: str, limit: int) -> bytes | memoryview:
    """Undo a request's Content-Encoding.

    Args:
        body: as it came.
        coding: the header's value: ``gzip`` (or its old name ``x-gzip``), ``identity`` or nothing.
        limit: most bytes that may come out.

    Raises:
        UnsupportedMediaType: another coding, or several.
        PayloadTooLarge: more than ``limit`` bytes come out.
        InvalidInput: no gzip, a wrong checksum, cut short, followed by something else, or in too many parts.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip"):
        raise UnsupportedMediaType(f"Content-Encoding is {coding[:40]!r}, expected gzip or none")
    pieces: list[bytes] = []
    room, members = limit, 1
    member = zlib.decompressobj(_GZIP)
    source = memoryview(body)
    try:
        for start in range(0, len(body), _PIECE):
            rest: memoryview | bytes = source[start : start + _PIECE]
            while rest:
                if member.eof:
                    members += 1
                    if members > _MOST_MEMBERS:
                        raise InvalidInput(f"The gzip body has more than {_MOST_MEMBERS} members")
                    member = zlib.decompressobj(_GZIP)
                pieces.append(member.decompress(rest, room + 1))
                room -= len(pieces[-1])
                if room < 0:
                    raise PayloadTooLarge(limit - room, limit, inflated=True)
                rest = member.unused_data
    except zlib.error:
        raise InvalidInput("Content-Encoding is gzip and the body is not, or is damaged") from None
    if not member.eof:
        raise InvalidInput("The gzip body is cut short")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def gzipped(body: bytes) -> bytes:
    """The body as gzip. Numbers in JSON shrink to 46 % at level 1 (10 us/kB), to 42 % at level 6 (50)."""
    deflate = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    return deflate.compress(body) + deflate.flush()


def is_quick(body: bytes) -> bool:
    """Whether ``gzipped`` may hold up the event loop for this one: little over a millisecond."""
    return len(body) <= _IN_PLACE


def is_worth_gzip(body: bytes, content_type: str, least: int) -> bool:
    """Whether an answer shrinks, and by enough to matter: text of ``least`` bytes (0: never) or more."""
    return bool(least) and len(body) >= least and content_type.startswith(("application/json", "text/"))


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: str) -> bool:
    """Whether a request's Accept-Encoding asks for gzip.

    >>> takes_gzip("gzip, deflate, br"), takes_gzip("gzip;q=0, *"), takes_gzip("*;q=0.5"), takes_gzip("")
    (True, False, True, False)
    """
    quality = {}
    for item in accept_encoding.lower().split(","):
        name, _, parameter = item.partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            quality[name.strip()] = float(value) if key == "q" else 1.0
        except ValueError:
            return False  # not understood: the plain answer is always right
    return quality.get("gzip", quality.get("x-gzip", quality.get("*", 0.0))) > 0
