"""KServe: a SavedModel by its TensorFlow 2 signature."""

import argparse
import os

import kserve
import tensorflow as tf


class SavedModel(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.model = tf.saved_model.load(os.environ["BENCH_FOLDER"])
        self.signature = self.model.signatures["serving_default"]
        (self.input,) = self.signature.structured_input_signature[1]
        (self.output,) = self.signature.structured_outputs
        self.ready = True

    def predict(self, payload, headers=None):
        rows = tf.constant(payload["instances"], dtype=tf.float32)
        return {"predictions": self.signature(**{self.input: rows})[self.output].numpy().tolist()}


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_args()
    kserve.ModelServer().start([SavedModel("model")])
