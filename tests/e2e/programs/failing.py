"""Models that fail, and that answer with junk, in each of the ways a hook can be run."""

import asyncio
import collections
import datetime
import os
import resource
import sys
from pathlib import Path

import numpy as np

import modelserver as kserve


class Silent(Exception):
    """Cannot say what it is."""

    def __str__(self):
        raise RuntimeError("no text")


class NoReason(kserve.ModelServerError):
    status = 422

    @property
    def reason(self):
        raise RuntimeError("no reason")


class NoStatus(kserve.ModelServerError):
    status = "none"


class Empty(kserve.ModelServerError):
    status = 204


class Exits(BaseException):
    """No Exception."""


class Thing:
    """Has no JSON form."""


def leak():
    raise RuntimeError(f"cannot use {Path(__file__).resolve()} with {Thing()!r} and {'/srv/a b/w.pt'!r}")


def endless(text):
    return endless(text)


def cyclic():
    answer = {"predictions": []}
    answer["predictions"].append(answer)
    return answer


def cyclic_array():
    rows = np.empty(1, object)
    rows[0] = rows
    return {"predictions": rows}


class Listed:
    """Its tolist() raises what is asked for."""

    def __init__(self, error):
        self.error = error

    def tolist(self):
        raise self.error


def deep(levels):
    answer = []
    for _ in range(levels):
        answer = [answer]
    return {"predictions": answer}


def raising(error):
    def action(text):
        raise error(text) if text else error

    return action


ACTIONS = {
    "echo": lambda text: {"predictions": [text]},
    "invalid": raising(kserve.InvalidInput),
    "value": raising(ValueError),
    "silent": lambda text: raising(Silent)(""),
    "no_reason": raising(NoReason),
    "no_status": raising(NoStatus),
    "empty": raising(Empty),
    "memory": lambda text: bytearray(2**62),
    "array_memory": lambda text: np.zeros(2**50),
    "exit": sys.exit,
    "interrupt": raising(KeyboardInterrupt),
    "cancelled": raising(asyncio.CancelledError),
    "generator": raising(GeneratorExit),
    "stop": raising(StopIteration),
    "base": raising(Exits),
    "recursion": endless,
    "assertion": raising(AssertionError),
    "timeout": raising(TimeoutError),
    "leak": lambda text: leak(),
    "missing": lambda text: Path("/srv/models/secret/weights.pt").read_bytes(),
    "none": lambda text: None,
    "number": lambda text: 7,
    "set": lambda text: {"predictions": {1, 2}},
    "only_a_set": lambda text: {1, 2},
    "object": lambda text: {"predictions": [Thing()]},
    "only_an_object": lambda text: Thing(),
    "class": lambda text: {"predictions": Thing},
    "complex": lambda text: {"predictions": [1j]},
    "nan": lambda text: {"predictions": [float("nan"), float("inf"), -float("inf")]},
    "nan_array": lambda text: {"predictions": np.array([np.nan, np.inf, 1.5])},
    "huge": lambda text: {"predictions": [2**70]},
    "cyclic": lambda text: cyclic(),
    "cyclic_array": lambda text: cyclic_array(),
    "deep": lambda text: deep(100_000),
    "surrogate": lambda text: {"predictions": ["\udc80"]},
    "surrogate_text": lambda text: "\udc80",
    "keys": lambda text: {"predictions": {(1, 2): 3}},
    "generated": lambda text: (number for number in range(3)),
    "bytes_inside": lambda text: {"predictions": [b"raw"]},
    "objects": lambda text: {"predictions": np.array([{1}, Thing()], object)},
    "list_value": lambda text: {"predictions": [Listed(ValueError("from tolist"))]},
    "list_exit": lambda text: {"predictions": [Listed(SystemExit(3))]},
    "ordered": lambda text: collections.OrderedDict(predictions=[datetime.date(2020, 1, 2)]),
    "big": lambda text: {"predictions": "x" * int(text)},
    "big_bytes": lambda text: bytes(int(text)),
    "big_list": lambda text: {"predictions": np.ones(int(text) // 8)},
}


def act(request):
    name, *rest = request["instances"]
    return ACTIONS[name](rest[0] if rest else "")


class Threaded(kserve.Model):
    """On the model's own thread."""

    def predict(self, request):
        return act(request)


class InPlace(Threaded):
    """On the event loop, once its calls have proven short."""

    never_waits = True


class Async(kserve.Model):
    """In a task."""

    async def predict(self, request):
        await asyncio.sleep(0)
        return act(request)


class Pre(kserve.Model):
    """Before and behind predict."""

    def preprocess(self, request):
        return act(request) if request["instances"][1:] == ["pre"] else request

    async def postprocess(self, request):
        return act(request)

    def predict(self, request):
        return request


class Joined(kserve.Model):
    """One call for several requests: the first instance of each says what it does."""

    max_batch_size = 8

    def predict(self, request):
        return {"predictions": [act({"instances": row})["predictions"] for row in request["instances"]]}


class Named(kserve.Model):
    """Says what it was told of the request's name."""

    def predict(self, request, headers):
        return {"predictions": [headers.get("x-request-id")]}


class Renamed(kserve.Model):
    """Answers with a name of its own."""

    def predict(self, request, headers, response_headers):
        response_headers["x-request-id"] = "from-the-model"
        return {"predictions": []}


class Unready(kserve.Model):
    def load(self):
        return False


if __name__ == "__main__":
    if "MOST_BYTES" in os.environ:
        resource.setrlimit(resource.RLIMIT_AS, 2 * (int(os.environ["MOST_BYTES"]),))
    models = [
        Threaded("threaded"),
        InPlace("in-place"),
        Async("async"),
        Pre("hooks"),
        Joined("joined"),
        Named("named"),
        Renamed("renamed"),
    ]
    for model in models:
        model.load()
    kserve.ModelServer().start([*models, Unready("unready")])
