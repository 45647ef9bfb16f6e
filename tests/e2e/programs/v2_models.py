"""Models for the real V2 clients: one for each thing that a model may take and return."""

import numpy as np

from modelserver import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InvalidInput,
    Model,
    ModelNotReady,
    ModelServer,
)


class Style(Model):
    """As in KServe: an InferRequest in, an InferResponse out. Says what came."""

    def predict(self, payload, headers=None):
        if isinstance(payload, dict):
            return {"predictions": [sum(row) for row in payload["instances"]]}
        assert isinstance(payload, InferRequest)
        (rows,) = payload.inputs
        assert isinstance(rows, InferInput)
        sums = rows.as_numpy().sum(axis=1)
        out = InferOutput("sums", list(sums.shape), "FP32")
        out.set_data_from_numpy(sums.astype(np.float32))
        tenant = (headers or {}).get("x-tenant", "")
        parameters = {"tenant": tenant, "from_grpc": payload.from_grpc, "rank": len(rows.shape)}
        return InferResponse(payload.id, self.name, [out], parameters=parameters)

    def explain(self, payload, headers=None):
        return {"explanations": [len(payload["instances"])]}


class AddSub(Model):
    """Two inputs and two outputs, described."""

    def get_input_types(self):
        return [{"name": name, "datatype": "INT32", "shape": [-1]} for name in ("INPUT0", "INPUT1")]

    def get_output_types(self):
        return [{"name": name, "datatype": "INT32", "shape": [-1]} for name in ("OUTPUT0", "OUTPUT1")]

    def predict(self, payload, headers=None):
        first = payload.get_input_by_name("INPUT0").as_numpy()
        second = payload.get_input_by_name("INPUT1").as_numpy()
        return InferResponse(
            payload.id,
            self.name,
            [
                InferOutput("OUTPUT0", list(first.shape), "INT32", data=first + second),
                InferOutput("OUTPUT1", list(first.shape), "INT32", data=first - second),
            ],
        )


class Echo(Model):
    """Every input again, of whatever datatype, and the parameters of the request."""

    def predict(self, payload, headers=None):
        outputs = [
            InferOutput(each.name, list(each.shape), each.datatype, data=each.as_numpy())
            for each in payload.inputs
        ]
        parameters = {
            name: value for name, value in (payload.parameters or {}).items() if name != "binary_data_output"
        }
        return InferResponse(payload.id, self.name, outputs, parameters=parameters)


class Dictionary(Model):
    """Answers with a dictionary of V2's shape."""

    def predict(self, payload, headers=None):
        array = payload.inputs[0].as_numpy()
        return {
            "model_name": self.name,
            "outputs": [
                {
                    "name": "twice",
                    "shape": list(array.shape),
                    "datatype": "FP32",
                    "data": (2 * array).ravel().tolist(),
                }
            ],
        }


class List(Model):
    """Answers with a list of rows."""

    def predict(self, payload, headers=None):
        return (2 * payload.inputs[0].as_numpy()).tolist()


class Array(Model):
    """Takes and answers with an array, for every protocol alike."""

    instances_dtype = "float32"

    def predict(self, payload, headers=None):
        return 2 * payload["instances"]


class Failing(Model):
    """Raises what its request names."""

    def predict(self, payload, headers=None):
        kind = payload.inputs[0].as_numpy().ravel()[0]
        raise {
            "input": InvalidInput("row 3 is too long"),
            "not ready": ModelNotReady("other"),
            "value": ValueError("cannot read the weights"),
            "later": NotImplementedError("later"),
        }[kind if isinstance(kind, str) else kind.decode()]


class NotReady(Model):
    """Never gets ready: load() forgets to say so."""

    def load(self):
        return None


if __name__ == "__main__":
    models = [
        Style("style"),
        AddSub("addsub"),
        Echo("echo"),
        Dictionary("dictionary"),
        List("list"),
        Array("array"),
        Failing("failing"),
    ]
    for model in models:
        model.load()
    ModelServer().start([*models, NotReady("not-ready")])
