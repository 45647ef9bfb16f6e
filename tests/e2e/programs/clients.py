"""Models for this package's own clients, each answering what it is asked by any protocol."""

import asyncio

import numpy as np

import modelserver
from modelserver import InferOutput, InferResponse


class Sums(modelserver.Model):
    """A V1 model of rows of three numbers, which V2 clients ask as well."""

    instances_dtype = "float32"

    def get_input_types(self):
        return [{"name": "rows", "datatype": "FP32", "shape": [-1, 3]}]

    def get_output_types(self):
        return [{"name": "sums", "datatype": "FP32", "shape": [-1]}]

    def predict(self, payload):
        return {"predictions": np.asarray(payload["instances"]).sum(axis=1)}

    def explain(self, payload):
        return {"explanations": [len(payload["instances"])]}


class Echo(modelserver.Model):
    """KServe's style: an ``InferRequest`` in, its inputs back. Over V1 the instances."""

    def predict(self, payload, headers=None):
        if isinstance(payload, dict):
            return {"predictions": payload["instances"]}
        outputs = [
            InferOutput(each.name, each.shape, each.datatype, data=each.as_numpy()) for each in payload.inputs
        ]
        said = {"tenant": headers.get("x-tenant", ""), "n": (payload.parameters or {}).get("n", 0)}
        return InferResponse(payload.id, self.name, outputs, parameters=said)


class Busy(modelserver.Model):
    """Refuses each number once, and then gives it back."""

    def load(self):
        self.seen = set()
        self.ready = True

    def predict(self, payload):
        is_v1 = isinstance(payload, dict)
        array = np.asarray(payload["instances"]) if is_v1 else payload.inputs[0].as_numpy()
        number = float(array.flat[0])
        if number not in self.seen:
            self.seen.add(number)
            raise modelserver.errors.ModelOverloaded(7, retry_after_s=1)
        if is_v1:
            return {"predictions": array}
        output = InferOutput("out", array.shape, "FP32", data=array)
        return InferResponse(payload.id, self.name, [output])


class Slow(modelserver.Model):
    """Takes five seconds."""

    async def predict(self, payload):
        await asyncio.sleep(5)
        return {"predictions": [1]}


class Asleep(modelserver.Model):
    """Never gets ready: load() forgets to say so."""

    def load(self):
        return None


if __name__ == "__main__":
    models = [Sums("sums"), Echo("echo"), Busy("busy"), Slow("slow")]
    for model in models:
        model.load()
    modelserver.ModelServer().start([*models, Asleep("asleep")])
