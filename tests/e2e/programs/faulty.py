"""Two models that fail as the request says: tests of workers, deadlines, overload and shutting down."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import modelserver

CALLS = Path(os.environ.get("CALLS", os.devnull))
LOAD = os.environ.get("LOAD", "")


def noted(what):
    """Say in the file CALLS that a call has begun."""
    with CALLS.open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


class Faulty(modelserver.Model):
    def load(self):
        if LOAD == "dies":
            noted("load")
            os._exit(1)
        self.ready = True
        return True

    def predict(self, payload):
        action, *rest = payload["instances"]
        noted(action)
        if action == "sleep":
            time.sleep(rest[0])
        elif action == "spin":
            while True:
                pass
        elif action == "exit":
            os._exit(0)
        elif action == "segfault":
            ctypes.string_at(0)
        elif action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "allocate":
            bytearray(rest[0])
        elif action == "sys.exit":
            sys.exit(1)
        return {"predictions": [action], "pid": os.getpid()}


class OnLoop(modelserver.Model):
    """Its hooks run on the event loop."""

    async def predict(self, payload):
        action, *rest = payload["instances"]
        noted(action)
        if action == "sleep":
            await asyncio.sleep(rest[0])
        elif action == "spin":
            while True:
                pass
        return {"predictions": [action], "pid": os.getpid()}


if __name__ == "__main__":
    model, on_loop = Faulty("model"), OnLoop("on_loop")
    if LOAD != "dies":
        model.load()
    on_loop.load()
    modelserver.ModelServer().start([model, on_loop])
