"""Hooks that give an answer piece by piece: how they are recognised, and where their steps run."""

import asyncio
import functools
import threading

import pytest

from modelserver import InferenceError, Model, streams
from modelserver.checking import check
from modelserver.errors import PredictionCountError
from modelserver.execution import ModelThreads
from modelserver.metrics.counting import Metrics
from modelserver.protocols.stream_items import LINES, TEXT, as_event, as_piece, error_event, wants_events

ROWS = {"instances": [1, 2, 3]}


class Plain(Model):
    """``def`` with ``yield``; notes where its steps run and what becomes of it."""

    def __init__(self, name="plain"):
        super().__init__(name)
        self.steps = []
        self.closed_in = None

    def predict(self, payload):
        try:
            for row in payload["instances"]:
                self.steps.append(threading.current_thread())
                yield 2 * row
        finally:
            self.closed_in = threading.current_thread()


class Asynchronous(Plain):
    async def predict(self, payload):
        try:
            for row in payload["instances"]:
                self.steps.append(threading.current_thread())
                await asyncio.sleep(0)
                yield 2 * row
        finally:
            self.closed_in = threading.current_thread()


class Returned(Plain):
    """A plain hook that returns what another one gives."""

    def predict(self, payload):
        return Asynchronous.predict(self, payload)


class Awaited(Plain):
    async def predict(self, payload):
        await asyncio.sleep(0)
        return Asynchronous.predict(self, payload)


def decorated(hook):
    @functools.wraps(hook)
    def same(*args):
        return hook(*args)

    return same


class Decorated(Plain):
    predict = decorated(Plain.predict)


class DecoratedAsynchronous(Plain):
    predict = decorated(Asynchronous.predict)


class Mapped(Plain):
    """An iterator that is no generator."""

    def predict(self, payload):
        return map(self.double, payload["instances"])

    def double(self, row):
        self.steps.append(threading.current_thread())
        return 2 * row


ALL = [Plain, Asynchronous, Returned, Awaited, Decorated, DecoratedAsynchronous, Mapped]
ON_LOOP = [Asynchronous, Returned, Awaited, DecoratedAsynchronous]


async def collected(stream):
    return [item async for item in stream]


@pytest.fixture
def threads():
    threads = ModelThreads("m")
    yield threads
    threads.close()


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_gives_its_items_without_a_server(kind):
    async def main():
        stream = await kind()(ROWS)
        assert streams.is_stream(stream)
        return [item async for item in stream] if streams.is_plain(stream) is False else list(stream)

    assert asyncio.run(main()) == [2, 4, 6]


@pytest.mark.parametrize("kind", ALL)
def test_the_steps_run_on_the_loop_or_on_the_models_thread(kind, threads):
    model = kind()
    model.attach_runner(threads)

    async def main():
        answer = await model(ROWS)
        assert model.steps == []  # nothing has run
        return await collected(streams.steps(answer, threads))

    assert asyncio.run(main()) == [2, 4, 6]
    where = {thread.name for thread in model.steps}
    assert len(model.steps) == 3
    assert where == ({"MainThread"} if kind in ON_LOOP else {"model-m-0"})


def test_what_is_no_stream():
    for value in ({}, [], (), "text", b"bytes", None, 7, range(3), {1}, object(), iter):
        assert not streams.is_stream(value)


@pytest.mark.parametrize("kind", [Asynchronous, DecoratedAsynchronous])
def test_an_asynchronous_generator_waits_for_no_thread(kind, threads):
    leave = threading.Event()
    model = kind()
    model.attach_runner(threads)

    async def main():
        busy = threads.run_elsewhere(1, leave.wait, 30)
        items = await collected(model.begin(ROWS))
        leave.set()
        await busy
        return items

    assert asyncio.run(main()) == [2, 4, 6]


def test_never_in_place_however_short(threads):
    threads.inline = True
    model = Plain()
    model.never_waits = True
    model.attach_runner(threads)

    async def main():
        for _ in range(30):
            await collected(streams.steps(await model(ROWS), threads))

    asyncio.run(main())
    assert {thread.name for thread in model.steps} == {"model-m-0"}


class TestPostprocess:
    def test_gets_the_iterator_itself(self, threads):
        class Both(Plain):
            def postprocess(self, items):
                assert streams.is_plain(items)
                for item in items:
                    yield str(item)

        self.check(Both(), threads, {"model-m-0"})

    def test_on_the_loop_gets_one_that_holds_up_nobody(self, threads):
        class Both(Plain):
            async def postprocess(self, items):
                async for item in items:
                    yield str(item)

        self.check(Both(), threads, {"model-m-0"})

    def test_of_an_asynchronous_one(self, threads):
        class Both(Asynchronous):
            def postprocess(self, items):
                return (str(item) async for item in items)

        self.check(Both(), threads, {"MainThread"})

    def test_may_make_a_whole_answer_of_it(self, threads):
        class Whole(Plain):
            async def postprocess(self, items):
                return {"predictions": [item async for item in items]}

        model = Whole()
        model.attach_runner(threads)

        async def main():
            return await model(ROWS)

        assert asyncio.run(main()) == {"predictions": [2, 4, 6]}

    def check(self, model, threads, where):
        model.attach_runner(threads)

        async def main():
            return await collected(streams.steps(await model(ROWS), threads))

        assert asyncio.run(main()) == ["2", "4", "6"]
        assert {thread.name for thread in model.steps} == where


class TestSteps:
    """A plain iterator as an asynchronous one."""

    def test_closes_what_has_not_come_to_its_end_on_its_own_thread(self, threads):
        model = Plain()

        async def main():
            items = streams.steps(model.predict(ROWS), threads)
            assert await anext(items) == 2
            await streams.close(items)
            assert model.closed_in.name == "model-m-0"
            return [item async for item in items]

        assert asyncio.run(main()) == []

    def test_is_closed_behind_a_step_that_runs(self, threads):
        entered, leave, order = threading.Event(), threading.Event(), []

        def slow():
            try:
                entered.set()
                assert leave.wait(30)
                order.append("step")
                yield 1
            finally:
                order.append("closed")

        async def main():
            items = streams.steps(slow(), threads)
            task = asyncio.ensure_future(anext(items))
            while not entered.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            closing = asyncio.ensure_future(streams.close(items))
            await asyncio.sleep(0)
            assert not closing.done()
            leave.set()
            await closing

        asyncio.run(main())
        assert order == ["step", "closed"]

    def test_a_step_that_waits_is_not_made_for_one_that_has_left(self, threads):
        model, leave = Plain(), threading.Event()

        async def main():
            busy = threads.run_elsewhere(1, leave.wait, 30)
            items = streams.steps(model.predict(ROWS), threads)
            task = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            closing = asyncio.ensure_future(streams.close(items))
            await asyncio.sleep(0)
            leave.set()
            await closing
            await busy

        asyncio.run(main())
        assert model.steps == []

    def test_an_error_ends_it(self, threads):
        def failing():
            yield 1
            raise ValueError("in the middle")

        async def main():
            items = streams.steps(failing(), threads)
            assert await anext(items) == 1
            with pytest.raises(ValueError, match="in the middle"):
                await anext(items)
            with pytest.raises(StopAsyncIteration):
                await anext(items)
            await streams.close(items)

        asyncio.run(main())

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    def test_cannot_end_the_server(self, threads, error):
        def exits():
            raise error
            yield

        async def main():
            with pytest.raises(InferenceError, match=f"the model called {type(error).__name__}"):
                await anext(streams.steps(exits(), threads))

        asyncio.run(main())

    @pytest.mark.parametrize("has_left", [False, True])
    def test_one_that_hangs_is_let_go_with_its_thread(self, threads, has_left):
        entered, leave = threading.Event(), threading.Event()

        def hangs():
            entered.set()
            leave.wait(30)
            yield 1

        async def main():
            items = streams.steps(hangs(), threads)
            task = asyncio.ensure_future(anext(items))
            while not entered.is_set():
                await asyncio.sleep(0.001)
            closing = None
            if has_left:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                closing = asyncio.ensure_future(streams.close(items))
                await asyncio.sleep(0)
            assert threads.give_up_hung(0) == 1
            if closing is None:
                with pytest.raises(TimeoutError):
                    await task
            await (closing or streams.close(items))
            assert await threads.run(lambda: "goes on") == "goes on"

        asyncio.run(main())
        leave.set()


class TestBatches:
    def test_a_generator_is_not_joined(self, threads):
        class Joining(Plain):
            max_batch_size = 8

        class JoiningAsynchronous(Asynchronous):
            max_batch_size = 8

        async def main(model):
            model.attach_runner(threads)
            answers = await asyncio.gather(*(model({"instances": [n]}) for n in range(5)))
            return [await collected(streams.steps(answer, threads)) for answer in answers]

        for model in (Joining(), JoiningAsynchronous()):
            assert asyncio.run(main(model)) == [[0], [2], [4], [6], [8]]

    @pytest.mark.parametrize("count", [1, 4])
    def test_an_iterator_cannot_be_shared(self, threads, count):
        class Joining(Mapped):
            max_batch_size = 16
            calls = 0

            def predict(self, payload):
                self.calls += 1
                return iter(payload["instances"])

        model = Joining()
        model.attach_runner(threads)

        async def main():
            return await asyncio.gather(*(model(ROWS) for _ in range(count)), return_exceptions=True)

        errors = asyncio.run(main())
        assert [type(error) for error in errors] == [PredictionCountError] * count
        assert "has `yield` in it itself" in str(errors[0])
        assert model.calls == 1  # trying again in halves would only hide it


class TestTimes:
    """The time of a hook that streams is that of its first item."""

    @pytest.mark.parametrize("kind", ALL)
    def test_each_call_is_counted_once(self, kind):
        metrics = Metrics().model("m")
        threads = ModelThreads("m", metrics=metrics)
        model = kind()
        model.attach_runner(threads)

        async def main():
            return await collected(streams.steps(await model(ROWS), threads))

        assert asyncio.run(main()) == [2, 4, 6]
        threads.close()
        assert count_of(metrics.predict_seconds) == 1

    @pytest.mark.parametrize("kind", [Plain, Asynchronous])
    def test_it_is_the_time_to_the_first_item(self, kind, threads):
        seen = []
        model = kind()
        call = streams.timed(model.predict, lambda seconds, requests: seen.append(requests))

        async def main():
            items = streams.steps(call(ROWS), threads)
            assert seen == []
            assert await anext(items) == 2
            assert seen == [1]
            await streams.close(items)
            assert model.closed_in is not None

        asyncio.run(main())
        assert seen == [1]

    @pytest.mark.parametrize("kind", [Plain, Asynchronous])
    def test_one_without_items_too(self, kind, threads):
        seen = []
        call = streams.timed(kind().predict, lambda seconds, requests: seen.append(requests))

        async def main():
            return await collected(streams.steps(call({"instances": []}), threads))

        assert (asyncio.run(main()), seen) == ([], [1])


def test_check_shows_what_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("modelserver.checking._MOST_SECONDS", 0.05)

    class Endless(Model):
        async def predict(self, payload):
            yield "first, "
            while True:
                await asyncio.sleep(0)
                yield {"row": 1}

    for model, shown in (
        (Asynchronous("m"), "[1,1]\n[2,2]\n[3,3]\n"),
        (Endless("m"), 'first, {"row":1}\n{"row":1}\n'),
    ):
        said = []
        request = tmp_path / "request.json"
        request.write_text('{"instances": [[1], [2], [3]]}')
        check(model, request, said.append)
        assert said[2].startswith(f"answer  {shown}")


def count_of(histogram):
    return sum(histogram._integers[histogram._counts_at : histogram._counts_at + len(histogram._bounds) + 1])


@pytest.mark.parametrize(
    ("accept", "otherwise", "wanted"),
    [
        ("", LINES, False),
        ("*/*", LINES, False),
        ("text/*", TEXT, False),
        ("text/event-stream", LINES, True),
        ("Text/Event-Stream; charset=utf-8", LINES, True),
        ("application/json, text/event-stream", LINES, True),
        ("text/event-stream, */*;q=0.1", LINES, True),
        ("*/*, text/event-stream", LINES, True),
        ("text/event-stream;q=0", LINES, False),
        ("text/event-stream; Q=0.0, */*", LINES, False),
        ("text/event-stream;q=0.4, */*;q=0.5", LINES, False),
        ("text/event-stream;q=0.4, text/*;q=0.5", LINES, True),
        ("text/event-stream;q=0.4, text/*;q=0.5", TEXT, False),
        ("text/event-stream;q=0.4, text/*;q=0.5, text/plain;q=0.1", TEXT, True),
        ("text/event-stream;q=much", LINES, False),
        ("text/event-streams", LINES, False),
        (",;=,", LINES, False),
    ],
)
def test_who_wants_events(accept, otherwise, wanted):
    assert wants_events(accept, otherwise) is wanted


@pytest.mark.parametrize(
    ("body", "content_type", "piece", "event"),
    [
        (b"a", TEXT, b"a", b"data: a\n\n"),
        (b"", TEXT, b"", b"data: \n\n"),
        (b"a\nb\r\nc\rd", TEXT, b"a\nb\r\nc\rd", b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (b"a\n", TEXT, b"a\n", b"data: a\ndata: \n\n"),
        ("\u2028ü".encode(), TEXT, "\u2028ü".encode(), b"data: \xe2\x80\xa8\xc3\xbc\n\n"),
        (b'{"a":1}', "application/json", b'{"a":1}\n', b'data: {"a":1}\n\n'),
        (b"raw", "application/octet-stream", b"raw", b"data: raw\n\n"),
    ],
)
def test_an_item_as_bytes(body, content_type, piece, event):
    assert as_piece(body, content_type) == piece
    assert as_event(body, content_type) == event


def test_bytes_that_are_no_text_are_no_event():
    with pytest.raises(TypeError, match="2 bytes that are no UTF-8 text"):
        as_event(b"\xff\x00", "application/octet-stream")


def test_an_error_as_an_event():
    assert (
        error_event('two\nlines "quoted"') == b'event: error\ndata: {"error":"two\\nlines \\"quoted\\""}\n\n'
    )
