"""What hostile requests are sent to: a model of each kind, and pages of the user's own.

``python hostile.py --workers 2 --timeout_read 1 ...``: flags are the server's own.
"""

import asyncio

import tornado.web

import modelserver


class Echo(modelserver.Model):
    def predict(self, request):
        return {"predictions": request["instances"]}


class Anything(modelserver.Model):
    """Says what kind of body it got; the log tells that it was called."""

    def predict(self, body):
        print("predicted", flush=True)
        return {"type": type(body).__name__, "size": len(body)}


class Late(modelserver.Model):
    """Answers after the seconds that are asked for."""

    async def predict(self, request):
        await asyncio.sleep(request["seconds"])
        return {"predictions": request["instances"]}


class Doubled(modelserver.Model):
    """Takes several requests at once, and fails with all of them if one row is below zero."""

    max_batch_size = 64
    max_latency_ms = 200

    def predict(self, request):
        print("rows", len(request["instances"]), flush=True)
        return {"predictions": [2 * row if row >= 0 else 1 // 0 for row in request["instances"]]}


class Numbers(modelserver.Model):
    """Rows of numbers as one array."""

    instances_dtype = "float32"

    def preprocess(self, body):
        if not isinstance(body, dict):
            raise modelserver.InvalidInput("Expected JSON")
        return body

    def predict(self, request):
        return {"predictions": request["instances"] * 2}


class Stream(tornado.web.RequestHandler):
    """A page of the user's own that fails in the middle of its answer."""

    async def get(self, how):
        if how == "counted":
            self.set_header("Content-Length", "1000")
        for number in range(5):
            self.write(f"piece {number};")
            await self.flush()
        if how != "whole":
            raise ValueError("failed in the middle")


class Form(tornado.web.RequestHandler):
    """A page of the user's own that takes a form, which tornado reads."""

    def post(self):
        self.write(self.get_argument("a"))


class Server(modelserver.ModelServer):
    def create_application(self):
        application = super().create_application()
        application.add_handlers(".*", [(r"/stream/(\w+)", Stream), ("/form", Form)])
        return application


if __name__ == "__main__":
    Server().start([Echo("echo"), Anything("anything"), Doubled("doubled"), Numbers("numbers"), Late("late")])
