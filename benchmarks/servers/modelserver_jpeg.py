"""modelserver: a custom model that decodes JPEGs in its preprocess hook."""

import thumbnail
import torch

import modelserver


class Thumbnails(modelserver.Model):
    def load(self):
        self.network = thumbnail.build()
        self.ready = True

    def preprocess(self, payload):
        return thumbnail.images_of(payload["instances"])

    @torch.inference_mode()
    def predict(self, images):
        return {"predictions": self.network(images).tolist()}


if __name__ == "__main__":
    modelserver.ModelServer().start([Thumbnails("model")])
