"""modelserver: a model whose every call takes 5 ms, whatever the batch. BENCH_BATCH: rows a call, 0: off."""

import os
import time

import modelserver


class Slow(modelserver.Model):
    max_batch_size = int(os.environ.get("BENCH_BATCH", "64"))

    def predict(self, payload):
        time.sleep(0.005)
        return {"predictions": [2 * number for number in payload["instances"]]}


if __name__ == "__main__":
    modelserver.ModelServer().start([Slow("model")])
