"""LitServe: JSON rows to a PyTorch network."""

import os
import sys

import litserve
import network
import torch


class TorchAPI(litserve.LitAPI):
    def setup(self, device):
        self.network = network.load(os.environ["BENCH_FOLDER"])

    def decode_request(self, request):
        return network.rows_of(request["instances"])

    @torch.inference_mode()
    def predict(self, rows):
        return self.network(rows)

    def encode_response(self, output):
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    workers = int(os.environ.get("BENCH_WORKERS", "1"))
    server = litserve.LitServer(TorchAPI(), accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False)
