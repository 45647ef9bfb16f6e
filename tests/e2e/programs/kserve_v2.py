"""A program for KServe 0.21 and protocol V2, as its users write them: the tests run it on both servers.

What is imported as ``kserve`` is all that differs: see `tests/clients/test_drop_in.py`.
"""

import argparse
from typing import Any

import kserve
import numpy as np


def output(name: str, array: np.ndarray, datatype: str) -> kserve.InferOutput:
    made = kserve.InferOutput(name=name, shape=list(array.shape), datatype=datatype)
    made.set_data_from_numpy(array, binary_data=False)
    return made


class Scaler(kserve.Model):
    """Each hook does its part: an input by its name, numpy in the middle, an InferResponse at the end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = False
        self.load()

    def load(self) -> bool:
        self.mean = np.array([5.0, 3.0], np.float32)
        self.ready = True
        return self.ready

    async def get_input_types(self) -> list[dict]:
        return [{"name": "rows", "datatype": "FP32", "shape": [-1, 2]}]

    async def get_output_types(self) -> list[dict]:
        return [{"name": "scaled", "datatype": "FP32", "shape": [-1, 2]}]

    async def preprocess(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferRequest:
        rows = payload.get_input_by_name("rows")
        if rows is None:
            raise kserve.errors.InvalidInput("there is no input called rows")
        self.seen = (rows.name, rows.datatype, list(rows.shape), payload.model_name)
        return payload

    async def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        rows = payload.get_input_by_name("rows").as_numpy()
        scaled = (rows - self.mean).astype(np.float32)
        return kserve.InferResponse(payload.id, self.name, [output("scaled", scaled, "FP32")])

    async def postprocess(
        self, result: kserve.InferResponse, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        result.parameters = {"input": self.seen[0], "datatype": self.seen[1], "model": self.seen[3]}
        return result


class Frame(kserve.Model):
    """The inputs as columns of a pandas DataFrame."""

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        frame = payload.as_dataframe()
        totals = frame.groupby("city", sort=True)["amount"].sum()
        names = np.array(list(totals.index), dtype=object)
        return kserve.InferResponse(
            payload.id,
            self.name,
            [
                output("city", names, "BYTES"),
                output("total", totals.to_numpy(dtype=np.float64), "FP64"),
            ],
        )


class AddSub(kserve.Model):
    """Two inputs and two outputs."""

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        first, second = (each.as_numpy() for each in payload.inputs)
        return kserve.InferResponse(
            response_id=payload.id,
            model_name=self.name,
            infer_outputs=[
                output("sum", first + second, "INT32"),
                output("difference", first - second, "INT32"),
            ],
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


class Dictionary(kserve.Model):
    """Answers with a dictionary of V2's shape, or of V1's to a request of V1."""

    def predict(self, payload: Any, headers: dict[str, str] | None = None) -> dict:
        if isinstance(payload, dict):
            return {"predictions": [sum(row) for row in payload["instances"]]}
        rows = payload.inputs[0]
        sums = rows.as_numpy().sum(axis=1)
        return {
            "id": payload.id,
            "model_name": self.name,
            "model_version": "1",
            "outputs": [
                {"name": "sums", "shape": [len(sums)], "datatype": rows.datatype, "data": sums.tolist()}
            ],
        }


class Echo(kserve.Model):
    """Every input again as an output, and the parameters of the request."""

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        outputs = []
        for each in payload.inputs:
            made = kserve.InferOutput(
                each.name, list(each.shape), each.datatype, parameters={"rank": len(each.shape)}
            )
            made.set_data_from_numpy(each.as_numpy(), binary_data=False)
            outputs.append(made)
        return kserve.InferResponse(
            payload.id,
            self.name,
            outputs,
            parameters=payload.parameters,
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


class Built(kserve.Model):
    """Makes requests and answers of its own, as a transformer does, and says what is in them."""

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        array = np.arange(6, dtype=np.int64).reshape(2, 3)
        made = kserve.InferInput("x", [2, 3], "INT64")
        made.set_data_from_numpy(array, binary_data=False)
        request = kserve.InferRequest("other", [made], request_id="r1", parameters={"k": True})
        words = kserve.InferInput("w", [2], "BYTES", data=["a", "é"])
        texts = [
            request.model_name,
            request.id,
            request.get_input_by_name("x").datatype,
            str(request.get_input_by_name("x").shape),
            str(request.get_input_by_name("x").as_numpy().tolist()),
            str(request.get_input_by_name("y")),
            str(words.shape),
            str(payload.from_grpc),
            (headers or {}).get("x-tenant", "nobody"),
        ]
        return kserve.InferResponse(
            payload.id, self.name, [output("texts", np.array(texts, object), "BYTES")]
        )


class Failing(kserve.Model):
    """Raises what the first text of its request names."""

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None
    ) -> kserve.InferResponse:
        kind = payload.inputs[0].data[0]
        raise {
            "input": kserve.errors.InvalidInput("row 3 is too long"),
            "value": ValueError("bad value"),
            "not found": kserve.errors.ModelNotFound("other"),
            "not ready": kserve.errors.ModelNotReady("other"),
            "inference": kserve.errors.InferenceError("it broke"),
            "later": NotImplementedError("later"),
        }[kind]


def ready(model: kserve.Model) -> kserve.Model:
    model.ready = True
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.parse_known_args()
    others = {
        "frame": Frame,
        "addsub": AddSub,
        "dictionary": Dictionary,
        "echo": Echo,
        "built": Built,
        "failing": Failing,
    }
    models = [ready(model_class(name)) for name, model_class in others.items()]
    kserve.ModelServer().start([Scaler("scaler"), *models])
