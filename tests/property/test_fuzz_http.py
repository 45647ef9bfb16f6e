"""The whole server on raw bytes: however a stream is cut its answers are the same, and no bytes do harm.

The connection alone, with an application that only records, is in ``tests/unit/http/test_property.py``; with
coverage to guide it, and for longer, this is done by ``make fuzz``.
"""

import pytest
from fuzz.seeds import GOOD, LAST, WORDS, failures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_memory import MemoryServer

CUTS = st.lists(st.integers(0, 1_000_000), max_size=12)
STREAMS = st.tuples(st.lists(st.sampled_from(GOOD), min_size=1, max_size=5), st.sampled_from(LAST)).map(
    lambda parts: b"".join((*parts[0], parts[1]))
)
MINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def server():
    return MemoryServer(max_buffer_size=100_000)


def without_continue(answers):
    """A client is asked for its body only where it has not sent it by then: that depends on the cuts."""
    return answers.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


@settings(MINE, max_examples=300)
@given(stream=STREAMS, cuts=CUTS, half_close=st.booleans())
def test_a_stream_is_answered_alike_however_it_is_cut(server, stream, cuts, half_close):
    whole = server.send(stream)
    assert without_continue(server.send(stream, cuts)) == without_continue(whole)
    assert without_continue(server.send(stream, range(len(stream)) if len(stream) < 2000 else cuts)) == (
        without_continue(whole)
    )


@st.composite
def spoilt(draw):
    """A good stream in which a few places are lost, doubled, exchanged or filled with something else."""
    data = bytearray(draw(STREAMS))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([0, 1, 2, 4, 16, 100]))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(WORDS),
                st.just(bytes(data[at : at + size]) * 2),
            )
        )
        data[at : at + size] = piece
    return bytes(data)


@settings(MINE, max_examples=800)
@given(data=st.one_of(spoilt(), st.binary(max_size=300)), cuts=CUTS, half_close=st.booleans())
def test_no_bytes_make_the_server_fail(server, data, cuts, half_close):
    answers = server.send(data, cuts, half_close=half_close)
    assert not failures(answers), answers
    assert server.send(GOOD[0]).endswith(b'{"predictions":[[1.0,2.5],[3.0,4.0]]}')
