"""Models whose requests say how they go, for the tests of metrics.

BROKEN=FILE: ``flaky`` cannot be loaded while the file is there. GATE=FILE: ``gate`` waits until it is.
"""

import os
import time
from pathlib import Path

import modelserver


class Hooks(modelserver.Model):
    """All of the hooks."""

    def preprocess(self, payload):
        return payload

    def predict(self, payload):
        return {"predictions": payload["instances"], "pid": os.getpid()}

    def explain(self, payload):
        return {"explanations": []}

    async def postprocess(self, response):
        return response


class Gate(modelserver.Model):
    def predict(self, payload):
        while not Path(os.environ["GATE"]).exists():
            time.sleep(0.005)
        return {"predictions": payload["instances"]}


class Joined(Gate):
    """Requests that wait are joined."""

    max_batch_size = 64


class Flaky(modelserver.Model):
    def load(self):
        if Path(os.environ["BROKEN"]).exists():
            raise ConnectionRefusedError(111, "Connection refused", "/secret/place")
        self.ready = True
        return True


if __name__ == "__main__":
    models = [Hooks("hooks"), Gate("gate"), Joined("joined"), Flaky("flaky")]
    for model in models[:-1]:
        model.load()
    modelserver.ModelServer().start(models)
