"""One model whose hooks do what the environment says, for the tests of the server's life."""

import asyncio
import os
import signal
import time
import uuid
from pathlib import Path

import modelserver as kserve

LOAD = os.environ.get("LOAD", "before")
STOPPED = os.environ.get("STOPPED")


class Worker(kserve.Model):
    def load(self):
        if LOAD == "slow":
            time.sleep(float(os.environ.get("LOAD_S", "20")))
        if LOAD == "raises":
            raise RuntimeError("weights are missing")
        if LOAD == "dies":
            os._exit(9)
        self.ready = LOAD != "never"
        return self.ready

    def predict(self, request):
        action, *rest = request["instances"]
        if action == "sleep" and "BEGUN" in os.environ:
            Path(os.environ["BEGUN"], f"begun-{os.getpid()}-{uuid.uuid4()}").touch()
        if action == "sleep":
            time.sleep(rest[0])
        elif action == "exit":
            os._exit(rest[0])
        elif action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"predictions": [action], "pid": os.getpid()}

    def stop(self):
        if STOPPED:
            with Path(STOPPED).open("a") as file:
                file.write(f"{os.getpid()}\n")


class AsyncWorker(Worker):
    async def load(self):
        await asyncio.sleep(0)
        return super().load()


if __name__ == "__main__":
    worker_class = AsyncWorker if os.environ.get("ASYNC") else Worker
    model = worker_class("model")
    if LOAD == "before":
        model.load()
    models = [model]
    if os.environ.get("SECOND"):
        models.append(Worker("second"))
    kserve.ModelServer().start(models)
