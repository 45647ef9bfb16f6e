"""Models that are asked by the Open Inference Protocol: what they get is seen in what they answer."""

import threading

import numpy as np

from modelserver import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Echo(Model):
    """Answers each input as an output, and says how its array lies in memory."""

    def predict(self, payload, headers, response_headers):
        assert isinstance(payload, InferRequest)
        outputs = []
        for tensor in payload.inputs:
            array = tensor.as_numpy()
            outputs.append(InferOutput(f"{tensor.name}_out", array.shape, tensor.datatype, array))
        if "x-tag" in headers:
            response_headers["x-tag"] = headers["x-tag"]
        flags = payload.inputs[0].as_numpy().flags
        parameters = {"writeable": bool(flags.writeable), "aligned": bool(flags.aligned)}
        return InferResponse(payload.id, self.name, outputs, parameters=parameters)


class Sum(Model):
    """A small answer to any array."""

    def predict(self, payload):
        return {"predictions": [float(tensor.as_numpy().sum()) for tensor in payload.inputs]}


class Rows(Model):
    """Says how many rows shared its call. While it is held, requests wait for it."""

    instances_dtype = "float32"
    max_batch_size = 64
    gate = threading.Event()

    def predict(self, payload):
        rows = payload["instances"]
        if rows[0, 0] < 0:
            self.gate.wait(60)
        return {
            "predictions": np.stack([rows.sum(axis=1), np.full(len(rows), len(rows), np.float32)], axis=1)
        }


class Joined(Model):
    """Takes InferRequests, several at once."""

    max_batch_size = 64
    gate = threading.Event()

    def predict(self, payload):
        array = payload.inputs[0].as_numpy()
        if array[0, 0] < 0:
            self.gate.wait(60)
        return InferResponse(
            payload.id,
            self.name,
            [InferOutput("rows", [len(array)], "INT64", np.full(len(array), len(array), np.int64))],
        )


class Release(Model):
    """Lets the requests that are held go on."""

    async def predict(self, payload):
        for model in (Rows, Joined):
            if model.__name__.lower() in payload["instances"]:
                model.gate.set()
        return {}


if __name__ == "__main__":
    ModelServer(http_port=0, workers=1, max_buffer_size=256 << 20).start(
        [Echo("echo"), Sum("sum"), Rows("rows"), Joined("joined"), Release("release")]
    )
