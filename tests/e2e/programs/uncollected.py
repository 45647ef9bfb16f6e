"""The models of ``infer``, in a process whose garbage collector never comes."""

import gc

import infer

from modelserver import InvalidInput, Model, ModelServer


class Refuses(Model):
    """Fails on any request."""

    def predict(self, payload):
        raise InvalidInput("no")


if __name__ == "__main__":
    gc.disable()
    ModelServer(http_port=0, workers=1, max_buffer_size=256 << 20).start(
        [infer.Echo("echo"), infer.Sum("sum"), Refuses("refuses")]
    )
