"""Models that get V1 bodies of bytes, and say what reached them."""

import modelserver


def described(payload):
    if isinstance(payload, bytes):
        return {"bytes": len(payload)}
    rows = payload.get("instances", payload.get("inputs"))
    kind = getattr(rows, "dtype", type(rows).__name__)
    values = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(values, list):
        values = [value.hex() if isinstance(value, bytes) else value for value in values]
    return {"kind": str(kind), "values": values.hex() if isinstance(values, bytes) else values}


class Numbers(modelserver.Model):
    instances_dtype = "float32"
    datatype = "FP32"
    shape = (-1, 2)

    def get_input_types(self):
        return [{"name": "x", "datatype": self.datatype, "shape": list(self.shape)}]

    def predict(self, payload):
        return described(payload)

    explain = predict


class Open(Numbers):
    shape = (-1, -1)


class Pictures(Numbers):
    """Decodes them itself."""

    def preprocess(self, payload):
        return {"instances": [[float(len(payload)), 0.0]]} if isinstance(payload, bytes) else payload


class Texts(Numbers):
    instances_dtype = None
    takes_tensors = True
    datatype = "BYTES"
    shape = (-1,)


class Text(Texts):
    shape = ()


class Undeclared(Numbers):
    """Says what rows are, and not how long they are."""

    def get_input_types(self):
        return []


class Plain(Numbers):
    """Takes neither rows nor tensors: as in KServe, it gets the bytes."""

    instances_dtype = None


if __name__ == "__main__":
    kinds = (Numbers, Open, Pictures, Texts, Text, Undeclared, Plain)
    modelserver.ModelServer().start([kind(kind.__name__.lower()) for kind in kinds])
