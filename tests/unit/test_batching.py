"""The batcher: who shares a call, in what order, and who pays for a bad item."""

import asyncio
import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.batching import Batcher
from modelserver.hooks import ALONE


class Inline:
    """Runs every call in place."""

    def may_run_inline(self, size):
        return True

    def run_inline(self, size, function, *args):
        return function(*args)


class Elsewhere:
    """Runs every call on a thread, as long calls run."""

    def may_run_inline(self, size):
        return False

    async def run_elsewhere(self, size, function, *args):
        return await asyncio.to_thread(function, *args)


RUNNERS = [Inline, Elsewhere]


def submit_all(batcher, items, key=None):
    return [batcher.submit(item, rows=1, size=1, key=key(item) if key else None) for item in items]


def run(items, call, runner=Inline, max_batch_size=100, key=None):
    async def main():
        batcher = Batcher(call, runner(), max_batch_size)
        futures = submit_all(batcher, items, key)
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)

    return asyncio.run(main())


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_arrives_in_one_turn_shares_a_call(runner):
    calls = []

    def call(items):
        calls.append(list(items))
        return [item * 10 for item in items]

    assert run([1, 2, 3], call, runner) == [10, 20, 30]
    assert calls == [[1, 2, 3]]


def test_a_lone_item_waits_for_nobody():
    async def main():
        batcher = Batcher(lambda items: items, Inline(), 100)
        future = batcher.submit("alone", rows=1, size=1, key=None)
        await asyncio.sleep(0)  # one turn of the loop
        assert future.done()

    asyncio.run(main())


def test_what_arrives_while_a_call_runs_is_the_next_batch():
    calls, gate = [], threading.Event()

    def call(items):
        calls.append(list(items))
        if len(calls) == 1:
            gate.wait(10)
        return items

    async def main():
        batcher = Batcher(call, Elsewhere(), 100)
        first = submit_all(batcher, [1])
        while not calls:
            await asyncio.sleep(0)
        rest = submit_all(batcher, [2, 3, 4])
        await asyncio.sleep(0)
        assert calls == [[1]]
        gate.set()
        await asyncio.gather(*first, *rest)

    asyncio.run(main())
    assert calls == [[1], [2, 3, 4]]


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_largest_size_counts_rows_and_a_larger_item_goes_alone(runner):
    calls = []

    def call(items):
        calls.append(list(items))
        return items

    async def main():
        batcher = Batcher(call, runner(), 4)
        await asyncio.gather(*(batcher.submit(n, rows=n, size=1, key=None) for n in (1, 3, 1, 9, 2, 2)))

    asyncio.run(main())
    assert calls == [[1, 3], [1], [9], [2, 2]]


@pytest.mark.parametrize("runner", RUNNERS)
def test_only_equal_keys_share_a_call_and_order_is_kept(runner):
    calls = []

    def call(items):
        calls.append(list(items))
        return items

    assert run([1, 2, 3, 4, 5], call, runner, key=lambda n: n % 2) == [1, 2, 3, 4, 5]
    assert calls == [[1, 3, 5], [2, 4]]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_bad_item_fails_alone(runner):
    def call(items):
        if "bad" in items:
            raise ValueError(f"bad among {len(items)}")
        return [item.upper() for item in items]

    *good, bad, last = run(["a", "b", "c", "d", "e", "f", "bad", "g"], call, runner)
    assert good == ["A", "B", "C", "D", "E", "F"]
    assert last == "G"
    assert isinstance(bad, ValueError)
    assert str(bad) == "bad among 1"


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("error", [BaseException("odd"), asyncio.CancelledError()])
def test_whatever_a_call_raises_nobody_waits_for_ever(runner, error):
    def call(items):
        if "bad" in items:
            raise error
        return items

    good, bad = run(["good", "bad"], call, runner)
    assert good == "good"
    assert isinstance(bad, type(error))


@pytest.mark.parametrize("runner", RUNNERS)
def test_who_has_left_is_left_out(runner):
    calls = []

    def call(items):
        calls.append(list(items))
        return items

    async def main():
        batcher = Batcher(call, runner(), 100)
        futures = submit_all(batcher, [1, 2, 3])
        futures[1].cancel()
        assert await asyncio.gather(futures[0], futures[2]) == [1, 3]

    asyncio.run(main())
    assert calls == [[1, 3]]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_a_call_that_gives_the_wrong_number_of_results_fails_loudly(runner, results):
    outcomes = run(["a", "b"], lambda items: results, runner)
    assert [str(outcome) for outcome in outcomes] == [f"a call with 2 items gave {len(results)} results"] * 2


@settings(deadline=None)  # threads on a busy machine
@given(
    items=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), max_size=30),
    max_batch_size=st.integers(1, 8),
    runner=st.sampled_from(RUNNERS),
)
def test_nothing_is_lost_repeated_or_shifted(items, max_batch_size, runner):
    answered = []

    def call(batch):
        rows = sum(items[n][1] for n in batch)
        assert len(batch) == 1 or rows <= max_batch_size
        assert len({items[n][0] for n in batch}) == 1
        if any(items[n][2] for n in batch):
            raise ValueError
        answered.extend(batch)
        return [f"result {n}" for n in batch]

    async def main():
        batcher = Batcher(call, runner(), max_batch_size)
        futures = [batcher.submit(n, rows=rows, size=1, key=key) for n, (key, rows, _) in enumerate(items)]
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)

    outcomes = asyncio.run(main())
    for n, (_, _, is_bad) in enumerate(items):
        assert isinstance(outcomes[n], ValueError) if is_bad else outcomes[n] == f"result {n}"
    assert sorted(answered) == [n for n, item in enumerate(items) if not item[2]]


# -- waiting for more


class Patient:
    """A pace that waits as long as it takes for a crowd."""

    def __init__(self, crowd):
        self.crowd = crowd
        self.told = []

    def arrived(self):
        pass

    def answered(self, callers, rows, seconds, waiting):
        assert seconds > 0
        self.told.append((callers, rows, waiting))

    def patience(self, waiting):
        return 0.0 if waiting >= self.crowd else 3600.0


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_batch_waits_for_the_crowd_that_its_pace_expects_and_goes_when_it_is_there(runner):
    calls = []

    def call(items):
        calls.append(list(items))
        return items

    async def main():
        pace = Patient(3)
        batcher = Batcher(call, runner(), 100, pace=pace)
        futures = submit_all(batcher, [1, 2])
        for _ in range(5):
            await asyncio.sleep(0)
        assert calls == []
        futures += submit_all(batcher, [3])
        assert await asyncio.wait_for(asyncio.gather(*futures), 20) == [1, 2, 3]
        return pace.told

    told = asyncio.run(main())
    assert calls == [[1, 2, 3]]
    assert told == ([] if runner is Inline else [(3, 3, 0)])  # calls in place are too short to wait for


def test_a_full_batch_waits_for_nobody():
    async def main():
        batcher = Batcher(lambda items: items, Inline(), 4, pace=Patient(100))
        first = batcher.submit("three", 3, 1, None)
        await asyncio.sleep(0)
        assert not first.done()
        second = batcher.submit("one", 1, 1, None)
        await asyncio.sleep(0)
        assert first.done()
        assert second.done()

    asyncio.run(main())


def test_who_leaves_the_queue_leaves_room():
    async def main():
        batcher = Batcher(lambda items: items, Inline(), 4, pace=Patient(2))
        left = batcher.submit("left", 3, 1, None)
        left.cancel()
        first = batcher.submit("first", 1, 1, None)
        await asyncio.wait_for(first, 20)
        second = batcher.submit("second", 3, 1, None)  # not full: only its own rows count
        await asyncio.sleep(0)
        assert not second.done()
        third = batcher.submit("third", 1, 1, None)
        await asyncio.wait_for(asyncio.gather(second, third), 20)

    asyncio.run(main())


def test_with_a_latency_a_lone_item_waits_that_long_for_company():
    async def main():
        calls = []

        def call(items):
            calls.append(list(items))
            return items

        patient = Batcher(call, Inline(), 2, max_latency_s=3600)
        first = patient.submit(1, 1, 1, None)
        await asyncio.sleep(0.01)
        assert not first.done()
        await asyncio.wait_for(patient.submit(2, 1, 1, None), 20)  # full
        assert calls == [[1, 2]]
        brief = Batcher(call, Inline(), 2, max_latency_s=0.01)
        await asyncio.wait_for(brief.submit(3, 1, 1, None), 20)
        assert calls == [[1, 2], [3]]

    asyncio.run(main())


@pytest.mark.parametrize("keys", [[ALONE], [1, ALONE], [ALONE, ALONE]])
def test_what_goes_alone_waits_for_no_company_and_nothing_waits_behind_it(keys):
    calls = []

    def call(items):
        calls.append(list(items))
        return items

    async def main():
        batcher = Batcher(call, Inline(), 100, max_latency_s=1000)
        futures = [batcher.submit(n, rows=1, size=1, key=key) for n, key in enumerate(keys)]
        await asyncio.wait_for(asyncio.gather(*futures), 20)

    asyncio.run(main())
    assert calls == [[n] for n in range(len(keys))]


def test_an_item_that_nobody_waits_for_is_let_go_at_once():
    class Large:
        """Can be referred to weakly."""

    async def main():
        batcher = Batcher(lambda items: items, Inline(), 2, max_latency_s=60)
        item = Large()
        seen = weakref.ref(item)
        future = batcher.submit(item, 1, 1, None)
        del item
        assert seen() is not None
        future.cancel()
        assert seen() is None

    asyncio.run(main())


def test_one_that_leaves_while_the_other_half_is_tried_again_is_left_out():
    seen = []

    class Elsewhere:
        def may_run_inline(self, size):
            return False

        async def run_elsewhere(self, size, function, *args):
            await asyncio.sleep(0)
            return function(*args)

    async def main():
        def call(items):
            seen.append(list(items))
            if len(items) == 2:
                raise ValueError
            futures[1].cancel()
            return items

        batcher = Batcher(call, Elsewhere(), 2)
        futures = submit_all(batcher, [1, 2])
        assert await futures[0] == 1
        assert await batcher.submit(3, 1, 1, None) == 3

    asyncio.run(main())
    assert seen == [[1, 2], [1], [3]]
