"""Models that say which process answers; one of them blocks the event loop.

LAUNCH=rerun: as if a runtime were initialised here that survives no fork. SLOW=FILE: where this file is, the
models take two seconds to load.
"""

import os
import time
from pathlib import Path

import modelserver
from modelserver import launching

if os.environ.get("LAUNCH") == "rerun":
    launching.unforkable_runtime = lambda: "A runtime"


class Who(modelserver.Model):
    def load(self):
        if Path(os.environ.get("SLOW", "no such file")).exists():
            time.sleep(2)
        self.ready = True

    def predict(self, request):
        return {"predictions": [os.getpid()]}


class BlocksTheLoop(Who):
    """Wrong: an ``async def`` hook that sleeps without ``await``."""

    async def predict(self, request):
        time.sleep(request["instances"][0])
        return {"predictions": [os.getpid()]}


if __name__ == "__main__":
    modelserver.ModelServer().start([Who("who"), BlocksTheLoop("blocks")])
