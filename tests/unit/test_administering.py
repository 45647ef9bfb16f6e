"""Loading and unloading while the server runs: what one worker does, and what two do together."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest
from in_one_process import POLL_S, Told, answer, run, until, worker

from modelserver.dataplane import DataPlane, IndexEntry
from modelserver.errors import ModelNotFound, ModelNotReady, NoModelReady, ServerNotReady, VersionNotFound
from modelserver.fatal_loads import FatalLoads
from modelserver.lifecycle import Lifecycle
from modelserver.model_board import ModelBoard
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import ModelFolder


@contextlib.asynccontextmanager
async def two(make, **options):
    """Two workers; ``make()`` gives the models of each, or its repository."""
    board = ModelBoard(3)

    def told():
        made = make()
        return {"repository": made} if isinstance(made, ModelRepository) else {"models": [made]}

    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(2):
            one = told()
            context = worker(*one.pop("models", ()), **one, board=board, number=number, **options)
            found.append(await stack.enter_async_context(context))
        yield found, board


def is_unloaded(*dataplanes, name="m"):
    for dataplane in dataplanes:
        with pytest.raises(ModelNotReady):
            dataplane.model(name)
    return True


UNLOADED = [IndexEntry("m", "1", "UNAVAILABLE", "unloaded")]
READY = [IndexEntry("m", "1", "READY", "")]


# -- a plain model


def test_one_process_unloads_and_loads(caplog):
    async def main():
        model = Told("m")
        async with worker(model) as dataplane:
            assert await answer(dataplane) == 1
            assert dataplane.index() == READY
            await dataplane.unload_model("m")
            assert model.calls == ["load", "stop"]
            assert is_unloaded(dataplane)
            assert dataplane.index() == UNLOADED
            assert dataplane.index(only_ready=True) == []
            with pytest.raises(ModelNotReady, match=r"^Model with name m is not ready\.$"):
                await dataplane.check_model_ready("m")
            await dataplane.check_ready()  # as in Triton
            assert list(dataplane.model_names()) == ["m"]
            await dataplane.unload_model("m")  # once more changes nothing
            assert model.calls == ["load", "stop"]
            await dataplane.load_model("m")
            assert await answer(dataplane) == 2
            assert dataplane.index(only_ready=True) == READY
            await dataplane.load_model("m")  # once more loads it once more
            assert await answer(dataplane) == 3
            assert model.calls == ["load", "stop", "load", "load"]

    run(main)


def test_unloading_waits_for_the_requests_that_are_being_answered():
    async def main():
        model = Told("m")
        async with worker(model) as dataplane:
            model.hold.clear()
            asked = [asyncio.ensure_future(answer(dataplane)) for _ in range(3)]
            await until(lambda: dataplane.waiting_for(model) == 3, "the requests")
            unloading = asyncio.ensure_future(dataplane.unload_model("m"))
            await until(lambda: not model.ready, "the order")
            assert is_unloaded(dataplane)
            assert dataplane.index() == [IndexEntry("m", "1", "UNLOADING", "")]
            await dataplane.check_ready()
            assert not unloading.done()
            model.hold.set()
            assert await asyncio.gather(*asked) == [1, 1, 1]
            await unloading
            assert model.calls == ["load", "stop"]

    run(main)


def test_unloading_waits_for_requests_on_the_event_loop_too():
    class Waits(Told):
        async def predict(self, payload):
            await self.go.wait()
            assert self.calls == ["load"]
            return "whole"

    async def main():
        model = Waits("m")
        model.go = asyncio.Event()
        async with worker(model) as dataplane:
            asked = asyncio.ensure_future(answer(dataplane))
            await until(lambda: dataplane.waiting_for(model), "the request")
            unloading = asyncio.ensure_future(dataplane.unload_model("m"))
            await asyncio.sleep(0.1)
            assert model.calls == ["load"]
            model.go.set()
            assert await asked == "whole"
            await unloading
            assert model.calls == ["load", "stop"]

    run(main)


def test_a_model_that_always_says_it_is_healthy_is_not_ready_when_it_is_unloaded():
    class Sure(Told):
        def healthy(self):
            return True

    async def main():
        async with worker(Sure("m")) as dataplane:
            await dataplane.unload_model("m")
            for check in (dataplane.check_model_here, dataplane.check_model_ready):
                with pytest.raises(ModelNotReady):
                    await check("m")

    run(main)


def test_two_workers_do_what_one_was_told():
    async def main():
        async with two(lambda: Told("m")) as ((one, other), _):
            await other.unload_model("m")
            assert is_unloaded(one, other)
            assert one.index() == other.index() == UNLOADED
            await one.check_ready()
            await other.check_ready()
            await one.load_model("m")
            assert await answer(one) == await answer(other) == 2
            assert one.index() == other.index() == READY

    run(main)


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("weights.pt has 3 rows", "weights.pt has 3 rows"),
        ("/srv/models/m/weights.pt is bad", "weights.pt is bad"),
        ("not ready", "load() returned but ready is still False."),
    ],
)
def test_a_load_that_fails_in_another_worker_is_told(does, told, caplog):
    async def main():
        models = iter([Told("m"), Told("m", "ok", does, "ok")])
        async with two(lambda: next(models)) as ((one, other), _):
            await one.unload_model("m")
            with pytest.raises(ModelNotReady) as caught:
                await one.load_model("m")
            assert str(caught.value) == f"Model with name m is not ready. {told}"
            assert one.index() == other.index() == [IndexEntry("m", "1", "UNAVAILABLE", told)]
            with pytest.raises(ModelNotReady, match="Another worker is not ready for it"):
                await one.check_model_ready("m")
            with pytest.raises(ModelNotReady):
                await other.check_model_ready("m")
            assert f"Model m: load failed: {told}" in caplog.text
            await one.load_model("m")
            assert one.index() == READY
            await one.check_model_ready("m")

    run(main)


def test_what_a_hook_raises_is_told_by_its_type():
    class Broken(Told):
        def load(self):
            super().load()
            if len(self.calls) > 1:
                raise ValueError("no good: /srv/models/m/x.bin")
            return True

    async def main():
        async with worker(Broken("m")) as dataplane:
            with pytest.raises(ModelNotReady, match=r"not ready\. ValueError : no good: x\.bin$"):
                await dataplane.load_model("m")
            assert await answer(dataplane) == 2  # it is as its load has left it

    run(main)


def test_a_model_that_can_be_made_anew_answers_until_the_new_one_is_loaded():
    async def main():
        go, made = threading.Event(), []

        def make():
            made.append(Told("m", *([go] if len(made) == 1 else ["bad"] if len(made) == 2 else [])))
            return made[-1]

        model = make()
        model.replacement = make
        async with worker(model) as dataplane:
            loading = asyncio.ensure_future(dataplane.load_model("m"))
            await until(lambda: len(made) == 2 and made[1].calls, "the load")
            assert await answer(dataplane) == 1
            assert dataplane.model("m") is model
            assert dataplane.index() == READY
            go.set()
            await loading
            assert dataplane.model("m") is made[1]
            await until(lambda: model.calls == ["load", "stop"], "the end of the old one")
            with pytest.raises(ModelNotReady, match="bad"):
                await dataplane.load_model("m")
            assert dataplane.model("m") is made[1]
            assert made[1].calls == ["load"]
            assert await answer(dataplane) == 1
            assert list(dataplane.keepers.administrator._loader.threads) == [id(made[1])]

    run(main)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_nobody_knows_such_a_model(verb):
    async def main():
        async with two(lambda: Told("m")) as ((one, _), board):
            with pytest.raises(ModelNotFound, match="Model with name x does not exist"):
                await getattr(one, f"{verb}_model")("x")
            assert board.orders_generation == 0

    run(main)


def test_orders_are_for_a_server_that_start_has_started():
    async def main():
        dataplane = DataPlane(ModelRepository(), Lifecycle())
        with pytest.raises(NotImplementedError, match=r"where ModelServer\.start\(\) serves them"):
            await dataplane.load_model("m")
        await dataplane.check_ready()

    run(main)


def test_an_order_is_refused_while_workers_load_and_while_the_server_leaves():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), board=board) as one:
            with pytest.raises(ServerNotReady, match=r"1 of 2 workers have loaded their models\."):
                await one.unload_model("m")
            async with worker(Told("m"), board=board, number=1):
                await one.unload_model("m")
            await one.load_model("m")  # the other one is being replaced
            one.lifecycle.draining = True
            with pytest.raises(ServerNotReady, match="shutting down"):
                await one.unload_model("m")

    run(main)


# -- several orders


def test_two_administrators_at_once_leave_one_state():
    async def main():
        async with two(lambda: Told("m")) as ((one, other), _):
            for _ in range(3):
                await asyncio.gather(one.unload_model("m"), other.load_model("m"))
                states = {dataplane.repository.models["m"].ready for dataplane in (one, other)}
                assert len(states) == 1
                assert one.index() == other.index()
                await asyncio.gather(one.load_model("m"), other.load_model("m"), one.load_model("m"))
                assert one.index() == other.index() == READY

    run(main)


def test_an_order_waits_for_the_one_before_it():
    async def main():
        go = threading.Event()
        models = []

        def make():
            models.append(Told("m", "ok", go, "ok"))
            return models[-1]

        async with two(make) as ((one, other), _):
            await one.unload_model("m")
            loading = [asyncio.ensure_future(one.load_model("m"))]
            await until(lambda: all(model.calls.count("load") == 2 for model in models), "both load")
            assert one.index() == other.index() == [IndexEntry("m", "1", "LOADING", "")]
            loading += [asyncio.ensure_future(each.load_model("m")) for each in (other, one)]
            await asyncio.sleep(0.3)  # longer than a look at the board
            assert all(model.calls.count("load") == 2 for model in models)
            go.set()
            await asyncio.gather(*loading)
            # The two that came meanwhile are one or two, as each worker finds them.
            assert all(model.calls.count("load") in (3, 4) for model in models)
            assert one.index() == READY

    run(main)


def test_an_order_waits_for_the_one_before_it_in_one_process_too():
    async def main():
        go = threading.Event()
        model = Told("m", "ok", go, "ok")
        async with worker(model) as dataplane:
            loading = asyncio.ensure_future(dataplane.load_model("m"))
            await until(lambda: model.calls.count("load") == 2, "the load")
            unloading = asyncio.ensure_future(dataplane.unload_model("m"))
            await asyncio.sleep(0.1)
            assert model.ready
            go.set()
            await asyncio.gather(loading, unloading)
            assert dataplane.index() == UNLOADED

    run(main)


def test_a_load_that_hangs_holds_up_no_other_model_and_no_call_for_ever():
    async def main():
        go = threading.Event()

        def make():
            repository = ModelRepository()
            for model in (Told("m", "ok", go, "ok"), Told("n")):
                repository.update(model)
            return repository

        async with two(make, within_s=6) as ((one, other), _):
            expected = r"0 of 2 workers have done it within 6 s; the others go on\."
            with pytest.raises(ModelNotReady, match=expected):
                await one.load_model("m")
            await other.unload_model("n")
            assert is_unloaded(one, other, name="n")
            go.set()
            await until(lambda: one.repository.models["m"].calls == ["load", "load"], "the end of the load")

    run(main)


def test_one_process_is_not_waited_for_for_ever_either():
    async def main():
        go = threading.Event()
        async with worker(Told("m", "ok", go), within_s=0.2) as dataplane:
            with pytest.raises(ModelNotReady, match=r"0 of 1 workers have done it within 0\.2 s"):
                await dataplane.load_model("m")
            go.set()

    run(main)


def test_a_worker_that_dies_is_waited_for_until_its_successor_has_followed():
    async def main():
        board, go = ModelBoard(3), threading.Event()
        async with worker(Told("m"), board=board) as one:
            async with worker(Told("m", "ok", go), board=board, number=1):
                loading = asyncio.ensure_future(one.load_model("m"))
                await until(lambda: one.repository.models["m"].calls.count("load") == 2, "the load here")
            # It is gone, and with it what it had told.
            go.set()
            await asyncio.sleep(0.2)
            assert not loading.done()
            async with worker(Told("m"), board=board, number=1) as successor:
                await loading
                assert await answer(successor) == 1

    run(main)


def test_a_worker_that_dies_and_has_no_successor_is_not_waited_for_for_ever():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), board=board, within_s=0.5) as one:
            async with worker(Told("m"), board=board, number=1) as other:
                other.keepers.administrator._looking.cancel()  # it looks at no order any more
                unloading = asyncio.ensure_future(one.unload_model("m"))
                await until(lambda: not one.repository.models["m"].ready, "the order")
            with pytest.raises(ModelNotReady, match="1 of 2 workers have done it within"):
                await unloading

    run(main)


# -- a worker that begins later


def test_what_was_unloaded_stays_so_in_a_worker_that_begins_later():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), Told("n"), board=board) as one:
            async with worker(Told("m"), Told("n"), board=board, number=1):
                await one.unload_model("m")
            fresh, forked = Told("m"), Told("m")
            for model, inherited in ((fresh, ()), (forked, ("m",))):
                async with worker(model, Told("n"), board=board, number=1, inherited=inherited) as later:
                    assert is_unloaded(later)
                    assert later.index() == one.index()
                    assert await answer(later, "n") == 1
                    await later.check_ready()
            assert fresh.calls == []
            assert forked.calls == ["load", "stop"]

    run(main)


def test_all_may_be_unloaded_and_a_worker_begins_all_the_same():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), board=board) as one:
            async with worker(Told("m"), board=board, number=1):
                await one.unload_model("m")
            async with worker(Told("m"), board=board, number=1) as later:
                await later.load_model("m")
                assert one.index() == READY

    run(main)


def test_what_was_loaded_before_the_fork_is_loaded_again_if_that_was_ordered():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), board=board) as one:
            async with worker(Told("m"), board=board, number=1):
                await one.load_model("m")
            forked = Told("m")
            async with worker(forked, board=board, number=1, inherited=("m",)) as later:
                assert forked.calls == ["load", "stop", "load"]
                assert await answer(later) == 2
                assert one.index() == READY

    run(main)


def test_a_model_that_fails_in_a_worker_that_begins_later_leaves_the_others():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), Told("n"), board=board) as one:
            async with worker(Told("m"), Told("n"), board=board, number=1):
                await one.load_model("m")
            async with worker(Told("m", "bad"), Told("n"), board=board, number=1) as later:
                assert await answer(later, "n") == 1
                assert is_unloaded(later)
                with pytest.raises(ServerNotReady, match="Model with name m is not ready"):
                    await one.check_ready()
            with pytest.raises(NoModelReady):
                async with worker(Told("m", "bad"), board=board, number=1):
                    pass

    run(main)


@pytest.mark.parametrize("deaths", [1, 2])
def test_an_order_that_ends_workers_is_tried_once_more_and_then_left(deaths, caplog):
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), Told("n"), board=board) as one:
            async with worker(Told("m"), Told("n"), board=board, number=1):
                await one.load_model("m")
            for _ in range(deaths):
                FatalLoads(board, 1).begins("m", -1, (1,))  # and no more was heard of it
            async with worker(Told("m"), Told("n"), board=board, number=1) as later:
                assert await answer(later, "n") == 1
                if deaths == 1:
                    assert later.index() == one.index()
                    return
                told = "The worker process died while it loaded this model."
                assert one.index()[0] == IndexEntry("m", "1", "UNAVAILABLE", told)
                assert f"Model m: load failed: {told}" in caplog.text
                await later.load_model("m")  # another order
                assert await answer(later) == 1

    run(main)


# -- a repository that makes models by their names


class Shelf(ModelRepository):
    """Makes models whose names begin with ``shelf``, as users of KServe write it."""

    def __init__(self):
        super().__init__()
        self.made = []
        self.threads = set()

    def make(self, name):
        self.threads.add(threading.get_ident())
        if not name.startswith("shelf"):
            raise RuntimeError(f"nothing in /mnt/models/{name}")
        model = Told(name)
        model.weights = bytearray(10)
        self.made.append(weakref.ref(model))
        model.ready = model.load()
        self.update(model)
        self.has_threads = "_runner" in vars(model)  # before a request can come
        return model.ready

    def load(self, name):
        return self.make(name)


class AsyncShelf(Shelf):
    async def load(self, name):
        await asyncio.sleep(0)
        return self.make(name)


class DirectShelf(Shelf):
    def update(self, model, name=None):
        self.models[name or model.name] = model


@pytest.mark.parametrize("kind", [Shelf, AsyncShelf, DirectShelf])
def test_a_repository_of_ones_own_loads_a_name_in_all_workers(kind):
    def make():
        repository = kind()
        repository.update(Told("m"))
        return repository

    async def main():
        async with two(make) as ((one, other), board):
            await one.load_model("shelf1")
            for dataplane in (one, other):
                assert await answer(dataplane, "shelf1") == 1
                assert list(dataplane.model_names()) == ["m", "shelf1"]
                model = dataplane.model("shelf1")
                assert id(model) in dataplane.keepers.administrator._loader.threads
                assert dataplane.repository.has_threads == (kind is not DirectShelf)
                here = threading.get_ident() in dataplane.repository.threads
                assert here == (kind is AsyncShelf)
                del model
            first = [dataplane.repository.made[0] for dataplane in (one, other)]
            await other.load_model("shelf1")  # makes another one
            for dataplane in (one, other):
                assert dataplane.model("shelf1") is dataplane.repository.made[1]()
            await until(lambda: gc.collect() >= 0 and not any(each() for each in first), "their end")
            await one.unload_model("shelf1")
            assert is_unloaded(one, other, name="shelf1")
            assert [entry.reason for entry in one.index()] == ["", "unloaded"]
            for dataplane in (one, other):
                made = dataplane.repository.made[1]
                await until(lambda made=made: gc.collect() >= 0 and made() is None, "its memory is free")
            repository = make()
            async with worker(repository=repository, board=board, number=2) as later:
                assert is_unloaded(later, name="shelf1")
                assert later.index() == one.index()
                await one.load_model("shelf1")
                assert await answer(later, "shelf1") == 1
            async with worker(repository=make(), board=board, number=2) as later:
                assert await answer(later, "shelf1") == 1

    run(main)


def test_a_name_that_the_repository_cannot_load_is_not_tried_again():
    async def main():
        async with two(lambda: with_m(Shelf())) as ((one, other), board):
            with pytest.raises(ModelNotReady, match=r"RuntimeError : nothing in other$"):
                await one.load_model("other")
            assert list(one.model_names()) == list(other.model_names()) == ["m"]
            assert board.orders() == b"{}"
            with pytest.raises(ModelNotFound):
                await one.unload_model("other")

    run(main)


def with_m(repository):
    repository.update(Told("m"))
    return repository


def test_an_override_may_leave_a_model_to_the_server():
    class Partly(ModelRepository):
        def load(self, name):
            return super().load(name)

    async def main():
        repository = Partly()
        async with worker(Told("m"), repository=repository) as dataplane:
            await dataplane.load_model("m")
            assert await answer(dataplane) == 2
            with pytest.raises(ModelNotFound, match="Model with name x does not exist"):
                await dataplane.load_model("x")
            assert list(dataplane.model_names()) == ["m"]

    run(main)


def test_an_order_for_a_name_that_is_left_to_the_server_is_taken_back():
    class Partly(ModelRepository):
        def load(self, name):
            return super().load(name)

    async def main():
        async with two(lambda: with_m(Partly())) as ((one, _), board):
            with pytest.raises(ModelNotFound, match="Model with name x does not exist"):
                await one.load_model("x")
            assert board.orders() == b"{}"

    run(main)


# -- folders of versions


def version(base, number, does="ok"):
    folder = base / str(number)
    folder.mkdir(parents=True)
    (folder / "does").write_text(does)


def folder_of(base, **options):
    return ModelFolder("m", base, lambda path, number: Told("m", (path / "does").read_text()), **options)


def test_a_folder_of_versions_is_unloaded_and_looked_at_again_when_it_is_loaded(tmp_path):
    async def main():
        version(tmp_path, 1)
        async with two(lambda: folder_of(tmp_path)) as ((one, other), board):
            await one.unload_model("m")
            assert is_unloaded(one, other)
            for dataplane in (one, other):
                with pytest.raises(VersionNotFound):
                    dataplane.model("m", 1)
            assert one.index() == other.index() == UNLOADED
            version(tmp_path, 2)
            await asyncio.sleep(20 * POLL_S)
            assert is_unloaded(one, other)
            async with worker(folder_of(tmp_path), board=board, number=2) as later:
                await asyncio.sleep(20 * POLL_S)
                assert is_unloaded(later)
                await later.check_ready()
            await other.load_model("m")
            assert one.model("m").version == other.model("m").version == 2
            assert one.index()[1] == IndexEntry("m", "2", "READY", "")
            version(tmp_path, 3)
            await until(lambda: one.model("m").version == 3, "it is watched again")
            await other.load_model("m")  # there is nothing new
            assert one.model("m").calls == ["load"]

    run(main)


def test_a_load_of_versions_that_fails_says_so_and_what_is_served_stays(tmp_path):
    async def main():
        version(tmp_path, 1)
        async with worker(folder_of(tmp_path, is_watched=False)) as dataplane:
            version(tmp_path, 2, "bad")
            with pytest.raises(ModelNotReady, match=r"not ready\. version 2: model m version 2: bad$"):
                await dataplane.load_model("m")
            assert dataplane.model("m").version == 1
            await dataplane.unload_model("m")
            with pytest.raises(ModelNotReady, match="bad"):
                await dataplane.load_model("m")
            assert is_unloaded(dataplane)
            await dataplane.check_ready()
            (tmp_path / "2" / "does").write_text("ok")
            await dataplane.load_model("m")
            assert dataplane.model("m").version == 2
            await dataplane.unload_model("m")
            for number in (1, 2):
                (tmp_path / str(number)).rename(tmp_path / f"gone{number}")
            with pytest.raises(ModelNotReady, match="None of the versions that are wanted is there"):
                await dataplane.load_model("m")

    run(main)


def test_a_worker_that_begins_later_asks_nothing_of_an_unloaded_folder(tmp_path, caplog):
    async def main():
        base = tmp_path / "m"
        version(base, 1)
        board = ModelBoard(3)

        def folder():
            return folder_of(base, labels={"stable": 1})

        async with worker(folder(), board=board) as one:
            async with worker(folder(), board=board, number=1):
                await one.unload_model("m")
            repository = ModelRepository()
            async with worker(folder(), repository=repository, board=board, number=2) as later:
                await asyncio.sleep(0.5)  # some looks
                assert is_unloaded(later)
                assert not repository.versions["m"].models
                assert "label" not in caplog.text
            version(base, 2, "/srv/models/m/x is bad")
            with pytest.raises(ModelNotReady, match="version 2: model m version 2: x is bad"):
                async with worker(folder(), board=board, number=1):
                    await one.load_model("m")
            assert one.index()[1] == IndexEntry("m", "2", "UNAVAILABLE", "model m version 2: x is bad")
        repository = ModelRepository()
        repository.unloaded = frozenset("m")
        repository.add_folder(folder_of(tmp_path / "gone"))
        repository.look_again()
        assert not repository.models["m"].ready

    run(main)


def test_unloading_does_not_wait_for_a_version_that_is_being_loaded(tmp_path):
    async def main():
        version(tmp_path, 1)
        go = threading.Event()
        made = []

        def build(path, number):
            made.append(Told("m", *([go] if number == 2 else [])))
            return made[-1]

        async with worker(ModelFolder("m", tmp_path, build)) as dataplane:
            version(tmp_path, 2)
            await until(lambda: len(made) == 2 and made[1].calls, "the load")
            await dataplane.unload_model("m")
            assert dataplane.index() == [
                IndexEntry("m", "1", "UNAVAILABLE", "unloaded"),
                IndexEntry("m", "2", "UNAVAILABLE", "unloaded"),
            ]
            go.set()
            await dataplane.load_model("m")
            assert dataplane.model("m").version == 2
            assert dataplane.model("m") is made[2]

    run(main)


def test_a_new_configuration_leaves_an_unloaded_model_unloaded(tmp_path):
    async def main():
        version(tmp_path / "a", 1)
        version(tmp_path / "b", 5)
        async with worker(folder_of(tmp_path / "a")) as dataplane:
            await dataplane.unload_model("m")
            for base in ("a", "b"):
                await dataplane.keepers.keeper.apply([folder_of(tmp_path / base)])
                assert is_unloaded(dataplane)
            await dataplane.keepers.keeper.apply([])
            assert list(dataplane.model_names()) == []
            await dataplane.keepers.keeper.apply([folder_of(tmp_path / "b")])
            assert is_unloaded(dataplane)
            assert dataplane.index() == [IndexEntry("m", "", "UNAVAILABLE", "unloaded")]
            await dataplane.load_model("m")
            assert dataplane.model("m").version == 5

    run(main)
