"""What the URL of a request for a model names: model, verb and version.

Rules of the room: string operations, since every request comes here; no handler and no model.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from modelserver.model import ModelType
from modelserver.repository.versions import LARGEST_VERSION

_PREFIX, _V2_PREFIX = "/v1/models/", "/v2/models/"
_VERBS = {kind.verb: kind for kind in ModelType}
_NUMBER = re.compile(r"[0-9]{1,40}")


class Target(NamedTuple):
    """What the URL of a request for a model names."""

    model_name: str
    model_type: ModelType
    version: int | str | None = None
    """A number or a label; ``None``: the newest."""
    is_v2: bool = False
    """Asked by the Open Inference Protocol."""


@lru_cache(maxsize=1024)
def inference_target(method: str, path: str) -> Target | None:
    """Model, verb and version, if this is a call of a hot verb.

    >>> inference_target("POST", "/v1/models/iris:predict")
    Target(model_name='iris', model_type=<ModelType.PREDICTOR: 2>, version=None, is_v2=False)
    >>> inference_target("POST", "/v1/models/iris/versions/0012:classify")
    Target(model_name='iris', model_type=<ModelType.CLASSIFIER: 3>, version=12, is_v2=False)
    >>> inference_target("POST", "/v1/models/iris/labels/stable:predict").version
    'stable'
    >>> inference_target("POST", "/v2/models/iris/versions/12/infer").is_v2
    True
    >>> inference_target("GET", "/v1/models/iris:predict")
    """
    if method == "POST" and path.startswith(_V2_PREFIX):
        return _v2_target(path[len(_V2_PREFIX) :].partition("?")[0])
    if method != "POST" or path[: len(_PREFIX)].lower() != _PREFIX:  # TensorFlow Serving takes /V1/Models
        return None
    rest = path[len(_PREFIX) :].partition("?")[0]
    if "/" in rest:
        rest, _, last = rest.rpartition("/")
        last, colon, verb = (unquote(last) if "%" in last else last).rpartition(":")
        name, _, kind = rest.rpartition("/")
        name = unquote(name)
        version = _version(kind.lower(), last)
        if "/" in name or version is None:
            return None
    else:
        # KServe's own client percent-encodes the colon.
        name, colon, verb = (unquote(rest) if "%" in rest else rest).rpartition(":")
        version = None
    model_type = _VERBS.get(verb)
    return Target(name, model_type, version) if colon and name and model_type is not None else None


def _v2_target(rest: str) -> Target | None:
    """``NAME/infer``, ``NAME/versions/12/infer`` or ``NAME/labels/stable/infer``."""
    parts = rest.split("/")
    if parts[-1] != "infer" or not parts[0]:
        return None
    if len(parts) == 2:
        return Target(unquote(parts[0]), ModelType.PREDICTOR, None, True)
    version = _version(parts[1], unquote(parts[2])) if len(parts) == 4 else None
    return None if version is None else Target(unquote(parts[0]), ModelType.PREDICTOR, version, True)


def _version(kind: str, text: str) -> int | str | None:
    """The version that the end of a path names: ``versions/12`` or ``labels/stable``."""
    if kind == "labels":
        return text or None
    if kind != "versions" or not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= LARGEST_VERSION else None
