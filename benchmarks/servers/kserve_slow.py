"""KServe: a model whose every call takes 5 ms. KServe's own server joins no requests."""

import argparse
import time

import kserve


class Slow(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    def predict(self, payload, headers=None):
        time.sleep(0.005)
        return {"predictions": [2 * number for number in payload["instances"]]}


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_args()
    kserve.ModelServer().start([Slow("model")])
