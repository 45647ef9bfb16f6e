"""modelserver: put a trained model behind HTTP.

Three ways in: ``python -m modelserver model.tgz``; a ``Model`` subclass and
``ModelServer(workers=N).start([model])``; a container built from one of the project's images. A KServe 0.8
program changes one line: ``import modelserver as kserve``.

Names are imported when they are first used, so that ``import modelserver`` costs milliseconds and does
nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "client.calls",
    "ArchiveError": "errors",
    "AsyncClient": "client.asynchronous",
    "BatchingParameters": "predictor",
    "CallFailed": "client.failures",
    "CallTimeout": "client.failures",
    "Client": "client.blocking",
    "ClientError": "client.failures",
    "HookNotImplemented": "errors",
    "InferenceError": "errors",
    "InvalidInput": "errors",
    "LoggedCall": "tensorflow_serving.warm_up_log",
    "Model": "model",
    "ModelFolder": "repository.versions",
    "ModelLoadError": "errors",
    "ModelNotFound": "errors",
    "ModelNotReady": "errors",
    "ModelOverloaded": "errors",
    "ModelTimeout": "errors",
    "ModelRepository": "repository.model_repository",
    "ModelServer": "model_server",
    "ModelServerError": "errors",
    "ModelType": "model",
    "NoModelReady": "errors",
    "PayloadTooLarge": "errors",
    "Predictor": "predictor",
    "ServerNotLive": "errors",
    "ServerNotReady": "errors",
    "ServerOverloaded": "errors",
    "ServerUnreachable": "client.failures",
    "Settings": "settings",
    "StartError": "errors",
    "UnreadableAnswer": "client.failures",
    "UnsupportedMediaType": "errors",
    "UnsupportedProtocol": "errors",
    "TensorRequest": "messages",
    "TensorResponse": "messages",
    "VersionPolicy": "repository.versions",
    "array_from_json": "tensors",
    "batching_parameters": "tensorflow_serving.config_files",
    "InferInput": "infer_tensors",
    "InferOutput": "infer_tensors",
    "RequestedOutput": "infer_tensors",
    "InferRequest": "messages",
    "InferResponse": "messages",
    "generate_uuid": "messages",
    "get_predict_input": "payloads",
    "get_predict_response": "payloads",
    "errors": "",
    "logged_calls": "tensorflow_serving.warm_up_log",
    "model": "",
    "model_server": "",
    "parser": "model_server",
    "warm_up": "predictor",
}

__all__ = [
    "Answer",
    "ArchiveError",
    "AsyncClient",
    "BatchingParameters",
    "CallFailed",
    "CallTimeout",
    "Client",
    "ClientError",
    "HookNotImplemented",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InvalidInput",
    "LoggedCall",
    "Model",
    "ModelFolder",
    "ModelLoadError",
    "ModelNotFound",
    "ModelNotReady",
    "ModelOverloaded",
    "ModelRepository",
    "ModelServer",
    "ModelServerError",
    "ModelTimeout",
    "ModelType",
    "NoModelReady",
    "PayloadTooLarge",
    "Predictor",
    "RequestedOutput",
    "ServerNotLive",
    "ServerNotReady",
    "ServerOverloaded",
    "ServerUnreachable",
    "Settings",
    "StartError",
    "TensorRequest",
    "TensorResponse",
    "UnreadableAnswer",
    "UnsupportedMediaType",
    "UnsupportedProtocol",
    "VersionPolicy",
    "__version__",
    "array_from_json",
    "batching_parameters",
    "errors",
    "generate_uuid",
    "get_predict_input",
    "get_predict_response",
    "logged_calls",
    "model",
    "model_server",
    "parser",
    "warm_up",
]

if TYPE_CHECKING:
    import argparse

    from modelserver import errors, model, model_server
    from modelserver.client.asynchronous import AsyncClient
    from modelserver.client.blocking import Client
    from modelserver.client.calls import Answer
    from modelserver.client.failures import (
        CallFailed,
        CallTimeout,
        ClientError,
        ServerUnreachable,
        UnreadableAnswer,
    )
    from modelserver.errors import (
        ArchiveError,
        HookNotImplemented,
        InferenceError,
        InvalidInput,
        ModelLoadError,
        ModelNotFound,
        ModelNotReady,
        ModelOverloaded,
        ModelServerError,
        ModelTimeout,
        NoModelReady,
        PayloadTooLarge,
        ServerNotLive,
        ServerNotReady,
        ServerOverloaded,
        StartError,
        UnsupportedMediaType,
        UnsupportedProtocol,
    )
    from modelserver.infer_tensors import InferInput, InferOutput, RequestedOutput
    from modelserver.messages import (
        InferRequest,
        InferResponse,
        TensorRequest,
        TensorResponse,
        generate_uuid,
    )
    from modelserver.model import Model, ModelType
    from modelserver.model_server import ModelServer
    from modelserver.payloads import get_predict_input, get_predict_response
    from modelserver.predictor import BatchingParameters, Predictor, warm_up
    from modelserver.repository.model_repository import ModelRepository
    from modelserver.repository.versions import ModelFolder, VersionPolicy
    from modelserver.settings import Settings
    from modelserver.tensorflow_serving.config_files import batching_parameters
    from modelserver.tensorflow_serving.warm_up_log import LoggedCall, logged_calls
    from modelserver.tensors import array_from_json

    parser: argparse.ArgumentParser


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'modelserver' has no attribute {name!r}")
    module = importlib.import_module(f"modelserver.{home or name}")
    value = getattr(module, name) if home else module
    if name != "parser":  # that is another one each time
        globals()[name] = value  # to come here costs 2 us, and hooks write `modelserver.InferResponse`
    return value


def __dir__() -> list[str]:
    return __all__
