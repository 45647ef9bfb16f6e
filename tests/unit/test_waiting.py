"""How many may wait for a model, and for how long."""

import asyncio

import pytest

from modelserver.errors import ModelOverloaded
from modelserver.waiting import Backlog, Deadlines


def busy(backlog, seconds, answers, waiting, start=0.0):
    """An interval in which the model never rests: ``answers`` in ``seconds``, ``waiting`` at its end."""
    for _ in range(answers + waiting - backlog.waiting):
        backlog.enter()
    backlog.look(start)
    backlog.look(start)  # the first one only sees that the model was idle before
    for _ in range(answers):
        backlog.leave()
    backlog.look(start + seconds)


def test_a_backlog_is_full_at_its_size_and_no_longer_when_one_leaves():
    backlog = Backlog(3)
    for _ in range(2):
        backlog.enter()
    assert not backlog.is_full
    backlog.enter()
    assert backlog.is_full
    backlog.leave()
    assert not backlog.is_full


def test_a_refusal_says_how_many_wait_and_when_they_should_be_answered():
    backlog = Backlog(4)
    busy(backlog, seconds=4.0, answers=2, waiting=1)
    for _ in range(3):
        backlog.enter()
    error = backlog.refusal()
    assert isinstance(error, ModelOverloaded)
    assert error.retry_after_s == 8
    assert str(error) == "4 requests wait for the model already. Try again in 8 seconds."


def test_retry_after_is_a_second_at_least_and_no_longer_than_a_request_may_wait():
    assert Backlog(1).refusal().retry_after_s == 1
    slow = Backlog(1000, patience_s=30)
    busy(slow, seconds=20.0, answers=1, waiting=50)
    assert slow.refusal().retry_after_s == 30


def test_more_than_can_be_answered_in_time_is_too_many():
    backlog = Backlog(1000, patience_s=10)
    busy(backlog, seconds=2.0, answers=1, waiting=4)
    assert not backlog.is_full
    backlog.enter()  # the next one would wait for ten seconds
    assert backlog.is_full
    backlog.leave()
    assert not backlog.is_full


def test_what_waits_when_the_rate_is_learned_counts_too():
    backlog = Backlog(1000, patience_s=10)
    busy(backlog, seconds=2.0, answers=1, waiting=5)
    assert backlog.is_full


def test_a_model_that_is_quick_again_is_believed_soon():
    backlog = Backlog(1000, patience_s=10)
    busy(backlog, seconds=9.0, answers=1, waiting=3)
    assert backlog.is_full
    for second in range(10, 20):
        for _ in range(100):
            backlog.enter()
            backlog.leave()
        backlog.look(float(second))
    assert not backlog.is_full


def test_a_model_that_has_caught_up_refuses_nobody():
    backlog = Backlog(1000, patience_s=10)
    busy(backlog, seconds=9.0, answers=1, waiting=3)
    for _ in range(3):
        backlog.leave()
    backlog.look(20.0)
    for _ in range(999):
        backlog.enter()
    assert not backlog.is_full


def test_a_model_with_little_to_do_teaches_nothing():
    """One request a second, each quick: that is not a second for each."""
    backlog = Backlog(1000, patience_s=10)
    for second in range(5):
        backlog.enter()
        backlog.look(second + 0.0)
        backlog.leave()
        backlog.look(second + 0.5)
    for _ in range(500):
        backlog.enter()
    assert not backlog.is_full


def test_one_is_always_let_in():
    backlog = Backlog(1000, patience_s=1)
    busy(backlog, seconds=50.0, answers=1, waiting=1)
    assert backlog.is_full
    backlog.leave()
    assert not backlog.is_full


def test_who_is_dropped_says_nothing_about_the_model():
    backlog = Backlog(1000, patience_s=10)
    for _ in range(6):
        backlog.enter()
    backlog.look(0.0)
    backlog.look(0.0)
    backlog.leave(is_answered=False)
    backlog.look(100.0)
    assert not backlog.is_full


class Request:
    def __init__(self, expired):
        self.expired = expired

    def expire(self):
        self.expired.append(self)


@pytest.fixture
def run():
    return lambda main: asyncio.run(asyncio.wait_for(main, 30))


def test_requests_expire_in_the_order_they_came_and_not_before_their_time(run):
    async def main():
        loop = asyncio.get_running_loop()
        expired = []
        deadlines = Deadlines(0.05)
        requests = [Request(expired) for _ in range(3)]
        started = loop.time()
        for request in requests:
            deadlines.add(request)
        while len(expired) < 3:
            await asyncio.sleep(0.001)
        assert expired == requests
        assert loop.time() - started >= 0.05

    run(main())


def test_who_is_answered_does_not_expire_and_later_ones_still_do(run):
    async def main():
        expired = []
        deadlines = Deadlines(0.05)
        first, second = Request(expired), Request(expired)
        deadlines.add(first)
        await asyncio.sleep(0.02)
        deadlines.add(second)
        deadlines.discard(first)
        while not expired:
            await asyncio.sleep(0.001)
        assert expired == [second]
        third = Request(expired)
        deadlines.add(third)  # the timer had ended
        while len(expired) < 2:
            await asyncio.sleep(0.001)
        assert expired == [second, third]

    run(main())


def test_one_that_expires_may_take_others_along(run):
    async def main():
        expired = []
        deadlines = Deadlines(0.01)
        other = Request(expired)

        class Taking(Request):
            def expire(self):
                deadlines.discard(other)
                super().expire()

        taking = Taking(expired)
        deadlines.add(taking)
        deadlines.add(other)
        while not expired:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.03)
        assert expired == [taking]

    run(main())


def test_a_timeout_of_0_is_for_ever(run):
    async def main():
        deadlines = Deadlines(0)
        deadlines.add(Request([]))
        assert deadlines._timer is None

    run(main())
