"""The messages of the Open Inference Protocol (V2), package ``inference``.

Rules of the room: names, numbers and types as they are in the ``.proto`` files of KServe 0.21 and of Triton;
``tests/unit/protocols/test_v2_messages.py`` compares every field with those of the real clients. Where they
differ, fields of both are there: KServe's request to load a model has its name in field 1, and Triton's in
field 2, behind the name of a repository. Left out is what only Triton's own server does: shared memory,
traces, statistics.
"""

from __future__ import annotations

from modelserver.protocols.protobuf import define

_PARAMETERS = "map<string, InferParameter>"
_TENSOR = {
    "name": (1, "string"),
    "datatype": (2, "string"),
    "shape": (3, "repeated int64"),
    "parameters": (4, _PARAMETERS),
    "contents": (5, "InferTensorContents"),
}
_REPOSITORY_MODEL = {
    "repository_name": (1, "string"),  # KServe's model_name
    "model_name": (2, "string"),
    "parameters": (3, "map<string, ModelRepositoryParameter>"),
}

_inference = define(
    "inference",
    {
        "ServerLiveRequest": {},
        "ServerLiveResponse": {"live": (1, "bool")},
        "ServerReadyRequest": {},
        "ServerReadyResponse": {"ready": (1, "bool")},
        "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
        "ModelReadyResponse": {"ready": (1, "bool")},
        "ServerMetadataRequest": {},
        "ServerMetadataResponse": {
            "name": (1, "string"),
            "version": (2, "string"),
            "extensions": (3, "repeated string"),
        },
        "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
        "ModelMetadataResponse": {
            "name": (1, "string"),
            "versions": (2, "repeated string"),
            "platform": (3, "string"),
            "inputs": (4, "repeated TensorMetadata"),
            "outputs": (5, "repeated TensorMetadata"),
        },
        "ModelMetadataResponse.TensorMetadata": {
            "name": (1, "string"),
            "datatype": (2, "string"),
            "shape": (3, "repeated int64"),
        },
        "ModelInferRequest": {
            "model_name": (1, "string"),
            "model_version": (2, "string"),
            "id": (3, "string"),
            "parameters": (4, _PARAMETERS),
            "inputs": (5, "repeated InferInputTensor"),
            "outputs": (6, "repeated InferRequestedOutputTensor"),
            "raw_input_contents": (7, "repeated bytes"),
        },
        "ModelInferRequest.InferInputTensor": _TENSOR,
        "ModelInferRequest.InferRequestedOutputTensor": {
            "name": (1, "string"),
            "parameters": (2, _PARAMETERS),
        },
        "ModelInferResponse": {
            "model_name": (1, "string"),
            "model_version": (2, "string"),
            "id": (3, "string"),
            "parameters": (4, _PARAMETERS),
            "outputs": (5, "repeated InferOutputTensor"),
            "raw_output_contents": (6, "repeated bytes"),
        },
        "ModelInferResponse.InferOutputTensor": _TENSOR,
        "InferParameter": {
            "parameter_choice": {
                "bool_param": (1, "bool"),
                "int64_param": (2, "int64"),
                "string_param": (3, "string"),
                "double_param": (4, "double"),
                "uint64_param": (5, "uint64"),
            }
        },
        "InferTensorContents": {
            "bool_contents": (1, "repeated bool"),
            "int_contents": (2, "repeated int32"),
            "int64_contents": (3, "repeated int64"),
            "uint_contents": (4, "repeated uint32"),
            "uint64_contents": (5, "repeated uint64"),
            "fp32_contents": (6, "repeated float"),
            "fp64_contents": (7, "repeated double"),
            "bytes_contents": (8, "repeated bytes"),
        },
        "ModelRepositoryParameter": {
            "parameter_choice": {
                "bool_param": (1, "bool"),
                "int64_param": (2, "int64"),
                "string_param": (3, "string"),
                "bytes_param": (4, "bytes"),
            }
        },
        "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
        "RepositoryIndexResponse": {"models": (1, "repeated ModelIndex")},
        "RepositoryIndexResponse.ModelIndex": {
            "name": (1, "string"),
            "version": (2, "string"),
            "state": (3, "string"),
            "reason": (4, "string"),
        },
        "RepositoryModelLoadRequest": _REPOSITORY_MODEL,
        "RepositoryModelLoadResponse": {"model_name": (1, "string"), "isLoaded": (2, "bool")},
        "RepositoryModelUnloadRequest": _REPOSITORY_MODEL,
        "RepositoryModelUnloadResponse": {"model_name": (1, "string"), "isUnloaded": (2, "bool")},
    },
    services={
        "GRPCInferenceService": {
            name: (f"{name}Request", f"{name}Response")
            for name in (
                *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
                *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
            )
        }
    },
)

ServerLiveRequest = _inference["ServerLiveRequest"]
ServerLiveResponse = _inference["ServerLiveResponse"]
ServerReadyRequest = _inference["ServerReadyRequest"]
ServerReadyResponse = _inference["ServerReadyResponse"]
ModelReadyRequest = _inference["ModelReadyRequest"]
ModelReadyResponse = _inference["ModelReadyResponse"]
ServerMetadataRequest = _inference["ServerMetadataRequest"]
ServerMetadataResponse = _inference["ServerMetadataResponse"]
ModelMetadataRequest = _inference["ModelMetadataRequest"]
ModelMetadataResponse = _inference["ModelMetadataResponse"]
ModelInferRequest = _inference["ModelInferRequest"]
ModelInferResponse = _inference["ModelInferResponse"]
InferParameter = _inference["InferParameter"]
InferTensorContents = _inference["InferTensorContents"]
RepositoryIndexRequest = _inference["RepositoryIndexRequest"]
RepositoryIndexResponse = _inference["RepositoryIndexResponse"]
RepositoryModelLoadRequest = _inference["RepositoryModelLoadRequest"]
RepositoryModelLoadResponse = _inference["RepositoryModelLoadResponse"]
RepositoryModelUnloadRequest = _inference["RepositoryModelUnloadRequest"]
RepositoryModelUnloadResponse = _inference["RepositoryModelUnloadResponse"]
