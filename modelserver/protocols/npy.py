"""A request body in numpy's ``.npy`` format: one array of numbers or booleans, its first dimension the rows.

Source of the format: the documentation of ``numpy.lib.format``, versions 1.0 to 3.0. Its reader is not used:
it allocates what the header promises before it looks at the data, warns about old headers, and evaluates a
header of any form. Here a header must be the one of a plain array.

Rules of the room: bytes in, an array out; no I/O.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any, NamedTuple

import numpy as np

from modelserver.errors import InvalidInput

MEDIA_TYPES = frozenset(("application/x-npy", "application/npy"))
"""The Content-Types of such a body; nobody has registered one."""

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}
"""By version: bytes of the number that says how long the header is."""
_LONGEST_HEADER = 4096
"""numpy writes 118 bytes for an array of numbers."""
_MOST_DIMENSIONS = 32

# A Python dict with three keys in any order. Not \s: Python does not take every blank everywhere.
_B = rb"[ \n]*"
_DICT = re.compile(
    rb"\{(?:%b'\w+'%b:%b(?:'[^']*'|True|False|\([^()]*\))%b(?:,|(?=\}))){3}%b\}%b" % ((_B,) * 6)
)
_DTYPE = re.compile(rb"'descr'%b:%b'([<>|=]?(?:b1|[iu][1248]|f[248]))'" % (_B, _B))
_ORDER = re.compile(rb"'fortran_order'%b:%b(True|False)" % (_B, _B))
_SIZE = rb"%b(?:0|[1-9]\d{0,17})%b" % (_B, _B)
_SHAPE = re.compile(rb"'shape'%b:%b\((%b|(?:%b,)+(?:%b)?)\)" % (_B, _B, _B, _SIZE, _SIZE))


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    is_fortran: bool
    shape: tuple[int, ...]
    end: int


def read_array(body: bytes) -> np.ndarray:
    """Read the array of an ``.npy`` body.

    Returns:
        A C-contiguous array of native byte order with at least one dimension. Read-only and of the body's own
        memory, unless Fortran order, byte order, booleans or an odd header ask for a copy.

    Raises:
        InvalidInput: no ``.npy``, of an unknown version, cut off or too long; a single value; or an array of
            something else than booleans, integers of up to 64 bits and floats of 16, 32 or 64 bits.
    """
    dtype, is_fortran, shape, start = _read_header(body)
    needed, got = prod(shape) * dtype.itemsize, len(body) - start
    if got != needed:
        raise _refusal(f"{got} bytes of data, and shape {list(shape)} of {dtype.name} has {needed}")
    if not shape:
        raise _refusal("a single value, expected rows")
    try:
        if not needed:
            return np.zeros(shape, dtype.newbyteorder("="))
        if dtype.kind == "b":  # a byte of 2 would be a boolean that is neither
            array = np.frombuffer(body, np.uint8, offset=start) != 0
        else:
            array = np.frombuffer(body, dtype, offset=start)
        array = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    except ValueError:  # zero rows of more values than there can be
        raise _refusal(f"shape {list(shape)} is too large") from None
    return np.require(array, dtype.newbyteorder("="), ("C", "A"))


def _read_header(body: bytes) -> _Header:
    if body[:6] != _MAGIC:
        raise _refusal("it does not begin with \\x93NUMPY")
    length_bytes = _LENGTH_BYTES.get(body[6:8])
    if length_bytes is None:
        version = ".".join(map(str, body[6:8]))
        raise _refusal(f"version {version or 'missing'}, expected 1.0, 2.0 or 3.0")
    start = 8 + length_bytes
    length = int.from_bytes(body[8:start], "little")
    header = body[start : start + min(length, _LONGEST_HEADER)]
    if len(header) != length:
        raise _refusal(f"a header of {length} bytes, which is cut off or longer than {_LONGEST_HEADER}")
    dtype, order, shape = (pattern.search(header) for pattern in (_DTYPE, _ORDER, _SHAPE))
    if not (_DICT.fullmatch(header) and dtype and order and shape):
        shown = header.strip()[:200].decode("latin-1")
        raise _refusal(f"header {shown}, expected that of an array of numbers or booleans")
    sizes = shape[1].replace(b",", b" ").split()
    if len(sizes) > _MOST_DIMENSIONS:
        raise _refusal(f"{len(sizes)} dimensions, expected at most {_MOST_DIMENSIONS}")
    return _Header(np.dtype(dtype[1].decode()), order[1] == b"True", tuple(map(int, sizes)), start + length)


def _refusal(reason: str) -> InvalidInput:
    return InvalidInput(f"Unrecognized .npy body: {reason}")
