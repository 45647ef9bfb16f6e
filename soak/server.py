"""The user's models of the soak: one as it would be written, one that fails, and one that measures.

LEAK=N: every call keeps N bytes for ever, so that the measurement can be measured.
"""

import gc
import os
import sys

import modelserver

LEAK = int(os.environ.get("LEAK", "0"))
kept = []


class Echo(modelserver.Model):
    def predict(self, request):
        if LEAK:
            kept.append(bytes(LEAK - sys.getsizeof(b"")))
        return {"predictions": request["instances"]}


class Boom(modelserver.Model):
    def predict(self, request):
        raise RuntimeError("boom")


class Blocks(modelserver.Model):
    """How many pieces of memory Python has handed out in this process, which grows with the first leak.

    The resident memory grows only when the room is full that large requests have left behind.
    """

    async def predict(self, request):
        gc.collect()
        return {"predictions": [os.getpid(), sys.getallocatedblocks()]}


if __name__ == "__main__":
    models = [Echo("model"), Boom("boom"), Blocks("blocks")]
    for model in models:
        model.load()
    modelserver.ModelServer().start(models)
