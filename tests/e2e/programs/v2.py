"""A model for each thing that a V2 client may ask about, with names that a URL must encode.

With ``ONLY_READY`` in the environment, those that can answer.
"""

import os

import numpy as np

import modelserver
from modelserver import InferOutput, InferResponse


class Echo(modelserver.Model):
    """Says nothing of what it takes; gives every input and the request's parameters back. V1's as well."""

    def predict(self, payload):
        if isinstance(payload, dict):
            return {"predictions": payload.get("instances", [])}
        if isinstance(payload, bytes):
            return payload
        outputs = [
            InferOutput(each.name, list(each.shape), each.datatype, data=each.as_numpy())
            for each in payload.inputs
        ]
        parameters = {name: each for name, each in (payload.parameters or {}).items() if "binary" not in name}
        return InferResponse(payload.id, self.name, outputs, parameters=parameters)


class AddSub(modelserver.Model):
    """Two inputs and two outputs, described as KServe 0.21 has it: by coroutines."""

    platform = "numpy"

    async def get_input_types(self):
        return [{"name": name, "datatype": "INT32", "shape": [-1]} for name in ("a", "b")]

    async def get_output_types(self):
        return [{"name": name, "datatype": "INT32", "shape": [-1]} for name in ("sum", "difference")]

    def predict(self, payload):
        first, second = (payload.get_input_by_name(name).as_numpy() for name in ("a", "b"))
        arrays = {"sum": first + second, "difference": first - second}
        outputs = [InferOutput(name, each.shape, "INT32", data=each) for name, each in arrays.items()]
        return InferResponse(payload.id, self.name, outputs)


class Rows(modelserver.Model):
    """Rows of four numbers, for V1 and V2 alike."""

    instances_dtype = "float32"

    def get_input_types(self):
        return [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}]

    def get_output_types(self):
        return [{"name": "sums", "datatype": "FP32", "shape": [-1]}]

    def predict(self, payload):
        return {"predictions": payload["instances"].sum(axis=1)}


class Shapes(Echo):
    """Describes its tensors by what numpy says of them."""

    def get_input_types(self):
        return ({"name": "x", "datatype": "FP32", "shape": np.array([-1, 4])},)

    def get_output_types(self):
        return ({"name": "y", "datatype": "FP32", "shape": (np.int64(-1),)},)


class Puzzled(Echo):
    """Fails when it is asked what it takes."""

    def get_input_types(self):
        raise ValueError("who knows")


class NotReady(modelserver.Model):
    """Never gets ready: load() forgets to say so."""

    def load(self):
        return None


NAMES = ("a.b-c_d", "two words", "überraschung", "with:colon", "100%25", "versions", "ready", "infer")

if __name__ == "__main__":
    models = [
        Echo("echo"),
        AddSub("addsub"),
        Rows("rows"),
        Shapes("shapes"),
        Puzzled("puzzled"),
        *map(Echo, NAMES),
    ]
    for model in models:
        model.load()
    if "ONLY_READY" not in os.environ:
        models += [NotReady("not-ready"), modelserver.Model("bare")]
    modelserver.ModelServer().start(models)
