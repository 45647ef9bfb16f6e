"""Tells how many threads torch uses where a model's hooks run."""

import os

import torch

import modelserver as kserve


class Threads(kserve.Model):
    def predict(self, request):
        return {"predictions": [torch.get_num_threads()], "omp": os.environ.get("OMP_NUM_THREADS")}


class ThreadsAsync(Threads):
    async def predict(self, request):
        return super().predict(request)


if __name__ == "__main__":
    torch.set_num_threads(4)
    kserve.ModelServer().start([Threads("sync"), ThreadsAsync("async")])
