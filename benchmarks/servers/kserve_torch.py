"""KServe: JSON rows to a PyTorch network. Also takes V2's binary tensors and plain bytes."""

import argparse
import os

import kserve
import network
import numpy as np
import torch
from kserve import InferOutput, InferRequest, InferResponse


class TorchModel(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.network = network.load(os.environ["BENCH_FOLDER"])
        self.ready = True

    @torch.inference_mode()
    def predict(self, payload, headers=None):
        if isinstance(payload, InferRequest):
            return self.answer_v2(payload)
        if isinstance(payload, bytes):  # not a tensor to KServe: the shape is known here only
            images = np.frombuffer(payload, dtype=np.float32).reshape(-1, 224, 224, 3)
            return {"predictions": self.network(torch.from_numpy(images)).tolist()}
        return {"predictions": self.network(network.rows_of(payload["instances"])).tolist()}

    def answer_v2(self, request):
        output = self.network(torch.from_numpy(request.inputs[0].as_numpy())).numpy()
        answer = InferOutput(name="predictions", shape=list(output.shape), datatype="FP32")
        answer.set_data_from_numpy(output, binary_data=False)
        return InferResponse(request.id or "1", self.name, [answer])


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_args()
    kserve.ModelServer().start([TorchModel("model")])
