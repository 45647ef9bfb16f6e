"""A TensorFlow model that was loaded, and has computed, before start(): its runtime survives no fork."""

import os

import tensorflow as tf

import modelserver as kserve


class Loaded(kserve.Model):
    def load(self):
        self.weights = tf.Variable(tf.ones((4, 3)))
        self.net = tf.function(lambda rows: tf.matmul(rows, self.weights))
        self.net(tf.zeros((2, 4)))
        self.ready = True

    def predict(self, request):
        rows = self.net(tf.constant(request["instances"], tf.float32))
        return {"predictions": rows.numpy(), "pid": os.getpid()}


class LoadedSession(kserve.Model):
    def load(self):
        graph = tf.Graph()
        with graph.as_default():
            self.fed = tf.compat.v1.placeholder(tf.float32, (None, 4))
            self.fetched = tf.reduce_sum(self.fed, axis=1)
        self.session = tf.compat.v1.Session(graph=graph)
        self.session.run(self.fetched, {self.fed: [[1, 2, 3, 4]]})
        self.ready = True

    def predict(self, request):
        rows = self.session.run(self.fetched, {self.fed: request["instances"]})
        return {"predictions": rows, "pid": os.getpid()}


if __name__ == "__main__":
    kind = {"eager": Loaded, "session": LoadedSession}[os.environ["KIND"]]
    model = kind("model")
    model.load()
    kserve.ModelServer(workers=2).start([model])
