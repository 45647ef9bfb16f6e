"""When a call counts as hung, and the beats that the supervisor looks for."""

import asyncio

import pytest

from modelserver.load_board import LoadBoard
from modelserver.watching import Watch, hung_after_s


@pytest.mark.parametrize(("timeout_s", "expected"), [(0, 0), (0.5, 1.0), (2, 4), (60, 65)])
def test_a_call_is_hung_some_time_after_its_request_was_answered(timeout_s, expected):
    assert hung_after_s(timeout_s) == expected


class Threads:
    name = "m"

    def __init__(self, hung):
        self.hung = list(hung)
        self.limits = []

    def give_up_hung(self, limit_s):
        self.limits.append(limit_s)
        return self.hung.pop(0) if self.hung else 0


def test_every_hung_call_is_told_and_counted(caplog):
    calls, looks = [], []

    async def main():
        threads = Threads([0, 1, 0, 2])
        watch = Watch({1: threads}, 7.0, None, lambda: calls.append(True), looks.append)
        while len(calls) < 2:
            await asyncio.sleep(0.01)
        watch.close()
        assert watch.hung_calls == 3
        assert set(threads.limits) == {7.0}

    asyncio.run(main())
    assert looks == sorted(looks)
    assert len(looks) >= 4
    assert caplog.text.count("A call of model m has not returned for 7 s") == 2


def test_without_a_limit_nobody_looks_but_the_beats_go_on():
    now = [1_000_000_000]
    board = LoadBoard(2, clock=lambda: now[0])
    slot = board.slot(1)
    assert board.silent_s(1) == 0.0  # it has not begun

    async def main():
        threads = Threads([1])
        watch = Watch({1: threads}, 0.0, slot, lambda: None, lambda now: None)
        now[0] += 500_000_000
        assert board.silent_s(1) == 0.5
        while board.silent_s(1):
            await asyncio.sleep(0.01)
        watch.close()
        assert threads.limits == []

    asyncio.run(main())
    now[0] += 2_000_000_000
    assert board.silent_s(1) == 2.0
    assert board.silent_s(0) == 0.0
    board.clear(1)  # a worker that has ended is not silent, it is not there
    assert board.silent_s(1) == 0.0
