"""Workers that are all in one process, on one event loop, as ``serving`` composes them."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

from modelserver.dataplane import DataPlane
from modelserver.errors import ModelLoadError
from modelserver.lifecycle import Lifecycle
from modelserver.loading import Loader
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import ModelFolder
from modelserver.serving import Service, _Keepers
from modelserver.settings import Settings

POLL_S = 0.01


class Told(Model):
    """Does as it is told, and notes what is asked of it.

    Args:
        name: of the model.
        does: what ``load`` does, in order; then the last again: ``ok``, ``not ready``, a text to raise, or an
            event to wait for.
    """

    def __init__(self, name, *does):
        super().__init__(name)
        self.does = list(does) or ["ok"]
        self.calls = []
        self.hold = threading.Event()
        self.hold.set()
        self.is_well = True

    def load(self):
        self.calls.append("load")
        does = self.does.pop(0) if len(self.does) > 1 else self.does[0]
        if isinstance(does, threading.Event):
            assert does.wait(20)
        elif does == "not ready":
            return False
        elif does != "ok":
            raise ModelLoadError(does)
        return True

    def predict(self, payload):
        self.hold.wait(20)
        assert self.calls[-1] == "load", "it was stopped before"
        return self.calls.count("load")

    def stop(self):
        self.calls.append("stop")

    def healthy(self):
        return self.ready and self.is_well


@contextlib.asynccontextmanager
async def worker(*models, repository=None, board=None, number=0, workers=2, within_s=20, inherited=()):
    """One worker, as ``serving`` composes it; all of a test's are in one process.

    Args:
        inherited: names of models that are loaded already.
    """
    repository = ModelRepository() if repository is None else repository
    for model in models:
        if isinstance(model, ModelFolder):
            repository.add_folder(model)
        else:
            repository.update(model)
    for name in inherited:
        repository.models[name].load()
        repository.models[name].ready = True
    settings = Settings(
        workers=1 if board is None else workers, timeout=20, file_system_poll_wait_seconds=POLL_S
    )
    metrics = Metrics()
    dataplane = DataPlane(repository, Lifecycle(), metrics=metrics, timeout_s=20)
    service = Service(
        settings,
        repository,
        dataplane.lifecycle,
        SimpleNamespace(dataplane=dataplane),
        [],
        announce=False,
        metrics=metrics,
        board=board,
        number=number,
    )
    loader = Loader(metrics=metrics)
    keepers = _Keepers.of(service, loader)
    keepers.administrator._within_s = within_s
    dataplane.keepers = keepers  # for the tests
    try:
        keepers.prepare(repository)
        for name, model in repository.all_models():
            loader.attach(name, model)
        await service._load(loader, keepers, lambda: None)
        yield dataplane
    finally:
        await keepers.close()
        loader.close()


async def until(condition, what):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 20 s: {what}")


async def answer(dataplane, name="m", **options):
    return (await dataplane.answer(name, {}, **options))[0]


def run(main):
    asyncio.run(main())
