"""Models of V1 behind gRPC: what they get and what they answer. FOLDER is where `wait` looks and tells."""

import asyncio
import os
import time
from pathlib import Path

from modelserver import InvalidInput, Model, ModelServer

FOLDER = Path(os.environ.get("FOLDER", "."))


class Seen(Model):
    """Answers with what it got, as text."""

    def predict(self, payload, headers):
        rows = payload["instances"]
        self.last = f"{type(rows).__name__} {getattr(rows, 'dtype', '')} {payload}"
        return {
            "predictions": [self.last, headers.get("x-tenant", ""), "key" if "x-api-key" in headers else ""]
        }

    def classify(self, payload):
        return {"results": [[[str(sorted(example.items())), 0.5]] for example in payload["examples"]]}


class Named(Model):
    """Two outputs, and one by its own name."""

    def get_output_types(self):
        return [{"name": "total", "datatype": "FP64", "shape": [-1]}]

    def predict(self, payload):
        rows = payload["instances"]
        if "signature_name" in payload:
            return {"predictions": [{"low": min(row), "high": max(row)} for row in rows.tolist()]}
        return {"predictions": rows.sum(axis=1)}


class Failing(Model):
    """Fails as the instance says."""

    def predict(self, payload):
        kind = payload["instances"][0]
        if kind == "input":
            raise InvalidInput("é" * 2000)
        if kind == "ragged":
            return {"predictions": [[1], [1, 2]]}
        if kind == "cancelled":
            raise asyncio.CancelledError
        if kind == "exit":
            raise SystemExit(3)
        raise ValueError("cannot read /srv/secret/weights.pt")


class Wait(Model):
    """Answers when there is a file called `go`, and tells how many calls it has and how many were dropped."""

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
        return {"predictions": [os.getpid()]}


class Hold(Model):
    """Takes 20 ms."""

    def predict(self, payload):
        time.sleep(0.02)
        return {"predictions": [os.getpid()]}


if __name__ == "__main__":
    models = [Seen("seen"), Named("named"), Failing("failing"), Wait("wait"), Hold("hold")]
    ModelServer(enable_grpc=True, grpc_port=0).start(models)
