"""Whether the service, a model or a version is ready: what one worker says for all."""

import asyncio
import threading

import pytest
from in_one_process import Told, answer, run, until, worker

from modelserver import publishing
from modelserver.dataplane import DataPlane, IndexEntry
from modelserver.errors import ModelNotFound, ModelNotReady, ServerNotReady, UnknownLabel, VersionNotFound
from modelserver.lifecycle import Lifecycle
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import ModelFolder, VersionPolicy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(publishing, "_HEALTH_S", 0.02)


async def refusal(dataplane, *model):
    """What ``check_ready`` says, or that of one model; ``None``: it is ready."""
    try:
        await (dataplane.check_model_ready(*model) if model else dataplane.check_ready())
    except (ServerNotReady, ModelNotReady) as error:
        return str(error)
    return None


ELSEWHERE = "Model with name m is not ready. Another worker is not ready for it."


async def until_said(dataplane, expected):
    """Wait until readiness of m is refused with these words; ``None``: until it is ready."""
    for _ in range(1000):
        said = await refusal(dataplane, "m")
        if said == expected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(said)


def test_a_service_is_ready_when_every_worker_has_loaded_and_stays_so_when_one_is_replaced():
    async def main():
        board = ModelBoard(4)
        async with worker(Told("m"), board=board, workers=3) as one:
            first = "1 of 3 workers have loaded their models."
            assert await refusal(one) == f"Server is not ready. {first}"
            assert await refusal(one, "m") == f"Model with name m is not ready. {first}"
            await one.check_model_here("m")
            assert one.index() == [IndexEntry("m", "1", "LOADING", "")]
            async with worker(Told("m"), board=board, number=1, workers=3) as two:
                assert "2 of 3 workers" in await refusal(one)
                async with worker(Told("m"), board=board, number=2, workers=3):
                    pass
                # Nobody has asked while all were there. Now one is away.
                assert await refusal(one) is None
                assert await refusal(two, "m") is None
            assert await refusal(one) is None
            assert one.index() == [IndexEntry("m", "1", "READY", "")]
            async with worker(Told("m"), board=board, number=1, workers=3) as later:
                assert await refusal(later) is None  # though it has never seen all of them

    run(main)


def test_a_worker_that_still_loads_is_not_ready_whatever_the_others_are():
    async def main():
        board, go = ModelBoard(3), threading.Event()
        async with worker(Told("m"), board=board), worker(Told("m"), board=board, number=1):
            pass
        repository = ModelRepository()

        async def starting():
            async with worker(Told("m", go), repository=repository, board=board) as dataplane:
                return await refusal(dataplane)

        dataplane = DataPlane(repository, Lifecycle())
        started = asyncio.ensure_future(starting())
        await until(lambda: repository.models and repository.models["m"].calls, "its load")
        dataplane.publisher = publishing.Publisher(repository, None, board, 0, 2)
        assert await refusal(dataplane) == "Server is not ready. 0 of 2 workers have loaded their models."
        go.set()
        assert await started is None

    run(main)


def test_one_process_is_ready_when_it_has_loaded():
    async def main():
        dataplane = DataPlane(ModelRepository(), Lifecycle())
        dataplane.publisher = publishing.Publisher(dataplane.repository)
        assert await refusal(dataplane) == "Server is not ready. 0 of 1 workers have loaded their models."
        dataplane.publisher.start()
        assert await refusal(dataplane) is None  # nothing is registered, and nothing is missing

    run(main)


def test_an_application_without_a_server_goes_by_its_models():
    async def main():
        repository = ModelRepository()
        dataplane = DataPlane(repository, Lifecycle())
        repository.update(Model("m"))
        assert await refusal(dataplane) == "Server is not ready. Model with name m is not ready."
        assert dataplane.index() == [IndexEntry("m", "1", "LOADING", "")]
        repository.models["m"].ready = True
        assert await refusal(dataplane) is None

    run(main)


def test_a_model_that_is_not_healthy_in_another_worker_is_known_here():
    async def main():
        board = ModelBoard(3)
        async with worker(Told("m"), board=board) as one, worker(Told("m"), board=board, number=1) as other:
            assert await refusal(one) is None
            other.repository.models["m"].is_well = False
            assert await refusal(other, "m") == "Model with name m is not ready."
            await until_said(one, ELSEWHERE)
            assert await refusal(one) == f"Server is not ready. {ELSEWHERE}"
            await one.check_model_here("m")
            assert await answer(one) == 1
            other.repository.models["m"].is_well = True
            await until_said(one, None)
            other.repository.models["m"].ready = False  # as a hook of the user's may do
            await until_said(one, ELSEWHERE)

    run(main)


@pytest.mark.parametrize("kind", ["raises", "hangs"])
def test_a_model_that_cannot_say_how_it_is_is_not_healthy(kind):
    class Odd(Told):
        async def healthy(self):
            if self.is_well:
                return True
            if kind == "hangs":
                await asyncio.sleep(60)
            raise ValueError("no idea")

    async def main():
        board = ModelBoard(3)
        async with worker(Odd("m"), board=board) as one, worker(Odd("m"), board=board, number=1) as other:
            await one.check_ready()
            other.repository.models["m"].is_well = False
            await until_said(one, ELSEWHERE)
            other.repository.models["m"].is_well = True
            await until_said(one, None)

    run(main)


def test_a_server_that_leaves_is_not_ready():
    async def main():
        async with worker(Told("m")) as dataplane:
            dataplane.lifecycle.draining = True
            assert await refusal(dataplane) == "Server is not ready. The server is shutting down."
            assert (
                await refusal(dataplane, "m")
                == "Model with name m is not ready. The server is shutting down."
            )

    run(main)


def test_a_load_that_leaves_a_model_not_ready_leaves_the_server_not_ready():
    async def main():
        async with worker(Told("m"), Told("n", "not ready")) as dataplane:
            assert await refusal(dataplane) == "Server is not ready. Model with name n is not ready."
            assert await refusal(dataplane, "m") is None
            assert dataplane.index()[1] == IndexEntry(
                "n", "1", "UNAVAILABLE", "load() returned but ready is still False."
            )
            assert dataplane.index(only_ready=True) == [IndexEntry("m", "1", "READY", "")]

    run(main)


@pytest.mark.parametrize("version", [None, 1])
def test_a_model_that_nobody_has(version):
    async def main():
        async with worker(Told("m")) as dataplane:
            with pytest.raises(ModelNotFound):
                await dataplane.check_model_ready("x", version)

    run(main)


def test_a_model_without_versions_is_version_1():
    async def main():
        async with worker(Told("m")) as dataplane:
            await dataplane.check_model_ready("m", 1)
            with pytest.raises(VersionNotFound):
                await dataplane.check_model_ready("m", 2)
            with pytest.raises(UnknownLabel):
                await dataplane.check_model_ready("m", "stable")

    run(main)


def test_a_version_is_ready_when_every_worker_has_it_and_the_model_when_each_has_some(tmp_path):
    go = threading.Event()

    def folder(waits):
        return ModelFolder(
            "m",
            tmp_path,
            lambda path, number: Told("m", *([go] if waits and number == 2 else [])),
            policy=VersionPolicy(everything=True),
            labels={"stable": 1},
        )

    async def main():
        (tmp_path / "1").mkdir()
        board = ModelBoard(3)
        async with (
            worker(folder(False), board=board) as one,
            worker(folder(True), board=board, number=1) as other,
        ):
            (tmp_path / "2").mkdir()
            await until(lambda: 2 in one.repository.versions["m"].models, "version 2 here")
            await until(lambda: 2 in other.repository.versions["m"].pending, "version 2 there")
            for dataplane in (one, other):
                assert await refusal(dataplane) is None
                assert await refusal(dataplane, "m") is None
                assert await refusal(dataplane, "m", 1) is None
                assert await refusal(dataplane, "m", "stable") is None
                with pytest.raises(VersionNotFound):
                    await dataplane.check_model_ready("m", 9)
                with pytest.raises(UnknownLabel):
                    await dataplane.check_model_ready("m", "other")
                assert dataplane.index(only_ready=True) == [IndexEntry("m", "1", "READY", "")]
            loading = "Model with name m is not ready. Version 2 is loading."
            await until(lambda: [each.state for each in one.index()] == ["READY", "LOADING"], "loading")
            assert await refusal(one, "m", 2) == await refusal(other, "m", 2) == loading
            go.set()
            await until(lambda: len(one.index(only_ready=True)) == 2, "version 2 everywhere")
            assert await refusal(one, "m", 2) is None
            await other.unload_model("m")
            with pytest.raises(VersionNotFound):
                await one.check_model_ready("m", 2)

    run(main)


def test_a_folder_that_waits_for_a_version_leaves_the_server_not_ready(tmp_path):
    async def main():
        folder = ModelFolder("m", tmp_path, lambda path, number: Told("m"), may_be_empty=True)
        async with worker(folder) as dataplane:
            assert await refusal(dataplane) == "Server is not ready. Model with name m is not ready."
            assert dataplane.index() == [IndexEntry("m", "", "UNAVAILABLE", "no version is there")]
            (tmp_path / "1").mkdir()
            await until(lambda: dataplane.index(only_ready=True), "version 1")
            assert await refusal(dataplane) is None

    run(main)


def test_the_index_is_in_the_order_of_registration():
    async def main():
        async with worker(Told("b"), Told("a"), Told("c")) as dataplane:
            await dataplane.unload_model("a")
            assert [entry.name for entry in dataplane.index()] == ["b", "a", "c"]
            assert [entry.name for entry in dataplane.index(only_ready=True)] == ["b", "c"]

    run(main)
