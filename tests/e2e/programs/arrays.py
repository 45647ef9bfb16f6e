"""Models that take rows as one array: say what reached them."""

import modelserver


def described(rows):
    return {
        "type": type(rows).__name__,
        "dtype": str(getattr(rows, "dtype", "")),
        "sum": float(sum(map(sum, rows))),
    }


class Rows(modelserver.Model):
    instances_dtype = "float32"

    def predict(self, payload):
        return described(payload["instances"])


class Batched(modelserver.Model):
    instances_dtype = "float32"
    max_batch_size = 64

    def predict(self, payload):
        return {"predictions": payload["instances"].sum(axis=1)}


class Plain(modelserver.Model):
    def predict(self, payload):
        return described(payload["instances"])


if __name__ == "__main__":
    modelserver.ModelServer().start([Rows("rows"), Batched("batched"), Plain("plain")])
