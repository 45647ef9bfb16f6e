"""Models that take the rows of several requests in one call."""

import time

import modelserver


class Squares(modelserver.Model):
    """Says beside each square how many rows shared its call; a call is long enough for rows to gather."""

    max_batch_size = 8

    def postprocess(self, response, headers, response_headers):
        response_headers["x-tag"] = headers.get("x-tag", "")
        return response

    def predict(self, payload):
        rows = payload["instances"]
        time.sleep(0.05)
        if "poison" in rows:
            raise modelserver.InvalidInput("poison")
        return {"predictions": [[row * row, len(rows)] for row in rows]}


class Sums(Squares):
    """Wrong: one prediction for all rows."""

    def predict(self, payload):
        time.sleep(0.05)
        return {"predictions": [sum(payload["instances"])]}


class WithHeaders(Squares):
    """Takes headers, which belong to one request: not joined."""

    def predict(self, payload, headers):
        return super().predict(payload)


if __name__ == "__main__":
    modelserver.ModelServer().start([Squares("squares"), Sums("sums"), WithHeaders("headers")])
