"""One program for both servers. V2 tensors in; one number for each row out (`model`), or the tensor (`echo`).

BENCH_LIBRARY: what is imported as `kserve`, the real one or modelserver. The hooks are coroutines, as they
compute next to nothing: both servers run them on the event loop.
"""

import argparse
import importlib
import os

kserve = importlib.import_module(os.environ["BENCH_LIBRARY"])


def answer(model, request, name, array):
    output = kserve.InferOutput(name=name, shape=list(array.shape), datatype="FP32")
    output.set_data_from_numpy(array)
    return kserve.InferResponse(
        request.id or "1",
        model.name,
        [output],
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


class Means(kserve.Model):
    async def predict(self, payload, headers=None):
        array = payload.inputs[0].as_numpy()
        return answer(self, payload, "means", array.reshape(len(array), -1).mean(axis=1))


class Echo(kserve.Model):
    async def predict(self, payload, headers=None):
        return answer(self, payload, "again", payload.inputs[0].as_numpy())


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
    models = [Means("model"), Echo("echo")]
    for model in models:
        model.ready = True
    kserve.ModelServer().start(models)
