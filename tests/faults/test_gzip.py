"""gzip bodies that are bombs, damaged, or no gzip: bounded by what comes out, in memory and in time."""

import gzip
import zlib

import pytest
import wire
from wire import (
    GOOD,
    GOOD_ANSWER,
    MIB,
    bystanders,
    cpu_s,
    peak_growth,
)

LIMIT = 10 * MIB
SPARE = 12 * MIB  # what a process takes besides: buffers, and what the allocator keeps


def answer_to(server, body, model="echo", *fields):
    return wire.answer_to(server, body, model, *fields, "Content-Encoding: gzip")


def deflated(size, blank=b" "):
    """``size`` blanks as gzip, made without holding them."""
    deflate = zlib.compressobj(9, wbits=31)
    piece = blank * MIB
    pieces = [deflate.compress(piece) for _ in range(size // MIB)]
    return b"".join(pieces) + deflate.flush()


@pytest.fixture(scope="module")
def bombs():
    bomb = deflated(300 * MIB)
    assert len(bomb) < 350_000
    return {
        "300 MiB": bomb,
        "gzip of gzip": gzip.compress(bomb),
        "300 MiB in 300 members": deflated(MIB) * 300,
        "one byte over": gzip.compress(b" " * (LIMIT + 1)),
    }


# row 33
@pytest.mark.parametrize("model", ["echo", "numbers", "anything"])
@pytest.mark.parametrize("bomb", ["300 MiB", "gzip of gzip", "300 MiB in 300 members", "one byte over"])
def test_a_bomb_is_refused_at_the_limit(server, bombs, bomb, model):
    with bystanders(server), peak_growth(server) as growth:
        used = cpu_s(server)
        answers = [answer_to(server, bombs[bomb], model) for _ in range(3)]
        assert cpu_s(server) - used < 10
    for answer in answers:
        if bomb == "gzip of gzip":
            assert answer.status == 400  # what comes out is no JSON; it is inflated once
        else:
            assert answer.status == 413
            assert "--max_buffer_size" in answer.error()
    assert growth[0] < LIMIT + SPARE


# row 33
def test_a_bomb_as_an_npy_body_or_as_bytes(server, bombs):
    for content_type in ("application/x-npy", "application/octet-stream"):
        with bystanders(server), peak_growth(server) as growth:
            answer = answer_to(server, bombs["300 MiB"], "anything", f"Content-Type: {content_type}")
        assert answer.status == 413
        assert growth[0] < LIMIT + SPARE


# row 33
@pytest.mark.parametrize("count", [100_000, 500_000])
def test_a_body_of_many_empty_members_costs_little(server, count):
    body = gzip.compress(b"") * count
    assert len(body) <= LIMIT
    with bystanders(server):
        used = cpu_s(server)
        answer = answer_to(server, body)
        assert cpu_s(server) - used < 2
    assert answer.status == 400
    assert "members" in answer.error()


WHOLE = gzip.compress(GOOD)
DAMAGED = {
    "garbage": b"\xff" * 1000,
    "JSON": GOOD,
    "nothing": b"",
    "one byte": WHOLE[:1],
    "half": WHOLE[: len(WHOLE) // 2],
    "all but the end": WHOLE[:-1],
    "a wrong checksum": WHOLE[:-8] + bytes(8),
    "a wrong size": WHOLE[:-4] + b"\0\0\0\1",
    "something behind it": WHOLE + b"\0",
    "a second that is cut": WHOLE + WHOLE[:-1],
    "deflate without a head": zlib.compress(GOOD),
    "a head without its name's end": WHOLE[:3] + b"\x08" + WHOLE[4:10] + b"n" * 100_000,
}


# row 33
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_gzip_is_refused(server, kind):
    with bystanders(server):
        answer = answer_to(server, DAMAGED[kind])
    assert answer.status == 400
    assert "gzip" in answer.error()


# row 33
def test_good_gzip_beside_the_bombs_is_answered(server, bombs):
    for body in (WHOLE, gzip.compress(GOOD[:5]) + gzip.compress(GOOD[5:]), gzip.compress(b" " * 1000 + GOOD)):
        answer_to(server, bombs["300 MiB"])
        answer = answer_to(server, body)
        assert (answer.status, answer.body) == (200, GOOD_ANSWER)
