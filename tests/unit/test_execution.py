"""The model's threads: order, results, failures, abandoned calls; and calls that run in place."""

import asyncio
import contextvars
import threading

import pytest

from modelserver.execution import SHORT_S, SLOW_S, ModelThreads


def test_calls_run_one_at_a_time_in_order_of_arrival():
    seen, running = [], []

    def work(number):
        running.append(number)
        assert len(running) == 1
        seen.append(number)
        running.remove(number)
        return number * 10

    async def main():
        threads = ModelThreads("m")
        results = await asyncio.gather(*(threads.run(work, number) for number in range(50)))
        threads.close()
        return results

    assert asyncio.run(main()) == [number * 10 for number in range(50)]
    assert seen == list(range(50))


def test_more_threads_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=10)

    async def main():
        threads = ModelThreads("m", 3)
        await asyncio.gather(*(threads.run(barrier.wait) for _ in range(3)))
        threads.close()

    asyncio.run(main())  # a barrier that is never full would break


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_failures_reach_the_caller_and_the_thread_goes_on(error):
    def fail():
        raise error

    async def main():
        threads = ModelThreads("m")
        with pytest.raises(type(error)) as caught:
            await threads.run(fail)
        assert caught.value is error
        assert await threads.run(lambda: "next") == "next"
        threads.close()

    asyncio.run(main())


def test_a_call_that_was_abandoned_while_it_waited_is_never_made():
    made, gate = [], threading.Event()

    async def main():
        threads = ModelThreads("m")
        first = asyncio.ensure_future(threads.run(gate.wait, 10))
        second = asyncio.ensure_future(threads.run(made.append, "second"))
        third = asyncio.ensure_future(threads.run(made.append, "third"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, third)
        threads.close()

    asyncio.run(main())
    assert made == ["third"]


def test_context_variables_travel_with_the_call():
    request_id = contextvars.ContextVar("request_id", default="none")

    async def main():
        threads = ModelThreads("m")
        request_id.set("r1")
        seen = await threads.run(request_id.get)
        threads.close()
        return seen

    assert asyncio.run(main()) == "r1"


def test_a_result_after_the_loop_has_ended_is_dropped():
    started, gate = threading.Event(), threading.Event()

    def work():
        started.set()
        gate.wait(10)

    async def main():
        task = asyncio.ensure_future(ModelThreads("late").run(work))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()

    asyncio.run(main())
    thread = next(t for t in threading.enumerate() if t.name == "model-late-0")
    gate.set()
    thread.join(10)
    assert not thread.is_alive()


# -- in place


async def done(started):
    """The result of a call that may have been made in place."""
    return await started if asyncio.isfuture(started) else started


def where(threads, calls, size=10, work=lambda: None):
    """The names of the threads that ran each of ``calls`` calls, one after the other."""

    def call():
        work()
        return threading.current_thread().name

    async def main():
        return [await done(threads.start(size, call)) for _ in range(calls)]

    return asyncio.run(main())


class Clock:
    """Stands still unless a call makes it go on: no other program on the machine decides a test."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slow_call(self):
        self.now += SLOW_S

    def call_of(self, seconds):
        def call():
            self.now += seconds

        return call


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def proven(clock):
    threads = ModelThreads("m", inline=True, clock=clock)
    assert where(threads, 16) == ["model-m-0"] * 16
    yield threads
    threads.close()


def test_short_calls_move_onto_the_loop_when_they_have_proven_short(proven):
    assert set(where(proven, 5)) == {"MainThread"}


def test_code_that_may_wait_never_does():
    threads = ModelThreads("m")
    assert set(where(threads, 50)) == {"model-m-0"}
    threads.close()


def test_a_larger_request_than_any_before_proves_itself_on_the_thread(proven):
    assert where(proven, 1, size=11) == ["model-m-0"]
    assert where(proven, 1, size=11) == ["MainThread"]
    assert where(proven, 1, size=9) == ["MainThread"]


def test_one_slow_call_takes_the_calls_off_the_loop(proven, clock):
    assert where(proven, 1, work=clock.call_of(1000 * SLOW_S)) == ["MainThread"]
    assert where(proven, 17) == ["model-m-0"] * 16 + ["MainThread"]


def test_a_call_that_was_a_little_late_changes_nothing(proven, clock):
    """A busy machine makes one in many late, and the mean is what counts."""
    for _ in range(20):
        assert where(proven, 1, work=clock.call_of(5 * SHORT_S)) == ["MainThread"]
        assert set(where(proven, 99)) == {"MainThread"}


def test_calls_that_have_become_longer_leave_the_loop(proven, clock):
    places = where(proven, 40, work=clock.call_of(2 * SHORT_S))
    assert 5 < places.count("MainThread") < 20
    assert places == sorted(places)  # "MainThread" first, then no more


@pytest.mark.parametrize("seconds", [SHORT_S, 2 * SHORT_S, SLOW_S])
def test_calls_that_are_not_short_stay_on_the_thread(clock, seconds):
    threads = ModelThreads("m", inline=True, clock=clock)
    assert set(where(threads, 60, work=clock.call_of(seconds))) == {"model-m-0"}
    threads.close()


def test_larger_requests_that_are_slow_leave_the_small_ones_on_the_loop(proven, clock):
    for _ in range(20):
        assert where(proven, 1, size=1000, work=clock.call_of(2 * SLOW_S)) == ["model-m-0"]
        assert where(proven, 3) == ["MainThread"] * 3


def test_a_short_call_does_not_overtake_one_on_the_thread(proven):
    """With one thread the model's code stays serial, wherever it runs."""
    started, gate, order = threading.Event(), threading.Event(), []

    def slow():
        started.set()
        gate.wait(10)
        order.append("slow")

    async def main():
        first = proven.start(1000, slow)  # too large to run in place
        await asyncio.to_thread(started.wait, 10)
        second = proven.start(10, order.append, "short")
        await asyncio.sleep(0)
        assert order == []
        gate.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert order == ["slow", "short"]


def test_failures_in_place_are_the_callers(proven):
    async def main():
        with pytest.raises(ZeroDivisionError):
            proven.start(10, lambda: 1 / 0)

    asyncio.run(main())


def test_a_call_that_does_not_return_is_given_up_and_what_waits_behind_it_goes_on():
    gate, clock = threading.Event(), Clock()

    async def main():
        threads = ModelThreads("m", clock=clock)
        begun = threading.Event()
        hung = asyncio.ensure_future(wait_for(threads, begun))
        await asyncio.to_thread(begun.wait)
        behind = threads.run_elsewhere(1, lambda: "next")
        clock.now += 9.0
        assert threads.give_up_hung(10.0) == 0
        clock.now += 1.0
        assert threads.give_up_hung(10.0) == 1
        assert threads.give_up_hung(10.0) == 0
        assert await behind == "next"
        with pytest.raises(TimeoutError, match="no result after 10 s"):
            await hung
        gate.set()  # it returns after all: nobody waits for it, and its thread ends
        assert await threads.run_elsewhere(1, lambda: "another") == "another"
        assert threads._pending == 0
        threads.close()

    async def wait_for(threads, begun):
        def hang():
            begun.set()
            gate.wait()

        await threads.run_elsewhere(1, hang)

    asyncio.run(main())


def test_loading_may_take_its_time():
    gate, clock = threading.Event(), Clock()

    async def main():
        threads = ModelThreads("m", clock=clock)
        begun = threading.Event()

        def load():
            begun.set()
            gate.wait()

        loading = asyncio.ensure_future(threads.run(load))
        await asyncio.to_thread(begun.wait)
        clock.now += 1e6
        assert threads.give_up_hung(10.0) == 0
        gate.set()
        await loading
        threads.close()

    asyncio.run(main())
