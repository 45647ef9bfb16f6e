"""What is served over gRPC: TensorFlow Serving's services, and the standard health service.

    server.py              the server's life, in one process; the port, which is reserved before
    calls.py               one call: who asks, its bytes, its deadline, its status; counted and logged
    statuses.py            errors -> gRPC's status codes
    prediction_service.py  tensorflow.serving.PredictionService
    model_service.py       tensorflow.serving.ModelService
    health.py              grpc.health.v1.Health

Rules of the room: messages in, messages out; the work is the dataplane's, the messages are ``protocols``'.
Only this package imports ``grpc``, and only in the process that serves: a gRPC runtime does not survive a
fork. ``server`` can be imported without it.
"""
