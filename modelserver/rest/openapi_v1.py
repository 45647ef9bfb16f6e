"""The routes of KServe's V1 protocol and TensorFlow Serving's, described.

Rules of the room: as in ``openapi``.
"""

from __future__ import annotations

from modelserver.rest.openapi_parts import (
    ANY_VALUE,
    BYTES,
    JSON,
    OCTETS,
    STREAMS,
    TEXT,
    Part,
    answer,
    call,
    in_path,
    items,
    page,
    record,
    ref,
)

_VERBS = {
    "predict": ("Ask a model.", "Request"),
    "explain": ("Ask a model why.", "Request"),
    "classify": ("Ask a TensorFlow model for the classes of examples.", "Examples"),
    "regress": ("Ask a TensorFlow model for the values of examples.", "Examples"),
}
_VERSIONS = items(ref("VersionStatus"))


def _verb(verb: str, of: str) -> Part:
    summary, schema = _VERBS[verb]
    body = {
        JSON: {"schema": ref(schema)},
        "application/x-npy": {"schema": BYTES},
        OCTETS: {"schema": BYTES},
    }
    answered = {
        "description": "What the model returned.",
        "content": {
            JSON: {"schema": ANY_VALUE},
            "text/plain": {"schema": TEXT},
            OCTETS: {"schema": BYTES},
            **STREAMS,
        },
    }
    return {"post": call(f"{verb}{f'_{of}' if of else ''}", summary, body, answered)}


def _of_a_model(of: str = "") -> dict[str, Part]:
    """The paths of a model, or of one ``version`` or ``label`` of it."""
    path = "/v1/models/{model_name}" + (f"/{of}s/{{{of}}}" if of else "")
    suffix = f"_of_{of}" if of else ""
    if of:
        status = answer("Whatever it is.", record(model_version_status=_VERSIONS))
    else:
        ready = record(name=TEXT, ready={"const": True}, model_version_status=_VERSIONS)
        status = answer("It can.", ready)
    described = record(model_spec={"type": "object"}, metadata={"type": "object"})
    metadata = answer("Inputs and outputs.", described)
    pages = {
        path: page(f"model_status{suffix}", "Whether a model can take requests.", status, "404"),
        f"{path}/metadata": page(
            f"model_metadata{suffix}", "The signatures of a model.", metadata, "404", "500"
        ),
    }
    verbs = {f"{path}:{verb}": _verb(verb, of) for verb in _VERBS}
    return {each: {**item, "parameters": in_path("model_name", of)} for each, item in (pages | verbs).items()}


PATHS: dict[str, Part] = {
    "/v1/models": page(
        "list_models", "The models, ready or not.", answer("Their names.", record(models=items(TEXT)))
    ),
    **_of_a_model(),
    **_of_a_model("version"),
    **_of_a_model("label"),
}

SCHEMAS: dict[str, Part] = {
    "VersionStatus": record(
        version=TEXT,
        state={"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
        status=record(error_code=TEXT, error_message=TEXT),
    ),
    "Examples": {
        "type": "object",
        "properties": {"examples": items({"type": "object"})},
        "additionalProperties": True,
    },
    "Request": {
        "type": "object",
        "properties": {"instances": {"type": "array", "description": "The rows."}},
        "additionalProperties": True,
        "examples": [{"instances": [[6.8, 2.8, 4.8, 1.4]]}],
    },
}
