"""Models for faults that last: few descriptors, clients that leave, a clock that jumps.

DESCRIPTORS=N: the process and its workers may have so many. NO_UVLOOP=1: as where it is not installed.
CALLS=FILE: each call of ``gate`` adds a line, and waits until FILE.open is there.
"""

import asyncio
import gc
import os
import resource
import sys
import time
from pathlib import Path
from typing import ClassVar

if os.environ.get("NO_UVLOOP"):
    sys.modules["uvloop"] = None

import modelserver


class Echo(modelserver.Model):
    def predict(self, request):
        return {"predictions": request["instances"]}


class Who(modelserver.Model):
    def predict(self, request):
        return {"predictions": [os.getpid()]}


class Gate(modelserver.Model):
    def predict(self, request):
        calls = Path(os.environ["CALLS"])
        with calls.open("a") as file:
            file.write(f"{request['instances'][0]}\n")
        while not calls.with_suffix(".open").exists():
            time.sleep(0.005)
        return {"predictions": request["instances"]}


class Inside(modelserver.Model):
    """What the process has in it."""

    async def predict(self, request):
        gc.collect()
        return {
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        }


class Hog(modelserver.Model):
    """Takes every descriptor there is, or gives them back."""

    held: ClassVar[list[int]] = []

    def predict(self, request):
        try:
            while request["instances"] == ["take"]:
                self.held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return {"predictions": [error.strerror]}
        while self.held:
            os.close(self.held.pop())
        return {"predictions": []}


class Clock(modelserver.Model):
    """Moves the clock of this process by so many seconds, as far as ``time.time`` tells it."""

    def predict(self, request):
        now, offset = time.time, request["instances"][0]
        time.time = lambda: now() + offset
        return {"predictions": [time.time()]}


if __name__ == "__main__":
    if "DESCRIPTORS" in os.environ:
        most = int(os.environ["DESCRIPTORS"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    models = [
        Echo("echo"),
        Who("who"),
        Gate("gate"),
        Inside("inside"),
        Hog("hog"),
        Clock("clock"),
    ]
    for model in models:
        model.load()
    modelserver.ModelServer().start(models)
