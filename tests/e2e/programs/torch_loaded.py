"""A PyTorch model that was loaded, and has used its thread pool, before start()."""

import os

import torch

import modelserver as kserve


class Loaded(kserve.Model):
    def load(self):
        torch.set_num_threads(2)
        self.net = torch.nn.Linear(4, 3)
        torch.nn.init.ones_(self.net.weight)
        torch.nn.init.zeros_(self.net.bias)
        torch.randn(1200, 1200) @ torch.randn(1200, 1200)  # starts the OpenMP pool of this thread
        self.ready = True

    def predict(self, request):
        with torch.inference_mode():
            torch.randn(1200, 1200) @ torch.randn(1200, 1200)
            rows = self.net(torch.tensor(request["instances"]))
        return {"predictions": rows.tolist(), "pid": os.getpid()}


class LoadedAsync(Loaded):
    """On the event loop's thread, which is the child's main thread."""

    async def predict(self, request):
        return super().predict(request)


if __name__ == "__main__":
    models = [Loaded("sync"), LoadedAsync("async")]
    for model in models:
        model.load()
    kserve.ModelServer(workers=2).start(models)
