"""LitServe: a model whose every call takes 5 ms, whatever the batch. BENCH_BATCH: requests a call, 1: off."""

import os
import sys
import time

import litserve

BATCH = int(os.environ.get("BENCH_BATCH", "64"))


class Slow(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["instances"]

    def batch(self, inputs):
        return inputs

    def predict(self, instances):
        time.sleep(0.005)
        if BATCH == 1:
            return [2 * number for number in instances]
        return [[2 * number for number in request] for request in instances]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"predictions": output}


if __name__ == "__main__":
    # LitServe collects for batch_timeout; as long as a call of the model takes is a usual choice
    api = Slow(max_batch_size=BATCH, batch_timeout=0.005 if BATCH > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False)
