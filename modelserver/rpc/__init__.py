"""What is served over gRPC: V2's service, TensorFlow Serving's, and the standard health and reflection.

    server.py              the server's life, in one process; the port, which is reserved before
    calls.py               one call: who asks, its bytes, its deadline, its status; counted and logged
    statuses.py            errors -> gRPC's status codes
    inference_service.py   inference.GRPCInferenceService, which is V2's
    whole.py               a model's answer, which must be no stream
    prediction_service.py  tensorflow.serving.PredictionService
    model_service.py       tensorflow.serving.ModelService
    health.py              grpc.health.v1.Health
    reflection.py          grpc.reflection.v1.ServerReflection, and v1alpha

Rules of the room: messages in, messages out; the work is the dataplane's, the messages are ``protocols``'.
Only this package imports ``grpc``, and only in the process that serves: a gRPC runtime does not survive a
fork. ``server`` can be imported without it.
"""
