"""Streams are refused and closed."""

import asyncio

import pytest

from modelserver.errors import HookNotImplemented
from modelserver.model import Model
from modelserver.rpc.whole import whole


@pytest.mark.parametrize("answer", [{"predictions": [1]}, [1], "text", b"bytes", None])
def test_what_is_there_in_whole_is_the_answer(answer):
    assert asyncio.run(whole(answer, Model("m"))) is answer


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_is_closed_and_refused(is_async):
    async def run():
        closed = []

        def plain():
            try:
                yield 1
            finally:
                closed.append(1)

        async def asynchronous():
            try:
                yield 1
            finally:
                closed.append(1)

        stream = asynchronous() if is_async else plain()
        await anext(stream) if is_async else next(stream)
        with pytest.raises(HookNotImplemented, match="piece by piece"):
            await whole(stream, Model("m"))
        return closed

    assert asyncio.run(run()) == [1]
