"""KServe: a custom model that decodes JPEGs in its preprocess hook."""

import argparse

import kserve
import thumbnail
import torch


class Thumbnails(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.network = thumbnail.build()
        self.ready = True

    def preprocess(self, payload, headers=None):
        return thumbnail.images_of(payload["instances"])

    @torch.inference_mode()
    def predict(self, images, headers=None):
        return {"predictions": self.network(images).tolist()}


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_args()
    kserve.ModelServer().start([Thumbnails("model")])
