"""Models behind V2's gRPC service, one for each thing that a call may end with. FOLDER is where they tell."""

import asyncio
import os
from pathlib import Path

import numpy as np

from modelserver import InferOutput, InferResponse, InvalidInput, Model, ModelServer

FOLDER = Path(os.environ.get("FOLDER", "."))


class Echo(Model):
    """Every input again, and as parameters what came beside."""

    def predict(self, payload, headers):
        outputs = [
            InferOutput(each.name, each.shape, each.datatype, each.as_numpy()) for each in payload.inputs
        ]
        told = {
            "tenant": headers.get("x-tenant", ""),
            "headers": " ".join(sorted(headers)),
            "id": headers["x-request-id"],
            "pid": os.getpid(),
        }
        return InferResponse(
            payload.id, self.name, outputs, parameters={**(payload.parameters or {}), **told}
        )


class Rows(Model):
    """Rows of numbers, as V1's, with names."""

    instances_dtype = "float32"

    def get_input_types(self):
        return [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}]

    def get_output_types(self):
        return [{"name": "sums", "datatype": "FP32", "shape": [-1]}]

    def predict(self, payload):
        return {"predictions": payload["instances"].sum(axis=1)}


class Half(Model):
    """Answers in FP16, which has no list in a message."""

    def predict(self, payload):
        return InferResponse(payload.id, self.name, [InferOutput("half", [2], "FP16", np.float16([0.5, 1]))])


class Message(Model):
    """Makes the message itself."""

    def predict(self, payload):
        output = InferOutput("y", [1], "INT32", [len(payload.inputs)])
        return InferResponse("own id", self.name, [output]).to_grpc()


class Failing(Model):
    """Ends as its first input is called."""

    def predict(self, payload):
        kind = payload.inputs[0].name
        if kind == "text":
            return "no tensors"
        if kind == "large":
            return InferResponse(
                payload.id, self.name, [InferOutput("y", [400_000], "FP32", np.zeros(400_000))]
            )
        raise {
            "input": InvalidInput("row 3 is too long"),
            "value": ValueError("cannot read /srv/secret/weights.pt"),
            "later": NotImplementedError("later"),
        }[kind]


class Stream(Model):
    """Answers piece by piece, and tells when it is closed."""

    async def predict(self, payload):
        async def pieces():
            try:
                yield "a"
            finally:
                (FOLDER / "closed").touch()

        items = pieces()
        await anext(items)  # a generator that never began has nothing to close
        return items


class PlainStream(Model):
    """The same without async."""

    def predict(self, payload):
        def pieces():
            try:
                yield "a"
            finally:
                (FOLDER / "closed").touch()

        items = pieces()
        next(items)
        return items


class Wait(Model):
    """Answers when there is a file called `go`, and tells how many calls it has and which were dropped."""

    calls = 0

    async def predict(self, payload):
        Wait.calls += 1
        (FOLDER / f"calls-{os.getpid()}-{Wait.calls}").touch()
        try:
            while not (FOLDER / "go").exists():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            (FOLDER / "dropped").touch()
            raise
        return InferResponse(payload.id, self.name, [InferOutput("y", [1], "BOOL", [True])])


class NotReady(Model):
    """Never gets ready: load() forgets to say so."""

    def load(self):
        return None


class Loaded(Echo):
    """Is loaded by the server, and again when an administrator asks."""

    def load(self):
        self.ready = True
        return True


if __name__ == "__main__":
    models = [
        Echo("echo"),
        Rows("rows"),
        Half("half"),
        Message("message"),
        Failing("failing"),
        Stream("stream"),
        PlainStream("plain-stream"),
        Wait("wait"),
    ]
    for model in models:
        model.ready = True
    if "ONLY_READY" not in os.environ:
        models.append(NotReady("not-ready"))
    ModelServer(grpc_port=0).start([*models, Loaded("loaded")])
