"""Records of TensorFlow Serving's request log -> the calls in them, as the hooks of a model take them.

That is what its warm-up files hold: one ``PredictionLog`` for each request to replay.

Rules of the room: bytes in, requests out; reads no file and calls no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelserver.errors import InvalidInput
from modelserver.messages import TensorRequest
from modelserver.model import ModelType
from modelserver.protocols.examples import serialized
from modelserver.protocols.protobuf import WireError, parse
from modelserver.protocols.tensor_proto import to_array
from modelserver.protocols.tfs_messages import PredictionLog

_METHODS = {
    "tensorflow/serving/classify": ModelType.CLASSIFIER,
    "tensorflow/serving/regress": ModelType.REGRESSOR,
}


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call of a model."""

    model_type: ModelType
    """What is asked of it."""

    payload: Any
    """What the hook takes. ``predict``: a ``TensorRequest``. ``classify`` and ``regress``: a dictionary like
    that of JSON, with each example, and the context, as a serialized ``tf.train.Example``."""


def logged_calls(record: bytes) -> list[LoggedCall]:
    """The calls in one record. A multi-inference is one for each of its tasks; an empty record is none.

    Args:
        record: a serialized ``PredictionLog``.

    Raises:
        InvalidInput: it is none, or of a kind that names no signature, or a tensor in it is wrong.
    """
    try:
        log = parse(PredictionLog, record)
    except WireError as error:
        raise InvalidInput(f"The record is {error}") from error
    kind = log.WhichOneof("log_type")
    if kind is None:
        return []
    if kind == "session_run_log":
        raise InvalidInput("The record is a session_run_log, which names no signature")
    request = getattr(log, kind).request
    if kind == "predict_log":
        return [_prediction(request)]
    if kind == "predict_streamed_log":
        return [_prediction(each) for each in request]
    examples = serialized(request.input)
    if kind == "multi_inference_log":
        return [LoggedCall(_method(task), _signature(task) | examples) for task in request.tasks]
    model_type = ModelType.CLASSIFIER if kind == "classify_log" else ModelType.REGRESSOR
    return [LoggedCall(model_type, _signature(request) | examples)]


def _prediction(request: Any) -> LoggedCall:
    inputs = {name: to_array(tensor, name) for name, tensor in request.inputs.items()}
    return LoggedCall(
        ModelType.PREDICTOR,
        TensorRequest(inputs, request.model_spec.signature_name, tuple(request.output_filter)),
    )


def _signature(request: Any) -> dict[str, Any]:
    return {"signature_name": request.model_spec.signature_name}


def _method(task: Any) -> ModelType:
    try:
        return _METHODS[task.method_name]
    except KeyError:
        raise InvalidInput(
            f'A task of the multi-inference has the method_name "{task.method_name}", expected one of: '
            f"{', '.join(_METHODS)}"
        ) from None
