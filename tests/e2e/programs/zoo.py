"""A server with one model for each way of answering, written as a user would write it."""

import asyncio
import datetime
import threading
import time

import numpy as np
import tornado.web

import modelserver as kserve


class Echo(kserve.Model):
    """KServe 0.8 style: one argument."""

    def predict(self, request):
        return {"predictions": request["instances"]}

    def explain(self, request):
        return {"explanations": [len(request["instances"])]}


class Headers(kserve.Model):
    """KServe 0.21 style: headers in and out."""

    async def preprocess(self, payload, headers=None):
        return {"instances": payload["instances"], "agent": headers.get("x-agent")}

    async def predict(self, payload, headers=None, response_headers=None):
        response_headers.update({"x-rows": str(len(payload["instances"]))})
        return {"predictions": [payload["agent"]]}


class Body(kserve.Model):
    """Says what kind of body reached preprocess."""

    def preprocess(self, body):
        return body

    def predict(self, body):
        return {"type": type(body).__name__, "size": len(body)}


class Typed(kserve.Model):
    """Returns what its request names."""

    def predict(self, request):
        return {
            "numpy": {"predictions": np.array([[0.1, 0.2]], np.float32), "count": np.int64(2)},
            "datetime": {"at": datetime.datetime(2020, 1, 2)},
            "list": [1, 2],
            "text": "plain",
            "bytes": b"\x00\x01",
            "nan": {"predictions": [float("nan")]},
            "none": None,
            "set": {"predictions": {1, 2}},
        }[request["instances"][0]]


class Raises(kserve.Model):
    """Raises what its request names."""

    def predict(self, request):
        raise {
            "value": ValueError("bad value"),
            "invalid": kserve.InvalidInput("row 3 is too long"),
            "http": tornado.web.HTTPError(422, reason="too few rows"),
            "not_ready": kserve.ModelNotReady("other"),
            "inference": kserve.InferenceError("it broke"),
            "protocol": kserve.UnsupportedProtocol("v9"),
            "not_implemented": NotImplementedError("later"),
            "file": FileNotFoundError(2, "No such file or directory", "/secret/path"),
            "exit": SystemExit(3),
            "interrupt": KeyboardInterrupt(),
            "cancelled": asyncio.CancelledError(),
            "base": BaseException("odd"),
            "newline": ValueError("two\r\nlines: x"),
        }[request["instances"][0]]


class BadHeader(kserve.Model):
    def predict(self, payload, headers, response_headers):
        response_headers["x-bad"] = "a\r\nx-injected: 1"
        return {}


class Slow(kserve.Model):
    """Blocks its thread for the seconds that are asked for."""

    def predict(self, request):
        time.sleep(request["instances"][0])
        return {"predictions": [threading.current_thread().name]}


class NotReady(kserve.Model):
    """Never gets ready: load() forgets to say so."""

    def load(self):
        return None


if __name__ == "__main__":
    ready = [
        Echo("echo"),
        Headers("headers"),
        Body("body"),
        Typed("typed"),
        Raises("raises"),
        BadHeader("bad-header"),
        Slow("slow"),
        Echo("no-predict-überraschung"),
    ]
    for model in ready:
        model.load()
    kserve.ModelServer().start([*ready, NotReady("not-ready"), kserve.Model("bare")])
