"""The load of one tritonclient, as in a program of its users; prints the same line of JSON as `load.py`.

The request is taken apart and made again by tritonclient for each call. Runs in .venv-clients.

    python benchmarks/load_tritonclient.py http|grpc PORT SECONDS BODY_FILE JSON_LENGTH
"""

import json
import sys
import time
from pathlib import Path

import numpy as np


def http_calls(port, body, length):
    import tritonclient.http as triton

    (tensor,) = json.loads(body[:length])["inputs"]
    array = np.frombuffer(body[length:], np.float32).reshape(tensor["shape"])
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=30)
    outputs = [triton.InferRequestedOutput("means", binary_data=True)]

    def call():
        made = triton.InferInput(tensor["name"], tensor["shape"], "FP32").set_data_from_numpy(array)
        # Without an id KServe 0.21 answers 500: it wants one in the answer.
        return client.infer("model", [made], outputs=outputs, request_id="1").as_numpy("means")

    return array, call


def grpc_calls(port, body):
    import tritonclient.grpc as triton
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest.FromString(body[5:])
    (tensor,) = request.inputs
    shape = list(tensor.shape)
    array = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape)
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def call():
        made = triton.InferInput(tensor.name, shape, "FP32").set_data_from_numpy(array)
        return client.infer("model", [made], request_id="1").as_numpy("means")

    return array, call


def main():
    protocol, port, seconds, file, length = sys.argv[1:]
    body = Path(file).read_bytes()
    array, call = grpc_calls(port, body) if protocol == "grpc" else http_calls(port, body, int(length))
    expected = array.reshape(len(array), -1).mean(axis=1)
    assert np.allclose(call(), expected, atol=1e-4)  # and the connection is there
    latencies = []
    started = before = time.perf_counter()
    while before < started + float(seconds):
        got = call()
        now = time.perf_counter()
        latencies.append(now - before)
        before = now
    assert np.allclose(got, expected, atol=1e-4)
    elapsed = before - started
    latencies.sort()
    print(
        json.dumps(
            {
                "requests": len(latencies),
                "seconds": elapsed,
                "not_ok": 0,  # an error raises
                "lost": 0,
                "p50_ms": latencies[len(latencies) // 2] * 1000,
                "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
            }
        )
    )


if __name__ == "__main__":
    main()
