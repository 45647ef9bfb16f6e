"""gzip in and out: bounds, damage, and who gets it."""

import gzip
import zlib

import pytest

from modelserver import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from modelserver.rest.coding import gzipped, inflate, is_worth_gzip, takes_gzip

BODY = b'{"instances": [[1, 2, 3]]}' * 50


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_a_body_that_is_not_coded_is_left_alone(coding):
    assert inflate(BODY, coding, 10) is BODY


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", " GZIP "])
@pytest.mark.parametrize("body", [gzip.compress(BODY), gzip.compress(BODY[:7]) + gzip.compress(BODY[7:])])
def test_gzip_is_undone_member_by_member(coding, body):
    assert inflate(body, coding, len(BODY)) == BODY


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1"])
def test_other_codings_are_named(coding):
    with pytest.raises(UnsupportedMediaType, match="expected gzip or none"):
        inflate(BODY, coding, 10**6)


@pytest.mark.parametrize("members", [1, 2, 400])
def test_nothing_is_inflated_past_the_limit(members, monkeypatch):
    largest = 0
    decompressobj = zlib.decompressobj

    class Watched:
        def __init__(self, wbits):
            self.member = decompressobj(wbits)

        def decompress(self, data, most):
            nonlocal largest
            out = self.member.decompress(data, most)
            largest = max(largest, len(out))
            return out

        def __getattr__(self, name):
            return getattr(self.member, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    bomb = b"".join(gzip.compress(bytes(50_000_000 // members)) for _ in range(members))
    with pytest.raises(PayloadTooLarge, match=r"inflated .* at least 100001 bytes and the limit is 100000"):
        inflate(bomb, "gzip", 100_000)
    assert largest <= 100_001


def test_the_limit_itself_is_taken():
    assert len(inflate(gzip.compress(bytes(1000)), "gzip", 1000)) == 1000


WHOLE = gzip.compress(BODY)
DAMAGED = [
    b"",
    b"not gzip at all",
    BODY,
    WHOLE[:-1],
    WHOLE[:20],
    WHOLE[:-8] + bytes(8),
    WHOLE + b"more",
    WHOLE[:30] + b"\xff\xff" + WHOLE[32:],
    zlib.compress(BODY),
]


@pytest.mark.parametrize("body", DAMAGED)
def test_damage_is_the_clients_mistake(body):
    with pytest.raises(InvalidInput, match="gzip"):
        inflate(body, "gzip", 10**6)


def test_an_answer_comes_back_whole():
    assert gzip.decompress(gzipped(BODY)) == BODY


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True), ("GZip", True), ("x-gzip", True), ("*", True), ("br, gzip;q=0.5", True), ("", False),
        ("identity", False), ("gzip;q=0", False), ("gzip;q=0.0, *;q=1", False), ("*;q=0", False),
        ("gzip;q=high", False), ("deflate, br", False),
    ],
)  # fmt: skip
def test_who_takes_gzip(header, takes):
    assert takes_gzip(header) is takes


@pytest.mark.parametrize(
    ("size", "content_type", "least", "worth"),
    [
        (100, "application/json", 100, True),
        (99, "application/json", 100, False),
        (100, "text/plain; charset=utf-8", 100, True),
        (100, "image/jpeg", 100, False),
        (10**6, "application/json", 0, False),
    ],
)
def test_what_is_worth_it(size, content_type, least, worth):
    assert is_worth_gzip(bytes(size), content_type, least) is worth
