"""The real TensorFlow Serving client, tensorflow-serving-api, in a process of its own.

TensorFlow and its messages stay out of the process of the tests. ``Client`` runs the functions below in that
process; what they give and raise comes back as plain Python and numpy values.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 60.0
PROGRAMS = Path(__file__).parent / "e2e" / "programs"


class RpcError(Exception):
    """A call that did not end with OK.

    Args:
        code: the name of gRPC's status code.
        details: its text.
    """

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


class Client:
    """Runs functions of this module in another process, which lives until the block ends."""

    def __enter__(self) -> Client:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Its result."""
        return self.start(function, *args, **kwargs).result(3 * TIMEOUT_S)

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Its result, later."""
        return self._pool.submit(function, *args, **kwargs)


# -- in the other process


@cache
def _channel(target: str, certificate: bytes | None = None) -> Any:
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if certificate is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate), options)


def call(
    port: int,
    method: str,
    request: Any,
    *,
    timeout_s: float = TIMEOUT_S,
    metadata: Sequence[tuple[str, str]] = (),
    certificate: bytes | None = None,
) -> Any:
    """Call a method of either service by its name with a message, and return the answer's.

    Raises:
        RpcError: it did not end with OK.
    """
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    channel = _channel(f"localhost:{port}", certificate)
    stubs = (
        prediction_service_pb2_grpc.PredictionServiceStub(channel),
        model_service_pb2_grpc.ModelServiceStub(channel),
    )
    stub = next(stub for stub in stubs if hasattr(stub, method))
    try:
        return getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        raise RpcError(error.code().name, error.details()) from None


def _with_spec(message: Any, name: str, version: int | str | None = None, signature_name: str = "") -> Any:
    message.model_spec.name = name
    message.model_spec.signature_name = signature_name
    if isinstance(version, str):
        message.model_spec.version_label = version
    elif version is not None:
        message.model_spec.version.value = version
    return message


def _spec(message: Any) -> tuple[str, str, int]:
    return message.name, message.signature_name, message.version.value


def predict_request(name: str, inputs: Mapping[str, Any], outputs: Sequence[str] = (), **spec: Any) -> Any:
    """A ``PredictRequest`` as users make it: with ``make_tensor_proto``."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = _with_spec(predict_pb2.PredictRequest(output_filter=outputs), name, **spec)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def predict(
    port: int,
    name: str,
    inputs: Mapping[str, Any],
    outputs: Sequence[str] = (),
    *,
    how: Any = None,
    **spec: Any,
) -> tuple[dict[str, np.ndarray], tuple[str, str, int]]:
    """The outputs of a prediction, read with ``make_ndarray``; model's name, signature and version."""
    import tensorflow as tf

    answer = call(port, "Predict", predict_request(name, inputs, outputs, **spec), **(how or {}))
    return {key: tf.make_ndarray(value) for key, value in answer.outputs.items()}, _spec(answer.model_spec)


def _example(features: Mapping[str, Any]) -> Any:
    import tensorflow as tf

    example = tf.train.Example()
    for key, value in features.items():
        feature = example.features.feature[key]
        kinds = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}
        kinds[type(value)].value.append(value)
    return example


def _input(message: Any, examples: Sequence[Any], context: Mapping[str, Any] | None) -> Any:
    given = message.input
    if context is not None:
        given.example_list_with_context.context.CopyFrom(_example(context))
        given.example_list_with_context.examples.extend(map(_example, examples))
    elif examples:
        given.example_list.examples.extend(map(_example, examples))
    return message


def _classes(result: Any) -> list[Any]:
    return [[(each.label, each.score) for each in row.classes] for row in result.classifications]


def _values(result: Any) -> list[float]:
    return [each.value for each in result.regressions]


def classify(port: int, name: str, examples: Sequence[Any], context: Any = None, **spec: Any) -> Any:
    """Labels with scores for each example, and who answered."""
    from tensorflow_serving.apis import classification_pb2

    request = _input(classification_pb2.ClassificationRequest(), examples, context)
    answer = call(port, "Classify", _with_spec(request, name, **spec))
    return _classes(answer.result), _spec(answer.model_spec)


def regress(port: int, name: str, examples: Sequence[Any], context: Any = None, **spec: Any) -> Any:
    """A value for each example, and who answered."""
    from tensorflow_serving.apis import regression_pb2

    request = _input(regression_pb2.RegressionRequest(), examples, context)
    answer = call(port, "Regress", _with_spec(request, name, **spec))
    return _values(answer.result), _spec(answer.model_spec)


def multi_inference(port: int, tasks: Sequence[tuple[str, str, str]], examples: Sequence[Any]) -> Any:
    """For each task (model, signature, verb) its results, and who answered."""
    from tensorflow_serving.apis import inference_pb2

    request = _input(inference_pb2.MultiInferenceRequest(), examples, None)
    for name, signature_name, verb in tasks:
        task = _with_spec(request.tasks.add(), name, signature_name=signature_name)
        task.method_name = f"tensorflow/serving/{verb}"
    answer = call(port, "MultiInference", request)
    return [
        (
            _classes(result.classification_result)
            if result.HasField("classification_result")
            else _values(result.regression_result),
            _spec(result.model_spec),
        )
        for result in answer.results
    ]


def metadata(port: int, name: str, fields: Sequence[str] = ("signature_def",), **spec: Any) -> Any:
    """The signatures as JSON's values, and who answered."""
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    answer = call(port, "GetModelMetadata", _with_spec(request, name, **spec))
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    return json_format.MessageToDict(found)["signatureDef"], _spec(answer.model_spec)


def status(port: int, name: str, **spec: Any) -> list[tuple[int, str, str]]:
    """Version, state and error code of each version."""
    from tensorflow.core.protobuf import error_codes_pb2
    from tensorflow_serving.apis import get_model_status_pb2

    request = _with_spec(get_model_status_pb2.GetModelStatusRequest(), name, **spec)
    answer = call(port, "GetModelStatus", request)
    kind = get_model_status_pb2.ModelVersionStatus
    return [
        (each.version, kind.State.Name(each.state), error_codes_pb2.Code.Name(each.status.error_code))
        for each in answer.model_version_status
    ]


def reload(port: int, text: str) -> str:
    """Give the server a configuration, in text form; the code in the answer."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import error_codes_pb2
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    return error_codes_pb2.Code.Name(call(port, "HandleReloadConfigRequest", request).status.error_code)


def empty(port: int, method: str, kind: str) -> None:
    """A request without anything in it."""
    from tensorflow_serving import apis  # noqa: F401 - registers nothing by itself
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        predict_pb2,
        regression_pb2,
    )

    modules = (
        predict_pb2,
        classification_pb2,
        regression_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
    )
    call(port, method, next(getattr(each, kind) for each in modules if hasattr(each, kind))())


def raw(port: int, path: str, data: bytes) -> bytes:
    """Bytes for a method, and the bytes of its answer."""
    import grpc

    try:
        return _channel(f"localhost:{port}").unary_unary(path)(data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        raise RpcError(error.code().name, error.details()) from None


def cancelled(port: int, name: str, inputs: Mapping[str, Any], wait: Path) -> str:
    """Begin a prediction, and leave when the file is there. The code that the client sees."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(_channel(f"localhost:{port}"))
    future = stub.Predict.future(predict_request(name, inputs))
    _wait_for(wait)
    future.cancel()
    try:
        future.result()
    except (grpc.FutureCancelledError, grpc.RpcError):
        return future.code().name
    return "OK"


def at_once(port: int, name: str, inputs: Mapping[str, Any], count: int) -> list[str]:
    """So many predictions at the same time, each over a channel of its own; their codes."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = predict_request(name, inputs)
    channels = [grpc.insecure_channel(f"localhost:{port}", [("n", number)]) for number in range(count)]
    stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in channels]
    futures = [stub.Predict.future(request, timeout=TIMEOUT_S) for stub in stubs]
    codes = [future.code().name for future in futures if future.exception() or True]
    for channel in channels:
        channel.close()
    return codes


def until_gone(
    port: int, name: str, inputs: Mapping[str, Any], started: Path, threads: int = 4
) -> dict[str, int]:
    """Predictions without a pause on some threads, until the server takes no more. How often which code came.

    Args:
        port: of the server.
        name: of the model.
        inputs: of each.
        started: a file that is made when the first answers are there.
        threads: each has a channel of its own.
    """
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = predict_request(name, inputs)
    codes: dict[str, int] = {}
    lock = threading.Lock()

    def ask(number: int) -> None:
        with grpc.insecure_channel(f"localhost:{port}", [("n", number)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            code = "OK"
            while code == "OK":
                try:
                    stub.Predict(request, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    code = f"{error.code().name}: {error.details()}"
                with lock:
                    codes[code] = codes.get(code, 0) + 1
                    if codes[code] == 20 * threads:
                        started.touch()

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return codes


def _wait_for(path: Path) -> None:
    from harness import wait_until

    wait_until(path.exists, what=str(path))
