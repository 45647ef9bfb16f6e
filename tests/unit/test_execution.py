"""The model's threads: order, results, failures, abandoned calls."""

import asyncio
import contextvars
import threading

import pytest

from modelserver.execution import ModelThreads


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
