"""The least that a gRPC server in Python costs: grpcio's own, on uvloop, with one answer that is ready.

    python bare_grpcio.py PORT

It reads no request and runs no model. What it uses is what grpcio itself takes for each call.
"""

import sys

import grpc
import numpy as np
import uvloop

from modelserver.protocols.v2_messages import ModelInferResponse

ROWS = np.array([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], np.float32)
ANSWER = ModelInferResponse(
    model_name="model",
    id="1",
    outputs=[{"name": "means", "datatype": "FP32", "shape": [2]}],
    raw_output_contents=[ROWS.mean(axis=1).tobytes()],
).SerializeToString()


async def answer(request, context):
    return ANSWER


async def main(port):
    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
