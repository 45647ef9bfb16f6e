"""What the keeper does when a folder changes: load, take over, drain, unload, leave alone."""

import asyncio
import contextlib
import logging
import shutil
import threading

import pytest

from modelserver.configuring import Configurator
from modelserver.dataplane import DataPlane
from modelserver.errors import InvalidInput, ModelLoadError, ModelNotReady, UnknownLabel
from modelserver.fatal_loads import FatalLoads
from modelserver.lifecycle import Lifecycle
from modelserver.loading import Loader
from modelserver.metrics.counting import Metrics
from modelserver.metrics.exposition import Exposition
from modelserver.model import Model
from modelserver.model_board import ModelBoard
from modelserver.publishing import Publisher
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import ModelFolder, State, VersionPolicy
from modelserver.unloading import Unloader
from modelserver.version_keeper import KeepingOptions, VersionKeeper

POLL_S = 0.01


class Weights(Model):
    """Answers with what its file says; ``bad`` cannot be loaded."""

    stopped: list = []  # noqa: RUF012 - shared on purpose: models that are gone are told here

    def __init__(self, folder):
        super().__init__("m")
        self.folder = folder
        self.hold = threading.Event()
        self.hold.set()

    def load(self):
        text = (self.folder / "weights").read_text()
        if text == "bad":
            raise ModelLoadError("weights are bad")
        self.value = text
        return True

    def predict(self, payload):
        self.hold.wait(10)
        return self.value

    def stop(self):
        self.stopped.append(self.version)


def write(base, number, text="good"):
    folder = base / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(text)


def folder_of(base, name="m", **options):
    return ModelFolder(
        name,
        base,
        lambda path, number: Weights(path),
        holds_model=lambda path: (path / "weights").exists(),
        **options,
    )


@contextlib.asynccontextmanager
async def keeping(*folders, board=None, number=0, **options):
    Weights.stopped = []
    repository = ModelRepository()
    for folder in folders:
        repository.add_folder(folder)
    metrics = Metrics()
    dataplane = DataPlane(repository, Lifecycle(), metrics=metrics)
    loader = Loader(metrics=metrics)
    told = KeepingOptions(**{"poll_s": POLL_S, "retry_s": POLL_S, **options})
    publisher = Publisher(repository, metrics, board, number, 1 if board is None else 2)
    unloader = Unloader(dataplane, loader, told.drain_s, publisher.publish)
    keeper = VersionKeeper(dataplane, loader, unloader, publisher, FatalLoads(board, number), told)
    dataplane.publisher = publisher
    dataplane.keeper = keeper  # for the tests, as are its parts
    for name, model in repository.all_models():
        loader.attach(name, model)
    try:
        await keeper.load_first()
        publisher.start()
        keeper.start()
        yield dataplane
    finally:
        await keeper.close()
        await unloader.close()
        await publisher.close()
        loader.close()


async def until(condition, what):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 10 s: {what}")


def states(dataplane):
    return {status.number: status.state for status in dataplane.version_statuses("m")}


def served(dataplane):
    return dataplane.model("m").version


def run(main):
    asyncio.run(main())


def test_a_new_version_takes_over_and_the_old_one_ends(tmp_path):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path)) as dataplane:
            assert served(dataplane) == 1
            write(tmp_path, 2, "better")
            await until(lambda: states(dataplane) == {2: State.AVAILABLE, 1: State.END}, "version 2")
            assert (await dataplane.answer("m", {}))[0] == "better"
            assert Weights.stopped == [1]
            page = Exposition(dataplane.metrics.memory).text()
            assert 'modelserver_model_newest_version{model="m"} 2' in page
            assert 'modelserver_model_versions{model="m"} 1' in page

    run(main)


def test_removing_the_newest_goes_back(tmp_path):
    async def main():
        write(tmp_path, 1)
        write(tmp_path, 2)
        async with keeping(folder_of(tmp_path)) as dataplane:
            assert served(dataplane) == 2
            shutil.rmtree(tmp_path / "2")
            await until(lambda: states(dataplane) == {2: State.END, 1: State.AVAILABLE}, "version 1")
            assert served(dataplane) == 1

    run(main)


def test_a_version_that_cannot_be_loaded_replaces_nothing_and_is_served_when_it_is_mended(tmp_path, caplog):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path), retry_s=60) as dataplane:
            write(tmp_path, 2, "bad")
            await until(lambda: states(dataplane).get(2) is State.END, "the failure")
            (failed, _) = dataplane.version_statuses("m")
            assert (failed.error_code, failed.error_message) == (
                "INTERNAL",
                "model m version 2: weights are bad",
            )
            assert served(dataplane) == 1
            assert "Version 2 of model m cannot be loaded: model m version 2: weights are bad" in caplog.text
            write(tmp_path, 2, "mended")
            await until(lambda: served(dataplane) == 2, "version 2")

    run(main)


def test_a_load_that_failed_is_tried_again_so_often_and_no_more(tmp_path, caplog):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path), retries=2) as dataplane:
            write(tmp_path, 2, "bad")

            def failures():
                return caplog.text.count("Version 2 of model m cannot be loaded")

            await until(lambda: failures() == 3, "the third try")
            await asyncio.sleep(20 * POLL_S)
            assert failures() == 3
            assert served(dataplane) == 1

    run(main)


def test_what_is_still_being_written_is_left_alone(tmp_path):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path), poll_s=0.1) as dataplane:
            write(tmp_path, 2)
            for step in range(30):  # a copy that takes 1.5 s
                (tmp_path / "2" / f"part{step}").write_text("x")
                await asyncio.sleep(0.05)
                assert 2 not in states(dataplane)
            await until(lambda: served(dataplane) == 2, "version 2")

    run(main)


def test_requests_finish_on_the_version_they_began_with(tmp_path):
    async def main():
        write(tmp_path, 1, "old")
        async with keeping(folder_of(tmp_path)) as dataplane:
            old = dataplane.model("m")
            old.hold.clear()
            asked = asyncio.ensure_future(dataplane.answer("m", {}))
            await until(lambda: dataplane.waiting_for(old), "the request")
            write(tmp_path, 2, "new")
            await until(lambda: served(dataplane) == 2, "version 2")
            assert (await dataplane.answer("m", {}))[0] == "new"
            assert states(dataplane)[1] is State.UNLOADING
            assert Weights.stopped == []
            old.hold.set()
            assert (await asked)[0] == "old"
            await until(lambda: states(dataplane)[1] is State.END, "the end of version 1")
            assert Weights.stopped == [1]

    run(main)


def test_a_version_that_does_not_drain_is_ended_after_its_time(tmp_path, caplog):
    async def main():
        write(tmp_path, 1, "old")
        async with keeping(folder_of(tmp_path), drain_s=0.2) as dataplane:
            old = dataplane.model("m")
            old.hold.clear()
            asked = asyncio.ensure_future(dataplane.answer("m", {}))
            write(tmp_path, 2, "new")
            await until(
                lambda: "Model m version 1 still has work and is unloaded" in caplog.text, "the warning"
            )
            old.hold.set()
            assert (await asked)[0] == "old"

    run(main)


@pytest.mark.parametrize("loss", ["emptied", "gone"])
def test_lost_storage_takes_no_model_down(tmp_path, caplog, loss):
    async def main():
        base = tmp_path / "base"
        write(base, 1)
        async with keeping(folder_of(base)) as dataplane:
            shutil.rmtree(base / "1" if loss == "emptied" else base)
            await until(lambda: "what is served stays" in caplog.text, "the warning")
            await asyncio.sleep(10 * POLL_S)
            assert served(dataplane) == 1
            assert caplog.text.count("what is served stays") == 1
            write(base, 3)
            await until(lambda: served(dataplane) == 3, "version 3")

    run(main)


def test_all_that_are_wanted_are_there_at_once(tmp_path):
    async def main():
        for number in (1, 2, 3):
            write(tmp_path, number, f"v{number}")
        folder = folder_of(tmp_path, policy=VersionPolicy(latest=2), labels={"stable": 2})
        async with keeping(folder) as dataplane:
            assert states(dataplane) == {3: State.AVAILABLE, 2: State.AVAILABLE}
            assert (await dataplane.answer("m", {}, version=2))[0] == "v2"
            assert (await dataplane.answer("m", {}, version="stable"))[0] == "v2"
            assert (await dataplane.answer("m", {}))[0] == "v3"
            write(tmp_path, 4)
            await until(lambda: states(dataplane).get(2) is State.END, "the end of version 2")
            assert sorted(dataplane.repository.versions["m"].models) == [3, 4]

    run(main)


@pytest.mark.parametrize("may_wait", [False, True])
def test_a_label_is_for_a_version_that_is_there_unless_it_may_wait(tmp_path, may_wait):
    async def main():
        write(tmp_path, 1)
        refused = pytest.raises(
            ModelLoadError, match="the label next is for version 2, which is not available"
        )
        with contextlib.nullcontext() if may_wait else refused:
            async with keeping(
                folder_of(tmp_path, labels={"next": 2}), labels_may_wait=may_wait
            ) as dataplane:
                with pytest.raises(UnknownLabel):
                    dataplane.model("m", "next")
                write(tmp_path, 2)
                await until(lambda: served(dataplane) == 2, "version 2")
                assert dataplane.model("m", "next").version == 2

    run(main)


def test_where_the_newest_cannot_be_loaded_at_the_start_the_one_before_is_served(tmp_path, caplog):
    async def main():
        write(tmp_path, 1)
        write(tmp_path, 2, "bad")
        async with keeping(folder_of(tmp_path)) as dataplane:
            assert states(dataplane) == {2: State.END, 1: State.AVAILABLE}
            assert "version 1 is served, since none that is newer can be" in caplog.text
            write(tmp_path, 2, "mended")
            await until(lambda: served(dataplane) == 2, "version 2")

    run(main)


@pytest.mark.parametrize("policy", [VersionPolicy(specific=frozenset((2,))), VersionPolicy(everything=True)])
def test_a_version_that_was_named_has_no_substitute(tmp_path, policy):
    async def main():
        write(tmp_path, 2, "bad")
        if policy.specific:
            write(tmp_path, 1)
        with pytest.raises(ModelLoadError, match="model m version 2: weights are bad"):
            async with keeping(folder_of(tmp_path, policy=policy)):
                pass

    run(main)


def test_an_empty_folder_may_be_waited_for(tmp_path):
    async def main():
        async with keeping(folder_of(tmp_path, may_be_empty=True)) as dataplane:
            assert not dataplane.repository.get_model("m").ready
            write(tmp_path, 1)
            await until(lambda: dataplane.repository.get_model("m").ready, "version 1")

    run(main)


def test_without_polling_nothing_changes(tmp_path):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path), poll_s=0) as dataplane:
            write(tmp_path, 2)
            await asyncio.sleep(0.1)
            assert served(dataplane) == 1

    run(main)


def test_a_version_is_available_when_every_worker_has_it(tmp_path):
    async def main():
        write(tmp_path, 1)
        board = ModelBoard(2)
        async with keeping(folder_of(tmp_path), board=board) as one:
            async with keeping(folder_of(tmp_path), board=board, number=1, poll_s=0) as other:
                write(tmp_path, 2)
                await until(lambda: served(one) == 2, "version 2")
                assert states(one) == states(other)
                assert states(one)[2] is State.START
            await until(lambda: states(one) == {2: State.AVAILABLE, 1: State.END}, "the other's end")

    run(main)


class Told:
    """A configuration: names of models, each with a version and, if it is not called so, its folder: as text,
    for instance ``m=1 n=2@other``."""

    poll_s = POLL_S

    def __init__(self, base):
        self.base = base
        self.text = None

    def changed(self):
        text, self.text = self.text, None
        return None if text is None else self.parsed(text)

    def parsed(self, text):
        if "?" in text:
            raise InvalidInput(f"no configuration: {text}")
        folders = []
        for pair in text.split():
            name, _, told = pair.partition("=")
            number, _, path = told.partition("@")
            policy = VersionPolicy(specific=frozenset((int(number),)))
            folders.append(folder_of(self.base / (path or name), name, policy=policy))
        return folders


@contextlib.asynccontextmanager
async def configured(base, *texts, board=None, number=0):
    told = Told(base)
    async with keeping(*told.parsed(texts[0]), board=board, number=number) as dataplane:
        dataplane.configurator = Configurator(told, dataplane.keeper, dataplane.publisher, board)
        dataplane.configurator.start()
        try:
            yield dataplane, told
        finally:
            await dataplane.configurator.close()


def available(dataplane):
    return {
        name: sorted(versions.models)
        for name, versions in dataplane.repository.versions.items()
        if versions.models
    }


def test_a_configuration_adds_changes_and_removes_models(tmp_path):
    async def main():
        for name in ("m", "n"):
            for number in (1, 2):
                write(tmp_path / name, number)
        async with configured(tmp_path, "m=1") as (dataplane, told):
            told.text = "m=2 n=1"
            await until(lambda: available(dataplane) == {"m": [2], "n": [1]}, "the new configuration")
            told.text = "n=1"
            await until(lambda: available(dataplane) == {"n": [1]}, "the end of m")
            assert list(dataplane.model_names()) == ["n"]
            await until(lambda: sorted(Weights.stopped) == [1, 2], "unloading")

    run(main)


def test_a_model_that_moves_to_another_folder_is_loaded_from_there(tmp_path):
    async def main():
        write(tmp_path / "m", 1, "old")
        write(tmp_path / "other", 1, "new")
        write(tmp_path / "bad", 1, "bad")
        async with configured(tmp_path, "m=1") as (dataplane, _):
            with pytest.raises(ModelLoadError, match="weights are bad"):
                await dataplane.reload("m=1@bad")
            assert (await dataplane.answer("m", {}))[0] == "old"
            await dataplane.reload("m=1@other")
            assert (await dataplane.answer("m", {}))[0] == "new"
            await until(lambda: Weights.stopped == [1], "the end of the old one")
            assert states(dataplane) == {1: State.AVAILABLE}
            assert (await dataplane.answer("m", {}))[0] == "new"

    run(main)


def test_a_wrong_configuration_changes_nothing(tmp_path, caplog):
    async def main():
        write(tmp_path / "m", 1)
        async with configured(tmp_path, "m=1") as (dataplane, told):
            told.text = "?"
            await until(
                lambda: "not, or not wholly, applied: no configuration: ?" in caplog.text, "the error"
            )
            with pytest.raises(InvalidInput, match="no configuration"):
                await dataplane.reload("??")
            assert available(dataplane) == {"m": [1]}

    run(main)


def test_a_model_of_a_configuration_that_cannot_be_loaded_leaves_the_others(tmp_path):
    async def main():
        write(tmp_path / "m", 1)
        write(tmp_path / "n", 1, "bad")
        async with configured(tmp_path, "m=1") as (dataplane, _):
            with pytest.raises(ModelLoadError, match="weights are bad"):
                await dataplane.reload("m=1 n=1")
            assert available(dataplane) == {"m": [1]}
            write(tmp_path / "n", 1, "good")
            await dataplane.reload("m=1 n=1")
            assert available(dataplane) == {"m": [1], "n": [1]}

    run(main)


def test_a_model_of_a_configuration_that_cannot_be_loaded_is_tried_again(tmp_path):
    async def main():
        write(tmp_path / "m", 1)
        write(tmp_path / "n", 1, "bad")
        async with configured(tmp_path, "m=1") as (dataplane, _):
            with pytest.raises(ModelLoadError, match="weights are bad"):
                await dataplane.reload("m=1 n=1")
            assert [status.state for status in dataplane.version_statuses("n")] == [State.END]
            with pytest.raises(ModelNotReady):
                dataplane.model("n")
            write(tmp_path / "n", 1, "mended")
            await until(lambda: available(dataplane) == {"m": [1], "n": [1]}, "n")

    run(main)


def test_a_worker_in_the_place_of_one_that_died_does_without_a_model_that_no_worker_has(tmp_path, caplog):
    async def main():
        write(tmp_path / "m", 1)
        write(tmp_path / "n", 1, "bad")
        folders = folder_of(tmp_path / "m"), folder_of(tmp_path / "n", "n")
        board = ModelBoard(2)
        with pytest.raises(ModelLoadError, match="weights are bad"):  # a server's start
            async with keeping(*folders, board=board):
                pass
        async with keeping(*folders, board=board) as dataplane:
            assert available(dataplane) == {"m": [1]}
            assert "Model n is not served, and tried again later" in caplog.text
            write(tmp_path / "n", 1, "mended")
            await until(lambda: available(dataplane) == {"m": [1], "n": [1]}, "n")
            write(tmp_path / "n", 1, "bad")
            with pytest.raises(ModelLoadError, match="weights are bad"):  # the other worker has it
                async with keeping(*folders, board=board, number=1):
                    pass

    run(main)


def test_a_client_that_reloads_reaches_all_workers(tmp_path):
    async def main():
        for number in (1, 2):
            write(tmp_path / "m", number)
        board = ModelBoard(2)
        async with (
            configured(tmp_path, "m=1", board=board) as (one, _),
            configured(tmp_path, "m=1", board=board, number=1) as (other, _),
        ):
            await one.reload("m=2")
            assert available(one) == available(other) == {"m": [2]}
            (tmp_path / "n").mkdir()
            with pytest.raises(ModelLoadError, match="none of the versions that are wanted is there"):
                await other.reload("m=2 n=1")
            assert available(one) == available(other) == {"m": [2]}

    run(main)


def test_without_a_configuration_there_is_nothing_to_reload(tmp_path):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path)) as dataplane:
            with pytest.raises(NotImplementedError, match="come from a program"):
                await dataplane.reload("m=1")

    run(main)


def test_what_a_load_finds_out_decides_where_calls_run(tmp_path):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path)) as dataplane:
            model = dataplane.model("m")
            loader = dataplane.keeper._loader
            assert not loader.threads[id(model)].inline
            model.never_waits = True
            await loader.load("m", model)
            assert loader.threads[id(model)].inline

    run(main)


def test_what_went_wrong_inside_is_logged_with_its_traceback(tmp_path, caplog):
    async def main():
        write(tmp_path, 1)
        async with keeping(folder_of(tmp_path)) as dataplane:
            (tmp_path / "2").mkdir()
            (tmp_path / "2" / "weights").mkdir()  # read_text raises IsADirectoryError
            with caplog.at_level(logging.ERROR):
                await until(lambda: "IsADirectoryError" in caplog.text, "the traceback")
            assert served(dataplane) == 1

    run(main)
