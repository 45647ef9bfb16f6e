"""mosec: a model whose every call takes 5 ms, whatever the batch. BENCH_BATCH: requests in a call, 1: off."""

import os
import time

from mosec import Server, Worker

BATCH = int(os.environ.get("BENCH_BATCH", "64"))


class Slow(Worker):
    def forward(self, data):
        time.sleep(0.005)
        if BATCH == 1:
            return {"predictions": [2 * number for number in data["instances"]]}
        return [{"predictions": [2 * number for number in request["instances"]]} for request in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Slow, max_batch_size=BATCH)  # max_wait_time: mosec's default, 10 ms
    server.run()
