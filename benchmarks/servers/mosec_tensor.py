"""mosec: a tensor as raw bytes."""

import os

import network
import numpy as np
import torch
from mosec import Server, Worker


class TensorWorker(Worker):
    def __init__(self):
        self.network = network.load(os.environ["BENCH_FOLDER"])

    def deserialize(self, data):
        # a copy: mosec's bytes are read-only, and torch warns of tensors that must not be written
        return np.frombuffer(data, dtype=np.float32).reshape(-1, 224, 224, 3).copy()

    @torch.inference_mode()
    def forward(self, images):
        return {"predictions": self.network(torch.from_numpy(images)).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(TensorWorker)
    server.run()
