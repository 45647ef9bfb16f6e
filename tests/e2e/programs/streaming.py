"""Models that answer piece by piece.

``instances`` are the items, by their names below. At ``wait NAME`` a model waits until the file NAME is in
the folder GATES. The log tells when a stream is closed.
"""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import tornado.httpserver

import modelserver


class Odd:
    """Has no JSON form."""


ITEMS = {
    "text": "a\nü",
    "empty": "",
    "bytes": b"raw\n",
    "no text": b"\xff\x00",
    "long": "x" * 100_000,
    "dict": {"row": 1},
    "list": [1, 2.5],
    "array": np.arange(3),
    "predictions": {"predictions": [[1], [2]]},
    "odd": Odd(),
    "none": None,
}
ERRORS = {
    "invalid": modelserver.InvalidInput("row 3 is too long"),
    "value": ValueError("in the middle"),
    "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError(),
    "unready": modelserver.ModelNotReady("m"),
}


def rows_of(payload):
    if isinstance(payload, modelserver.InferRequest):
        return payload.inputs[0].as_string()
    return payload["instances"]


def item_of(row):
    if row in ERRORS:
        raise ERRORS[row]
    if row == "tensors":
        output = modelserver.InferOutput("y", [2], "INT64", np.arange(2))
        return modelserver.InferResponse("7", "named", [output], use_binary_outputs=True)
    return ITEMS.get(row, row)


def is_open(row):
    return Path(os.environ["GATES"], row.removeprefix("wait ")).exists()


class Asynchronous(modelserver.Model):
    async def predict(self, payload):
        try:
            for row in rows_of(payload):
                if row.startswith("wait"):
                    while not is_open(row):
                        await asyncio.sleep(0.005)
                else:
                    yield item_of(row)
        finally:
            print(f"closed {self.name} {rows_of(payload)}", flush=True)
            await asyncio.sleep(0.02)
            print(f"tidied {self.name} {rows_of(payload)}", flush=True)


class Plain(modelserver.Model):
    def predict(self, payload):
        try:
            for row in rows_of(payload):
                if row.startswith("wait"):
                    print(f"{self.name} is at {row}", flush=True)
                    while not is_open(row):
                        time.sleep(0.005)
                else:
                    yield item_of(row)
        finally:
            where = threading.current_thread().name
            print(f"closed {self.name} {rows_of(payload)} in {where}", flush=True)

    def explain(self, payload):
        return map(item_of, payload["instances"])


class Items:
    def __init__(self, rows):
        self.rows = iter(rows)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for row in self.rows:
            return item_of(row)
        raise StopAsyncIteration


class Returned(modelserver.Model):
    """An object of the model's own with ``__aiter__``, returned by an ``async def``."""

    async def predict(self, payload):
        await asyncio.sleep(0)
        return Items(rows_of(payload))


class Headed(modelserver.Model):
    def predict(self, payload, headers, response_headers):
        response_headers["x-item"] = "none"
        response_headers["content-length"] = "1"
        response_headers["transfer-encoding"] = "identity"
        if "x-type" in headers:
            response_headers["Content-Type"] = headers["x-type"]
        for row in payload["instances"]:
            response_headers["x-item"] = row
            yield item_of(row)


class Broken(modelserver.Model):
    def predict(self, payload, headers, response_headers):
        response_headers["x-item"] = "two\r\nlines"
        yield "text"


class Rewritten(Plain):
    async def postprocess(self, items):
        async for item in items:
            yield f"<{item}>"


class Joining(modelserver.Model):
    max_batch_size = 8

    def predict(self, payload):
        yield from payload["instances"]


class Shared(modelserver.Model):
    max_batch_size = 8

    def predict(self, payload):
        return iter(payload["instances"])


class Large(modelserver.Model):
    """A mebibyte for each item; explains how many it was asked for."""

    given = 0

    async def predict(self, payload):
        Large.given = 0
        for _ in range(payload["instances"][0]):
            Large.given += 1
            yield bytes(2**20)

    async def explain(self, payload):
        return {"given": Large.given}


class Restless(modelserver.Model):
    """Never waits, and never ends."""

    async def predict(self, payload):
        try:
            while True:
                yield "x"
        finally:
            print(f"closed restless {payload['instances']}", flush=True)


class Stubborn(modelserver.Model):
    """Goes on when it is told to stop."""

    async def predict(self, payload):
        (gate,) = payload["instances"]
        while not is_open(gate):
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                print(f"{gate} was told", flush=True)
        try:
            yield "first"
            print(f"{gate} was asked for more", flush=True)
        finally:
            print(f"{gate} was closed", flush=True)


class Untidy(modelserver.Model):
    """Fails when it is closed: where it waits, or where it yields."""

    async def predict(self, payload):
        try:
            yield "first"
            while True:
                if payload["instances"]:
                    await asyncio.sleep(60)
                yield "more"
        finally:
            raise ValueError("cannot tidy up")


class Echo(modelserver.Model):
    def predict(self, payload):
        return {"predictions": rows_of(payload)}


KINDS = (Asynchronous, Plain, Returned, Headed, Broken, Rewritten, Joining, Shared, Large, Restless, Stubborn)
MODELS = [kind(kind.__name__.lower()) for kind in (*KINDS, Untidy, Echo)]


async def on_tornado():
    """Serve on tornado's own server."""
    server = modelserver.ModelServer(0, access_log=False)
    for model in MODELS:
        model.load()
        server.register_model(model)
    http_server = tornado.httpserver.HTTPServer(server.create_application())
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    http_server.add_sockets(sockets)
    print(f"Listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if "--on_tornado" in sys.argv:
        asyncio.run(on_tornado())
    else:
        modelserver.ModelServer().start(MODELS)
