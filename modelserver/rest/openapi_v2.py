"""The routes of the Open Inference Protocol (V2), described.

Rules of the room: as in ``openapi``.
"""

from __future__ import annotations

from modelserver.datatypes import DATATYPES
from modelserver.protocols.v2_rest import HEADER
from modelserver.rest.openapi_parts import (
    BYTES,
    JSON,
    OCTETS,
    STREAMS,
    TEXT,
    Part,
    answer,
    call,
    errors,
    in_path,
    items,
    page,
    record,
    ref,
)

_JSON_LENGTH: Part = {
    "description": "Bytes of JSON at the start of the body; the raw tensors follow. Without: all is JSON.",
    "schema": {"type": "integer", "minimum": 0},
}
_ID = {"type": "string", "description": "Comes back in the answer."}
_SHAPE = items({"type": "integer", "minimum": 0})
_VALUES = {"type": "array", "description": "The elements in row-major order, flat or nested."}
_TENSOR = {"name": {"type": "string", "minLength": 1}, "shape": _SHAPE, "datatype": ref("Datatype")}

SCHEMAS: dict[str, Part] = {
    "Datatype": {"type": "string", "enum": list(DATATYPES)},
    "Parameters": {
        "type": "object",
        "additionalProperties": {"type": ["string", "boolean", "number"]},
        "description": "binary_data_size of a tensor: its raw bytes are behind the JSON, in place of data. "
        "binary_data of an output, and binary_data_output of a request: answer so.",
    },
    "InputTensor": record("parameters", "data", **_TENSOR, parameters=ref("Parameters"), data=_VALUES),
    "OutputTensor": record("parameters", "data", **_TENSOR, parameters=ref("Parameters"), data=_VALUES),
    "RequestedOutput": record(
        "parameters", name={"type": "string", "minLength": 1}, parameters=ref("Parameters")
    ),
    "InferenceRequest": {
        **record(
            "id",
            "parameters",
            "outputs",
            id=_ID,
            parameters=ref("Parameters"),
            inputs=items(ref("InputTensor")),
            outputs={
                **items(ref("RequestedOutput")),
                "description": "Only these, in this order. Default: all.",
            },
        ),
        "examples": [
            {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [6.8, 2.8, 4.8, 1.4]}]}
        ],
    },
    "InferenceResponse": record(
        "model_version",
        "id",
        "parameters",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=ref("Parameters"),
        outputs=items(ref("OutputTensor")),
    ),
    "TensorMetadata": record(
        name=TEXT, datatype=TEXT, shape={**items({"type": "integer"}), "description": "-1: any size."}
    ),
    "IndexEntry": record(
        "version",
        "reason",
        name=TEXT,
        version=TEXT,
        state={"enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]},
        reason=TEXT,
    ),
}


def _infer(of: str) -> Part:
    infer = call(
        f"infer{f'_{of}' if of else ''}",
        "Ask a model, with tensors.",
        {JSON: {"schema": ref("InferenceRequest")}, OCTETS: {"schema": BYTES}},
        {
            "description": "Tensors; or what the model returned instead.",
            "headers": {HEADER: _JSON_LENGTH},
            "content": {
                JSON: {"schema": ref("InferenceResponse")},
                OCTETS: {"schema": BYTES},
                "text/plain": {"schema": TEXT},
                **STREAMS,
            },
        },
    )
    return {
        "post": {**infer, "parameters": [{"name": HEADER, "in": "header", "required": False, **_JSON_LENGTH}]}
    }


def _of_a_model(of: str = "") -> dict[str, Part]:
    """The paths of a model, or of one ``version`` or ``label`` of it."""
    path = "/v2/models/{model_name}" + (f"/{of}s/{{{of}}}" if of else "")
    suffix = f"_of_{of}" if of else ""
    metadata = record(
        name=TEXT,
        versions=items(TEXT),
        platform=TEXT,
        inputs=items(ref("TensorMetadata")),
        outputs=items(ref("TensorMetadata")),
    )
    ready = answer("It can.", record(name=TEXT, ready={"const": True}))
    paths = {
        path: page(
            f"v2_model_metadata{suffix}",
            "What a model takes and gives.",
            answer("Its inputs and outputs, as far as they are known.", metadata),
            *("404", "500", "501"),
        ),
        f"{path}/ready": page(
            f"v2_model_ready{suffix}", "Whether a model can take requests.", ready, "404", "500", "501"
        ),
        f"{path}/infer": _infer(of),
    }
    return {each: {**item, "parameters": in_path("model_name", of)} for each, item in paths.items()}


def _repository_call(operation_id: str, summary: str, body: Part, found: Part, *statuses: str) -> Part:
    failed = errors("405", "408", "413", "431", "503", *statuses)
    return {
        "post": {
            "operationId": operation_id,
            "summary": summary,
            "requestBody": {"required": False, "content": {JSON: {"schema": body}}},
            "responses": {"200": found, **failed},
        }
    }


def _order(word: str, summary: str) -> Part:
    """What only an administrator may ask for."""
    done = answer("It is done, in all workers.", record(name=TEXT, **{word: {"const": True}}))
    body = record("parameters", parameters={"type": "object"})
    call = _repository_call(f"v2_{word}", summary, body, done, "403", "404", "415", "500", "501")
    call["post"]["security"] = [{"admin_token": []}]
    return {**call, "parameters": in_path("model_name")}


PATHS: dict[str, Part] = {
    "/v2": page(
        "v2_server_metadata",
        "Who answers.",
        answer("It.", record(name=TEXT, version=TEXT, extensions=items(TEXT))),
    ),
    "/v2/health/live": page(
        "v2_live", "The process answers.", answer("It does.", record(live={"const": True}))
    ),
    "/v2/health/ready": page(
        "v2_ready",
        "Whether every model is ready in every worker.",
        answer("They are.", record(ready={"const": True})),
        *("500", "501"),
    ),
    "/v2/models": page(
        "v2_list_models", "The models, ready or not.", answer("Their names.", record(models=items(TEXT)))
    ),
    **_of_a_model(),
    **_of_a_model("version"),
    **_of_a_model("label"),
    "/v2/repository/index": _repository_call(
        "v2_index",
        "The models, their versions and states.",
        record("ready", ready={"type": "boolean", "description": "Only those that are ready."}),
        answer("They.", items(ref("IndexEntry"))),
    ),
}

ADMIN_PATHS: dict[str, Part] = {
    "/v2/repository/models/{model_name}/load": _order("load", "Load a model, or load it again."),
    "/v2/repository/models/{model_name}/unload": _order("unload", "Stop serving a model."),
}
"""Only where administrative calls are enabled."""

SECURITY_SCHEMES: dict[str, Part] = {"admin_token": {"type": "http", "scheme": "bearer"}}
