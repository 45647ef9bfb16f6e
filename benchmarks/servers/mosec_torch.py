"""mosec: JSON rows to a PyTorch network. BENCH_BATCH: most requests in a call, 1: batching off."""

import os

import network
import torch
from mosec import Server, Worker

BATCH = int(os.environ.get("BENCH_BATCH", "1"))


class TorchWorker(Worker):
    def __init__(self):
        self.network = network.load(os.environ["BENCH_FOLDER"])

    @torch.inference_mode()
    def forward(self, data):
        if BATCH == 1:
            return {"predictions": self.network(network.rows_of(data["instances"])).tolist()}
        requests = [network.rows_of(request["instances"]) for request in data]
        answers = self.network(torch.cat(requests)).split([len(rows) for rows in requests])
        return [{"predictions": answer.tolist()} for answer in answers]


if __name__ == "__main__":
    server = Server()
    server.append_worker(TorchWorker, num=int(os.environ.get("BENCH_WORKERS", "1")), max_batch_size=BATCH)
    server.run()
