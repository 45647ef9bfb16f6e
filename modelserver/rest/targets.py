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

_PREFIX = "/v1/models/"
_VERBS = {kind.verb: kind for kind in ModelType}
_NUMBER = re.compile(r"[0-9]{1,40}")


class Target(NamedTuple):
    """What the URL of a request for a model names."""

    model_name: str
    model_type: ModelType
    version: int | str | None = None
    """A number or a label; ``None``: the newest."""


@lru_cache(maxsize=1024)
def inference_target(method: str, path: str) -> Target | None:
    """Model, verb and version, if this is a call of a hot verb.

    >>> inference_target("POST", "/v1/models/iris:predict")
    Target(model_name='iris', model_type=<ModelType.PREDICTOR: 2>, version=None)
    >>> inference_target("POST", "/v1/models/iris/versions/0012:classify")
    Target(model_name='iris', model_type=<ModelType.CLASSIFIER: 3>, version=12)
    >>> inference_target("POST", "/v1/models/iris/labels/stable:predict").version
    'stable'
    >>> inference_target("GET", "/v1/models/iris:predict")
    """
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


def _version(kind: str, text: str) -> int | str | None:
    """The version that the end of a path names: ``versions/12`` or ``labels/stable``."""
    if kind == "labels":
        return text or None
    if kind != "versions" or not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= LARGEST_VERSION else None
